"""What reads datasets opens every layout, and finds all of it as it was stored.

The gate has what is light; `make test-readers` installs the rest, and without it those tests are skipped.
"""

import csv
import json
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from readers import records
from readers.shelf import LABELS, SPLITS, Exported, Found, Shelf, every_size, every_split, pixels

from pixcrawler_worker.domain.labels import class_folder
from pixcrawler_worker.domain.tables import COLUMNS, NUMBERS

# Readers warn about what they use themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

SLUGS = {class_folder(label): label for label in LABELS}


def lines(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Rows of JSON, each with the file that has it."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield path, json.loads(line)


# Unpackers


@pytest.mark.parametrize("layout", ["imagefolder", "flat", "yolo", "coco", "label_studio", "parquet", "tfrecord"])
@every_size
def test_unzip_finds_no_fault(shelf: Shelf, layout: str, *, parts: bool) -> None:
    program = shutil.which("unzip") or pytest.skip("there is no unzip")
    for path in shelf.export(layout, split=True, parts=parts).archives:
        completed = subprocess.run([program, "-t", path], capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stdout
        assert "No errors detected" in completed.stdout
        with zipfile.ZipFile(path) as opened:
            assert opened.testzip() is None


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
@pytest.mark.parametrize("layout", ["webdataset", "imagefolder"])
def test_tar_and_bsdtar_list_what_tarfile_does(shelf: Shelf, layout: str, program: str) -> None:
    command = shutil.which(program) or pytest.skip(f"there is no {program}")
    for path in shelf.export(layout, split=True, format_="tar").archives:
        completed = subprocess.run([command, "-tf", path], capture_output=True, text=True, check=True)
        assert completed.stderr == ""
        with tarfile.open(path) as opened:
            assert completed.stdout.splitlines() == opened.getnames()


@pytest.mark.parametrize("layout", ["imagefolder", "flat"])
@every_split
@every_size
def test_the_metadata_leads_to_every_image(shelf: Shelf, layout: str, *, split: bool, parts: bool) -> None:
    one = shelf.export(layout, split=split, parts=parts)
    rows = [(path.parent / row["file_name"], row) for path, row in lines(one.folder.rglob("metadata.jsonl"))]
    assert {tuple(row) for _, row in rows} == {COLUMNS}
    shelf.assert_all(
        Found(
            stem=path.stem, label=row["label"], split=row["split"] if split else None, body=path.read_bytes(), row=row
        )
        for path, row in rows
    )


def test_the_table_is_read_as_it_was_written(shelf: Shelf) -> None:
    one = shelf.export("table", format_="csv")
    with one.archives[0].open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = [
            {name: int(cell) if name in NUMBERS else cell for name, cell in row.items()} for row in csv.DictReader(file)
        ]
    shelf.assert_all(Found(stem=row["sha256"], label=row["label"], row=row) for row in rows)


# pyarrow


@every_split
@every_size
def test_pyarrow_opens_parquet(shelf: Shelf, *, split: bool, parts: bool) -> None:
    one = shelf.export("parquet", split=split, parts=parts)
    paths = sorted((one.folder / "data").iterdir())
    assert len({parquet.read_schema(path) for path in paths}) == 1
    shelf.assert_all(
        Found(
            stem=Path(row["file_name"]).stem,
            label=row["label"],
            split=path.name.split("-")[0] if split else None,
            body=row["image"]["bytes"],
            row=row,
        )
        for path in paths
        for row in parquet.read_table(path).to_pylist()
    )


# webdataset


@every_split
@every_size
def test_webdataset_streams_shards(shelf: Shelf, *, split: bool, parts: bool) -> None:
    webdataset = pytest.importorskip("webdataset")
    one = shelf.export("webdataset", split=split, parts=parts, format_="tar")
    images = []
    for name in one.splits:
        urls = [str(path) for path in one.archives if path.name.startswith(f"{name}-")]
        for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("pil"):
            assert {key for key in sample if key[:2] != "__"} == {"jpg", "cls", "json"}
            assert sample["cls"] == sorted(LABELS).index(sample["json"]["label"])
            images.append(
                Found(
                    stem=sample["__key__"],
                    label=sample["json"]["label"],
                    split=name if split else None,
                    pixels=pixels(sample["jpg"]),
                    row=sample["json"],
                )
            )
    shelf.assert_all(images, copies=False)


# torchvision and Ultralytics


def in_folders(data: Any, split: str | None) -> Iterator[Found]:
    """What a torchvision dataset of folders has."""
    for at, (path, number) in enumerate(data.samples):
        image, again = data[at]
        assert again == number
        yield Found(
            stem=Path(path).stem,
            label=SLUGS[data.classes[number]],
            split=split,
            body=Path(path).read_bytes(),
            pixels=pixels(image),
        )


@pytest.mark.parametrize("layout", ["imagefolder", "yolo"])
@every_split
@every_size
def test_torchvision_opens_folders(shelf: Shelf, layout: str, *, split: bool, parts: bool) -> None:
    torchvision = pytest.importorskip("torchvision")
    split = split or layout == "yolo"
    one = shelf.export(layout, split=split, parts=parts)
    roots = {name: one.folder / name for name in SPLITS} if split else {None: one.folder}
    more = {"allow_empty": True} if layout == "yolo" else {}
    images: list[Found] = []
    for name, root in roots.items():
        images += in_folders(torchvision.datasets.ImageFolder(root, **more), name)
    shelf.assert_all(images)


@every_size
def test_torch_loads_batches_of_folders(shelf: Shelf, *, parts: bool) -> None:
    data = pytest.importorskip("torch.utils.data")
    torchvision = pytest.importorskip("torchvision")
    one = shelf.export("imagefolder", parts=parts)
    folder = torchvision.datasets.ImageFolder(one.folder, transform=torchvision.transforms.ToTensor())
    counts: Counter[str] = Counter()
    for batch, numbers in data.DataLoader(folder, batch_size=10, shuffle=True):
        assert batch.shape == (len(numbers), 3, 72, 96)
        counts.update(SLUGS[folder.classes[number]] for number in numbers.tolist())
    assert counts == Counter(one.label for one in shelf.stored.values())


@every_size
def test_ultralytics_opens_folders(
    shelf: Shelf,
    *,
    parts: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    pytest.importorskip("ultralytics")
    cfg = pytest.importorskip("ultralytics.cfg")
    dataset = pytest.importorskip("ultralytics.data.dataset")
    utils = pytest.importorskip("ultralytics.data.utils")
    # It writes cache files next to the files that it reads.
    folder = tmp_path / "copy"
    shutil.copytree(shelf.export("yolo", split=True, parts=parts).folder, folder)
    found = utils.check_cls_dataset(folder)
    assert found["names"] == dict(enumerate(sorted(SLUGS)))
    images = []
    for split in SPLITS:
        assert found[split] == folder.resolve() / split
        data = dataset.ClassificationDataset(found[split], cfg.get_cfg(overrides={"task": "classify", "imgsz": 32}))
        assert data.base.classes == sorted(SLUGS), "numbers mean the same classes in each split"
        for at, (path, number, *_) in enumerate(data.samples):
            assert data[at]["cls"] == number
            assert tuple(data[at]["img"].shape) == (3, 32, 32)
            images.append(Found(stem=Path(path).stem, label=SLUGS[found["names"][number]], split=split))
    shelf.assert_all(images)


# COCO


def annotations(one: Exported) -> Iterator[tuple[str, Path]]:
    """Files of annotations, with the split of each."""
    for path in sorted((one.folder / "annotations").iterdir()):
        yield path.stem.removeprefix("instances_").split("-")[0], path


@every_split
@every_size
def test_pycocotools_reads_annotations(shelf: Shelf, *, split: bool, parts: bool) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    one = shelf.export("coco", split=split, parts=parts)
    images, numbers = [], []
    for name, path in annotations(one):
        dataset = coco.COCO(str(path))
        assert [category["name"] for category in dataset.loadCats(dataset.getCatIds())] == sorted(LABELS)
        licenses = {license_["id"]: license_["name"] for license_ in dataset.dataset["licenses"]}
        for image in dataset.loadImgs(dataset.getImgIds()):
            numbers.append(image["id"])
            (annotation,) = dataset.loadAnns(dataset.getAnnIds(imgIds=[image["id"]]))
            assert (annotation["bbox"], annotation["area"]) == ([0, 0, 96, 72], 96 * 72)
            (category,) = dataset.loadCats([annotation["category_id"]])
            file = one.folder / "images" / image["file_name"]
            stored = shelf.stored[file.stem]
            assert licenses[image["license"]] == (stored.credit.license or "")
            assert image["coco_url"] == f"https://example.org/{file.stem}"
            images.append(
                Found(stem=file.stem, label=category["name"], split=name if split else None, body=file.read_bytes())
            )
    assert len(set(numbers)) == len(numbers), "files can be joined"
    shelf.assert_all(images)


@every_split
@every_size
def test_torchvision_reads_annotations(shelf: Shelf, *, split: bool, parts: bool) -> None:
    pytest.importorskip("pycocotools")
    torchvision = pytest.importorskip("torchvision")
    one = shelf.export("coco", split=split, parts=parts)
    images = []
    for name, path in annotations(one):
        data = torchvision.datasets.CocoDetection(one.folder / "images", path)
        for number, (image, (annotation,)) in zip(data.ids, data, strict=True):
            images.append(
                Found(
                    stem=Path(data.coco.imgs[number]["file_name"]).stem,
                    label=data.coco.cats[annotation["category_id"]]["name"],
                    split=name if split else None,
                    pixels=pixels(image),
                )
            )
    shelf.assert_all(images)


# TensorFlow


def test_tensorflow_reads_records(shelf: Shelf) -> None:
    if find_spec("tensorflow") is None:
        pytest.skip("there is no TensorFlow")
    exports = [shelf.export("tfrecord", split=split, parts=parts) for split, parts in product([False, True], repeat=2)]
    paths = [path for one in exports for path in sorted(one.folder.glob("*.tfrecord"))]
    completed = subprocess.run([sys.executable, records.__file__, *paths], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    found: dict[Path, list[Found]] = {one.folder: [] for one in exports}
    for row in map(json.loads, completed.stdout.splitlines()):
        path, stem = Path(row["path"]), row["image/source_id"]
        assert row["image/class/label"] == sorted(LABELS).index(row["image/class/text"])
        assert row["image/format"] in {"jpeg", "png"}
        assert (row["license"], row["source_url"]) == (
            shelf.stored[stem].credit.license or "",
            f"https://example.org/{stem}",
        )
        assert row["shape"] == [row["image/height"], row["image/width"], 3]
        seen = np.frombuffer(b64decode(row["pixels"]), np.uint8).reshape(row["shape"])
        is_split = path.parent in {one.folder for one in exports if len(one.splits) > 1}
        found[path.parent].append(
            Found(
                stem=stem,
                label=row["image/class/text"],
                split=path.name.split("-")[0] if is_split else None,
                body=b64decode(row["body"]),
                pixels=seen,
            )
        )
    for images in found.values():
        shelf.assert_all(images, exact=False)


# Label Studio


@every_size
def test_tasks_have_the_shape_that_label_studio_imports(shelf: Shelf, *, parts: bool) -> None:
    """Source: https://labelstud.io/guide/tasks and https://labelstud.io/guide/predictions."""
    one = shelf.export("label_studio", parts=parts)
    config = ET.parse(one.folder / "label_config.xml").getroot()
    (image,), (choices,) = config.findall("Image"), config.findall("Choices")
    assert config.tag == "View"
    assert choices.attrib["toName"] == image.attrib["name"]
    offered = {choice.attrib["value"] for choice in choices.findall("Choice")}
    assert offered == set(LABELS)
    images = []
    for path in one.folder.glob("tasks*.json"):
        for task in json.loads(path.read_text(encoding="utf-8")):
            assert set(task) == {"data", "predictions"}
            data, (prediction,) = task["data"], task["predictions"]
            assert data[image.attrib["value"].removeprefix("$")] == data["source_url"]
            (result,) = prediction["result"]
            assert (result["from_name"], result["to_name"]) == (choices.attrib["name"], image.attrib["name"])
            assert result["type"] == "choices"
            (label,) = result["value"]["choices"]
            file = one.folder / data["file_name"]
            images.append(Found(stem=file.stem, label=label, body=file.read_bytes(), row=data))
    shelf.assert_all(images)


# mlcroissant


@every_split
@pytest.mark.parametrize(
    "options", [{"layout": "imagefolder"}, {"layout": "flat", "parts": True}, {"layout": "table", "format_": "csv"}]
)
def test_mlcroissant_reads_the_tables(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, split: bool, options: dict[str, Any]
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    # It takes archives of one name for the same, and keeps what it unpacks.
    monkeypatch.setattr("mlcroissant._src.operation_graph.operations.extract.EXTRACT_PATH", tmp_path)
    one = shelf.export(**options, split=split)
    dataset = mlcroissant.Dataset(jsonld=str(one.packed / "croissant.json"))
    assert not dataset.metadata.issues.errors
    images = []
    for table in dataset.metadata.record_sets:
        for record in dataset.records(table.uuid):
            row = {name.rpartition("/")[2]: value for name, value in record.items()}
            assert tuple(row) == COLUMNS
            stem = row["sha256"].decode()
            # An empty text is none here, and pandas takes NA and null for one.
            assert (row["license"] or b"").decode() == (shelf.stored[stem].credit.license or "")
            assert (row["width"], row["height"]) == (96, 72)
            images.append(Found(stem=stem, label=row["label"].decode(), split=row["split"].decode() if split else None))
    shelf.assert_all(images)

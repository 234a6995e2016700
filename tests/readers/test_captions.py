"""What reads datasets finds captions and columns of URL lists in every layout that has a place for them.

The gate has what is light; `make test-readers` installs the rest, and without it those tests are skipped.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from readers import records
from readers.captioned import NAMES, TYPES, WRITTEN, Captioned

from pixcrawler_worker.domain.tables import COLUMNS, text_of
from pixcrawler_worker.runtime import Runtime

# Readers warn about what they use themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def captioned(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Captioned:
    return Captioned(runtime, tmp_path_factory.mktemp("captions"))


@pytest.mark.parametrize("layout", ["imagefolder", "flat"])
def test_the_metadata_has_all_columns_of_all_images(captioned: Captioned, layout: str) -> None:
    lines = (captioned.export(layout).folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert {tuple(row) for row in rows} == {(*COLUMNS, *TYPES)}
    captioned.assert_all({row["sha256"]: row for row in rows})


@pytest.mark.parametrize("layout", ["table", "yolo"])
def test_the_table_has_all_columns_of_all_images(captioned: Captioned, layout: str) -> None:
    one = captioned.export(layout, format_="csv" if layout == "table" else "zip")
    with (one.archive if layout == "table" else one.folder / "images.csv").open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = [dict(row) for row in table]
    assert tuple(table.fieldnames or ()) == (*COLUMNS, *TYPES)
    python: dict[str, Callable[[str], Any]] = {
        "string": text_of,
        "int64": int,
        "float64": float,
        "bool": {"True": True, "False": False}.__getitem__,
    }
    typed = ({**row, **{name: python[type_](row[name]) for name, type_ in TYPES.items()}} for row in rows)
    captioned.assert_all({row["sha256"]: row for row in typed})


def test_pyarrow_opens_parquet(captioned: Captioned) -> None:
    (path,) = (captioned.export("parquet").folder / "data").iterdir()
    rows = parquet.read_table(path).to_pylist()
    captioned.assert_all({row["sha256"]: row for row in rows})


def test_tasks_have_all_columns(captioned: Captioned) -> None:
    tasks = json.loads((captioned.export("label_studio").folder / "tasks.json").read_text(encoding="utf-8"))
    captioned.assert_all({task["data"]["sha256"]: task["data"] for task in tasks})
    assert all(task["data"]["image"].startswith("https://example.org/") for task in tasks)


def test_the_card_the_report_and_croissant_have_them(captioned: Captioned) -> None:
    one = captioned.export("imagefolder")
    card = (one.folder / "README.md").read_text(encoding="utf-8")
    assert "- image-to-text\n- text-to-image\n" in card
    assert "7 of 8 images have one." in card
    assert "| list\\_width | int64 | width |" in card
    report = (one.folder / "dataset.html").read_text(encoding="utf-8")
    assert "<b>7</b>with a caption" in report
    assert "<q>&lt;/script&gt;&lt;b&gt;NA &amp; null</q>" in report
    assert "x" * 201 not in report
    croissant = json.loads((one.packed / "croissant.json").read_text(encoding="utf-8"))
    fields = {field["name"]: field["dataType"] for field in croissant["recordSet"][0]["field"]}
    types = {"string": "sc:Text", "int64": "sc:Integer", "float64": "sc:Float", "bool": "sc:Boolean"}
    assert {name: fields[name] for name in TYPES} == {name: types[type_] for name, type_ in TYPES.items()}


# Readers that the gate has not


def test_webdataset_streams_captions(captioned: Captioned) -> None:
    webdataset = pytest.importorskip("webdataset")
    one = captioned.export("webdataset", format_="tar")
    samples = list(webdataset.WebDataset(str(one.archive), shardshuffle=False).decode("pil"))
    for sample in samples:
        assert {key for key in sample if key[:2] != "__"} == {"jpg", "cls", "json", "txt"}
        assert sample["txt"] == sample["json"]["text"]
    captioned.assert_all({sample["__key__"]: sample["json"] for sample in samples})


def test_pycocotools_reads_captions(captioned: Captioned) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    folder = captioned.export("coco").folder / "annotations"
    captions, instances = (coco.COCO(str(folder / f"{kind}_all.json")) for kind in ("captions", "instances"))
    assert captions.imgs == instances.imgs
    found = {}
    for number, image in captions.imgs.items():
        texts = [one["caption"] for one in captions.loadAnns(captions.getAnnIds(imgIds=[number]))]
        found[Path(image["file_name"]).stem] = {"text": texts[0] if texts else "", **image["attributes"]}
        assert len(texts) < 2
    captioned.assert_all(found)
    # As captions are evaluated: results name the images of the file.
    results = [{"image_id": number, "caption": "a cat"} for number in captions.getImgIds()]
    assert len(captions.loadRes(results).anns) == len(WRITTEN)


def test_tensorflow_reads_captions(captioned: Captioned) -> None:
    if find_spec("tensorflow") is None:
        pytest.skip("there is no TensorFlow")
    paths = sorted(captioned.export("tfrecord").folder.glob("*.tfrecord"))
    dtypes = {"string": "string", "int64": "int64", "bool": "int64", "float64": "float32"}
    more = {"image/caption": "string"} | {name: dtypes[type_] for name, type_ in NAMES.values()}
    command = [sys.executable, records.__file__, "--more", json.dumps(more), *map(str, paths)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    rows = [json.loads(line) for line in completed.stdout.splitlines()]
    captioned.assert_all({row["image/source_id"]: {**row, "text": row["image/caption"]} for row in rows})


def test_mlcroissant_reads_all_columns(captioned: Captioned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    monkeypatch.setattr("mlcroissant._src.operation_graph.operations.extract.EXTRACT_PATH", tmp_path)
    one = captioned.export("imagefolder")
    dataset = mlcroissant.Dataset(jsonld=str(one.packed / "croissant.json"))
    assert not dataset.metadata.issues.errors
    (table,) = dataset.metadata.record_sets
    names = [field.name for field in table.fields]
    assert names == [*COLUMNS, *TYPES]
    found = {}
    for record in dataset.records(table.uuid):
        # An empty text is none here, and pandas takes NA and null for one.
        values = [
            text_of((value or b"").decode()) if isinstance(value, bytes | None) else value for value in record.values()
        ]
        row = dict(zip(names, values, strict=True))
        found[row["sha256"]] = row
    captioned.assert_all(found, but=("no", "sparse"))


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    datasets.disable_progress_bars()
    return datasets


def assert_typed(datasets: Any, features: Any) -> None:
    types = {name: features[name] for name in TYPES}
    assert types == {name: datasets.Value(type_) for name, type_ in TYPES.items()}


@pytest.mark.parametrize("layout", ["imagefolder", "flat", "parquet"])
@pytest.mark.parametrize("by_name", [False, True], ids=["card", "name"])
def test_hugging_face_opens_folders(captioned: Captioned, hugging_face: Any, layout: str, *, by_name: bool) -> None:
    folder = str(captioned.export(layout).folder)
    reader = "parquet" if layout == "parquet" else "imagefolder"
    found = hugging_face.load_dataset(reader, data_dir=folder) if by_name else hugging_face.load_dataset(folder)
    rows = found["train"]
    assert isinstance(rows.features["image"], hugging_face.Image)
    assert_typed(hugging_face, rows.features)
    captioned.assert_all({row["sha256"]: row for row in rows})


def test_hugging_face_opens_an_archive(captioned: Captioned, hugging_face: Any) -> None:
    files = {"train": [str(captioned.export("imagefolder").archive)]}
    rows = hugging_face.load_dataset("imagefolder", data_files=files)["train"]
    assert_typed(hugging_face, rows.features)
    captioned.assert_all({row["sha256"]: row for row in rows})


@pytest.mark.parametrize("by_name", [False, True], ids=["card", "name"])
def test_hugging_face_opens_shards(captioned: Captioned, hugging_face: Any, *, by_name: bool) -> None:
    one = captioned.export("webdataset", format_="tar")
    if by_name:
        rows = hugging_face.load_dataset("webdataset", data_files={"train": [str(one.archive)]})["train"]
    else:
        rows = hugging_face.load_dataset(str(one.packed))["train"]
    assert set(rows.features) == {"jpg", "cls", "json", "txt", "__key__", "__url__"}
    assert_typed(hugging_face, rows.features["json"])
    captioned.assert_all({row["__key__"]: row["json"] for row in rows})
    assert sorted(row["txt"] for row in rows) == sorted(WRITTEN)


def test_hugging_face_opens_the_table(captioned: Captioned, hugging_face: Any) -> None:
    rows = hugging_face.load_dataset(str(captioned.export("table", format_="csv").packed))["train"]
    assert_typed(hugging_face, rows.features)
    texts = [name for name, type_ in TYPES.items() if type_ == "string"]
    captioned.assert_all({row["sha256"]: {**row, **{name: text_of(row[name]) for name in texts}} for row in rows})

"""Hugging Face's `datasets` opens exports by its own rules, and with the dataset card."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from readers.shelf import LABELS, Found, Shelf, every_size, every_split, pixels

from pixcrawler_worker.domain.tables import COLUMNS, NUMBERS
from pixcrawler_worker.runtime import Runtime

# It warns about what it uses itself.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    # Of its own for each test: it takes folders of one name for the same dataset.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    datasets.disable_progress_bars()
    return datasets


def assert_typed(
    datasets: Any, features: Any, *, but: Iterable[str] = (), text: str = "string", classes: Iterable[str] = ()
) -> None:
    """Every column is there, and of its type whatever the images of this dataset are."""
    expected = {name: datasets.Value("int64" if name in NUMBERS else text) for name in COLUMNS if name not in but}
    if classes:
        expected["label"] = datasets.ClassLabel(names=sorted(classes))
    assert {name: feature for name, feature in features.items() if name in COLUMNS} == expected


def opened(datasets: Any, found: Any, *, split: bool, classes: Iterable[str] = ()) -> Iterator[Found]:
    """What is in an opened dataset with the columns of our tables; with the card, `label` is one of the classes."""
    for name, rows in found.items():
        assert_typed(datasets, rows.features, but={"file_name"} - set(rows.features), classes=classes)
        assert isinstance(rows.features["image"], datasets.Image)
        for row in rows:
            if classes:
                row["label"] = rows.features["label"].int2str(row["label"])
            assert row["split"] == name or not split
            yield Found(
                stem=row["sha256"],
                label=row["label"],
                split=name if split else None,
                pixels=pixels(row["image"]),
                row=row,
            )


@every_split
@every_size
def test_hugging_face_opens_the_folder_of_images(
    shelf: Shelf,
    hugging_face: Any,
    *,
    split: bool,
    parts: bool,
) -> None:
    one = shelf.export("imagefolder", split=split, parts=parts)
    found = hugging_face.load_dataset(str(one.folder))
    assert tuple(found) == one.splits
    shelf.assert_all(opened(hugging_face, found, split=split, classes=LABELS))


@every_split
@every_size
@pytest.mark.parametrize("layout", ["imagefolder", "flat", "parquet"])
def test_hugging_face_opens_a_folder_by_the_name_of_its_reader(
    shelf: Shelf, hugging_face: Any, layout: str, *, split: bool, parts: bool
) -> None:
    """Without the card, splits have the names that it knows, and labels are strings."""
    one = shelf.export(layout, split=split, parts=parts)
    reader = "parquet" if layout == "parquet" else "imagefolder"
    found = hugging_face.load_dataset(reader, data_dir=str(one.folder))
    split = split and layout != "flat"
    names = ("train", "validation", "test") if layout == "imagefolder" else ("train", "test", "val")
    assert tuple(found) == (names if split else ("train",))
    for rows in found.values():
        assert isinstance(rows.features["image"], hugging_face.Image)
    shelf.assert_all(
        Found(stem=row["sha256"], label=row["label"], split=row["split"] if split else None, row=row)
        for rows in found.values()
        for row in rows
    )


@pytest.mark.parametrize("layout", ["imagefolder", "flat", "parquet"])
@pytest.mark.parametrize("count", [1, 3])
@every_split
def test_hugging_face_opens_a_few_images(  # noqa: PLR0913 - fixtures and parameters
    runtime: Runtime,
    hugging_face: Any,
    tmp_path: Path,
    layout: str,
    count: int,
    *,
    split: bool,
) -> None:
    few = Shelf(runtime, tmp_path / "few", images=count)
    found = hugging_face.load_dataset(str(few.export(layout, split=split).folder))
    split = split and layout != "flat"
    assert set(found) == ({few.split(stem) for stem in few.stored} if split else {"train"})
    few.assert_all(opened(hugging_face, found, split=split, classes={one.label for one in few.stored.values()}))


@every_size
def test_hugging_face_opens_the_flat_folder(shelf: Shelf, hugging_face: Any, *, parts: bool) -> None:
    found = hugging_face.load_dataset(str(shelf.export("flat", parts=parts).folder))
    assert list(found) == ["train"]
    shelf.assert_all(opened(hugging_face, found, split=False, classes=LABELS))


@every_split
@every_size
def test_hugging_face_opens_archives_of_images(
    shelf: Shelf,
    hugging_face: Any,
    *,
    split: bool,
    parts: bool,
) -> None:
    files = {"train": [str(path) for path in shelf.export("imagefolder", split=split, parts=parts).archives]}
    found = hugging_face.load_dataset("imagefolder", data_files=files)
    shelf.assert_all(opened(hugging_face, found, split=False))


@every_split
@every_size
def test_hugging_face_opens_parquet(shelf: Shelf, hugging_face: Any, *, split: bool, parts: bool) -> None:
    one = shelf.export("parquet", split=split, parts=parts)
    found = hugging_face.load_dataset(str(one.folder))
    assert tuple(found) == one.splits
    shelf.assert_all(opened(hugging_face, found, split=split, classes=LABELS))


@every_split
@every_size
@pytest.mark.parametrize("by_name", [False, True], ids=["folder", "files"])
def test_hugging_face_opens_shards(
    shelf: Shelf,
    hugging_face: Any,
    *,
    split: bool,
    parts: bool,
    by_name: bool,
) -> None:
    one = shelf.export("webdataset", split=split, parts=parts, format_="tar")
    if by_name:
        files = {name: [str(path) for path in one.archives if path.name.startswith(name)] for name in one.splits}
        found = hugging_face.load_dataset("webdataset", data_files=files)
    else:
        found = hugging_face.load_dataset(str(one.packed))
    assert tuple(found) == one.splits
    images = []
    for name, rows in found.items():
        assert set(rows.features) == {"jpg", "cls", "json", "__key__", "__url__"}
        assert isinstance(rows.features["jpg"], hugging_face.Image)
        assert_typed(hugging_face, rows.features["json"])
        # The name of the reader leaves out the card.
        assert by_name or rows.features["cls"] == hugging_face.ClassLabel(names=sorted(LABELS))
        for row in rows:
            assert row["cls"] == sorted(LABELS).index(row["json"]["label"])
            images.append(
                Found(
                    stem=row["__key__"],
                    label=row["json"]["label"],
                    split=name if split else None,
                    pixels=pixels(row["jpg"]),
                    row=row["json"],
                )
            )
    shelf.assert_all(images, copies=False)


def test_hugging_face_opens_the_folder_with_the_table(shelf: Shelf, hugging_face: Any) -> None:
    found = hugging_face.load_dataset(str(shelf.export("table", format_="csv").packed))
    assert list(found) == ["train"]
    assert_typed(hugging_face, found["train"].features, classes=LABELS)
    names = found["train"].features["label"].names
    rows = [{**row, "label": names[row["label"]]} for row in found["train"]]
    shelf.assert_all(Found(stem=row["sha256"], label=row["label"], row=row) for row in rows)


def test_hugging_face_opens_the_table(shelf: Shelf, hugging_face: Any) -> None:
    files = [str(path) for path in shelf.export("table", format_="csv").archives]
    rows = hugging_face.load_dataset("csv", data_files=files, split="train", keep_default_na=False)
    assert_typed(hugging_face, rows.features, text="large_string")
    shelf.assert_all(Found(stem=row["sha256"], label=row["label"], row=row) for row in rows)

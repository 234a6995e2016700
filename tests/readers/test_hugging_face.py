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


def assert_typed(datasets: Any, features: Any, *, but: Iterable[str] = (), text: str = "string") -> None:
    """Every column is there, and of its type whatever the images of this dataset are."""
    expected = {name: datasets.Value("int64" if name in NUMBERS else text) for name in COLUMNS if name not in but}
    assert {name: feature for name, feature in features.items() if name in COLUMNS} == expected


def opened(datasets: Any, found: Any, *, split: bool) -> Iterator[Found]:
    """What is in an opened dataset whose columns are those of our tables."""
    for name, rows in found.items():
        assert_typed(datasets, rows.features, but={"file_name"} - set(rows.features))
        assert isinstance(rows.features["image"], datasets.Image)
        for row in rows:
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
    shelf.assert_all(opened(hugging_face, found, split=split))


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
    few.assert_all(opened(hugging_face, found, split=split))


@every_size
def test_hugging_face_opens_the_flat_folder(shelf: Shelf, hugging_face: Any, *, parts: bool) -> None:
    found = hugging_face.load_dataset(str(shelf.export("flat", parts=parts).folder))
    assert list(found) == ["train"]
    shelf.assert_all(opened(hugging_face, found, split=False))


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
    shelf.assert_all(opened(hugging_face, found, split=split))


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


def test_hugging_face_opens_the_table(shelf: Shelf, hugging_face: Any) -> None:
    files = [str(path) for path in shelf.export("table", format_="csv").archives]
    rows = hugging_face.load_dataset("csv", data_files=files, split="train", keep_default_na=False)
    assert_typed(hugging_face, rows.features, text="large_string")
    shelf.assert_all(Found(stem=row["sha256"], label=row["label"], row=row) for row in rows)

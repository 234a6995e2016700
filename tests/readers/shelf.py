"""Exports of one crawl in every layout, unpacked, and what a reader has to find in them."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export import exporting
from export.exporting import StoredImage, image_bytes
from numpy.typing import NDArray
from PIL import Image

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.runtime import Runtime

#: Two are names of splits and one nearly, one is a device, one leads out of the folder, two differ in case only.
LABELS = ("train", "test", "steam train", "CON", "../x", "\N{CAT FACE}", "Cat", "cat")
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}
#: What some readers of tables take for no text at all.
TITLES = ("NA", "null", 'A cat, "asleep"', "")
#: The title of all images of one class, which some take for a time where there is nothing else.
DATE = "2024-05-06"

#: Images of an archive where there are several.
_FEW = 15

every_split = pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
every_size = pytest.mark.parametrize("parts", [False, True], ids=["single", "parts"])

#: Differences of brightness, of 255, that decoders and encoders of JPEG may have on average.
_DECODED, _ENCODED = 1.5, 6.0


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An unpacked export.

    Attributes:
        packed: folder with the files of the export.
        folder: folder with the files of all archives and with the sidecar files.
        archives: in their order.
        splits: the requested splits.
    """

    packed: Path
    folder: Path
    archives: tuple[Path, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image as a reader found it; None is what a reader cannot know.

    Attributes:
        stem: of its file.
        label: its class.
        split: the split that it was in.
        body: its file.
        pixels: of three channels.
        row: its columns.
    """

    stem: str
    label: str
    split: str | None = None
    body: bytes | None = None
    pixels: NDArray[np.uint8] | None = None
    row: Mapping[str, Any] | None = None


class Shelf:
    """The exports, each created on first use."""

    def __init__(self, runtime: Runtime, folder: Path, *, images: int = 64) -> None:
        self._runtime, self._folder = runtime, folder
        self._made: dict[tuple[str, bool, bool, str], Exported] = {}
        self.stored = {hashlib.sha256(one.body).hexdigest(): one for one in map(_stored, range(images))}
        self._job = exporting.crawl_of(runtime, list(self.stored.values()))

    def export(self, layout: str, *, split: bool = False, parts: bool = False, format_: str = "zip") -> Exported:
        """Return the crawl in that layout."""
        key = (layout, split, parts, format_)
        if key not in self._made:
            self._made[key] = self._export(*key)
        return self._made[key]

    def split(self, stem: str) -> str:
        """Return the split that an image belongs to where there are splits."""
        return exporting.split_of(stem, SPLITS)

    def assert_all(self, found: Iterable[Found], *, copies: bool = True, exact: bool = True) -> None:
        """Assert that a reader found each image once, and as it was stored.

        Args:
            found: by the reader.
            copies: whether the layout keeps every file as it is.
            exact: whether the reader decodes as Pillow does.
        """
        images = list(found)
        assert sorted(one.stem for one in images) == sorted(self.stored)
        for one in images:
            stored = self.stored[one.stem]
            kept = copies or stored.body[:2] == b"\xff\xd8"
            assert one.label == stored.label
            if one.split is not None:
                assert one.split == self.split(one.stem)
            if one.body is not None and kept:
                assert hashlib.sha256(one.body).hexdigest() == one.stem
            if one.pixels is not None:
                assert_alike(one.pixels, pixels(stored.body), (_DECODED, 0)[exact] if kept else _ENCODED)
            if one.row is not None:
                credit = stored.credit
                # A title that is a date has a space behind it where a reader would make a time of it.
                stated = (one.row["title"].rstrip(), one.row["author"], one.row["license"], one.row["source_url"])
                known = (credit.title or "", credit.author or "", credit.license or "")
                assert stated == (*known, f"https://example.org/{one.stem}")
                assert (one.row["label"], one.row["width"], one.row["height"]) == (stored.label, 96, 72)

    def _export(self, layout: str, split: bool, parts: bool, format_: str) -> Exported:  # noqa: FBT001 - a key
        options: dict[str, Any] = {"layout": layout}
        if split:
            options["splits"] = {"ratios": SPLITS}
        if parts:
            options["archive"] = {"part_max_images": _FEW}
        ref = exporting.export(self._runtime, self._job, options, format_=format_)
        place = self._folder / str(ref.id)
        packed, folder = place / "packed", place / "unpacked"
        packed.mkdir(parents=True)
        for name, body in exporting.files(self._runtime, ref).items():
            (packed / name).write_bytes(body)
        archives = sorted(path for path in packed.iterdir() if path.suffix in {".zip", ".tar", ".csv"})
        assert (len(archives) > 1) == (parts or (layout == "webdataset" and split))
        for path in packed.iterdir():
            unpack(path, folder)
        return Exported(
            packed=packed, folder=folder, archives=tuple(archives), splits=tuple(SPLITS) if split else ("train",)
        )


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into a folder, or put another file there; nothing may be there twice."""
    folder.mkdir(exist_ok=True)
    before = {one for one in folder.rglob("*") if one.is_file()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            assert not before & {folder / name for name in packed.namelist()}
            packed.extractall(folder)
    elif path.suffix == ".tar":
        with tarfile.open(path) as opened:
            names = {folder / name for name in opened.getnames()}
            assert not before & names
            opened.extractall(folder, filter="data")
    else:
        assert folder / path.name not in before
        (folder / path.name).write_bytes(path.read_bytes())


def pixels(image: bytes | Path | Image.Image) -> NDArray[np.uint8]:
    """Return what Pillow sees."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return np.asarray(opened.convert("RGB"))


def assert_alike(one: NDArray[np.uint8], other: NDArray[np.uint8], limit: float) -> None:
    """Assert that two images differ by no more than that on average."""
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other.astype(int)).mean() <= limit


def _stored(number: int) -> StoredImage:
    """Return an image: eight of each class, one in four a PNG, one in three with a credit."""
    at, label = number // len(LABELS), LABELS[number % len(LABELS)]
    title = DATE if label == "Cat" else TITLES[at % len(TITLES)]
    credit = Credit(title=title)
    if number % 3 == 0:
        credit = Credit(
            title=title,
            author="Ann",
            license="cc-by-4.0",
            license_url="https://creativecommons.org/licenses/by/4.0/",
            page_url=f"https://example.org/page/{number}",
        )
    kind = "PNG" if at % 4 == 1 else "JPEG"
    return StoredImage(image_bytes(number, kind), label=label, credit=credit)

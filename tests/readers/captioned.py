"""Images with captions and columns of a URL list, and what readers have to find of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import exporting
from export.exporting import StoredImage, image_bytes
from readers.shelf import unpack

from pixcrawler_worker.runtime import Runtime

#: What a reader of tables, of JSON or of a shell may take for something else; one image has none.
CAPTIONS = (
    'A cat, "asleep" on a mat;\nand a dog.',
    None,
    "=HYPERLINK(1)",
    "\N{CAT FACE} \u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629 \u732b",
    "</script><b>NA & null",
    "2024-05-06",
    "x" * 100_000,
    "'; DROP TABLE images; --\x00\x1b[2J\u202e",
)
#: The same in files.
WRITTEN = (
    'A cat, "asleep" on a mat; and a dog.',
    "",
    *CAPTIONS[2:7],
    "'; DROP TABLE images; --\ufffd[2J",
)
#: Columns of the list, with their names and types in datasets.
NAMES = {
    "Aesthetic score": ("Aesthetic score", "float64"),
    "count": ("count", "int64"),
    "is_cat": ("is_cat", "bool"),
    "mixed": ("mixed", "string"),
    "nested": ("nested", "string"),
    "no": ("no", "string"),
    "original_file_name": ("original_filename", "string"),
    "sparse": ("sparse", "string"),
    "v1.2 \u00e9": ("v1.2 \u00e9", "string"),
    "width": ("list_width", "int64"),
}
TYPES = {"text": "string", **dict(NAMES.values())}


def listed(number: int) -> dict[str, object]:
    """Return the columns of an image in the list."""
    found: dict[str, object] = {
        "Aesthetic score": number / 8,
        "count": -number if number else 2**63 - 1,
        "is_cat": number % 2 == 0,
        "mixed": number if number % 2 else f"number {number}",
        "nested": {"tags": ["a", {"b": number}]},
        "no": "null",
        "original_file_name": "../cat.jpg",
        "v1.2 \u00e9": f"=1+{number}",
        "width": 4000 + number,
    }
    return found if number % 2 else {**found, "sparse": number}


def expected(number: int) -> dict[str, Any]:
    """Return what readers have to find of an image."""
    return {
        "text": WRITTEN[number],
        "Aesthetic score": number / 8,
        "count": -number if number else 2**63 - 1,
        "is_cat": number % 2 == 0,
        "mixed": f"{number}" if number % 2 else f"number {number}",
        "nested": f'{{"tags": ["a", {{"b": {number}}}]}}',
        "no": "null",
        "original_filename": "../cat.jpg",
        "sparse": "" if number % 2 else f"{number}",
        "v1.2 \u00e9": f"=1+{number}",
        "list_width": 4000 + number,
    }


@dataclass(frozen=True, kw_only=True)
class CaptionedExport:
    """An unpacked export of these images.

    Attributes:
        packed: folder with the files of the export.
        folder: folder with the files of its archive and with the sidecar files.
        archive: the only one.
    """

    packed: Path
    folder: Path
    archive: Path


class Captioned:
    """The exports of a crawl of these images, each created on first use."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self._runtime, self._folder = runtime, folder
        stored = [
            StoredImage(image_bytes(number), caption=caption, columns=listed(number))
            for number, caption in enumerate(CAPTIONS)
        ]
        self._job = exporting.crawl_of(runtime, stored)
        self._made: dict[str, CaptionedExport] = {}
        #: By the names of the files, without extension.
        self.expected: Mapping[str, Mapping[str, Any]] = {
            exporting.digest(one.body): expected(number) for number, one in enumerate(stored)
        }

    def export(self, layout: str, *, format_: str = "zip") -> CaptionedExport:
        """Return the crawl in that layout."""
        if layout not in self._made:
            ref = exporting.export(self._runtime, self._job, {"layout": layout}, format_=format_)
            packed, folder = (self._folder / layout / name for name in ("packed", "unpacked"))
            packed.mkdir(parents=True)
            for name, body in exporting.files(self._runtime, ref).items():
                (packed / name).write_bytes(body)
                unpack(packed / name, folder)
            (archive,) = (path for path in packed.iterdir() if path.suffix in {".zip", ".tar", ".csv"})
            self._made[layout] = CaptionedExport(packed=packed, folder=folder, archive=archive)
        return self._made[layout]

    def assert_all(self, found: Mapping[str, Mapping[str, Any]], *, but: tuple[str, ...] = ()) -> None:
        """Assert that a reader found all columns of all images as they were listed, except for some columns.

        Args:
            found: rows by the names of files, without extension.
            but: columns that the reader has not.
        """
        assert found.keys() == self.expected.keys()
        for stem, columns in self.expected.items():
            row = found[stem]
            seen = {name: row[name] for name in columns if name not in but}
            # A text that is a date has a space behind it where a reader would make a time of it.
            seen |= {"text": seen["text"].rstrip()} if "text" in seen else {}
            assert seen == {name: value for name, value in columns.items() if name not in but}

"""What a layout of a dataset is: the one file to read before writing one.

A layout is a class that an installed package names under the entry-point group `pixcrawler.layouts`. One is made for
every archive; it is handed the images in the order in which they are written, and answers with files.

Nothing may be kept per image but a few bytes: what grows with the images goes into a `Spool`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.exporters.spool import Spool
from pixcrawler_worker.plugins import Plugins

LAYOUTS = Plugins("layout")


class ExportFormat(StrEnum):
    """What an export is delivered as; the values of `export_jobs.format`."""

    ZIP = "zip"
    TAR = "tar"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What the images of an archive have in common.

    Attributes:
        name: for people.
        labels: every class of the export, sorted; the position is the number of the class, in every part the same.
        splits: the splits that were asked for, in their order; empty when the dataset is not split.
        part: number of this archive, from 0.
        parts: archives of the export.
        max_files_per_dir: files that one folder may have.
    """

    name: str
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    part: int = 0
    parts: int = 1
    max_files_per_dir: int = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image, as its file is in the dataset.

    Attributes:
        stem: what its file is named: 64 hexadecimal digits, a hyphen and a number at most; another one for each image.
        extension: of its format, without a dot: `jpg`, `png`, ...
        label: its class.
        split: `train`, ...; None when the dataset is not split.
        width: pixels of the file.
        height: pixels, likewise.
        row: the columns of the dataset's tables (`domain/tables.py`) without `file_name`, each of one type, none null.
        body: the file itself.
    """

    stem: str
    extension: str
    label: str
    split: str | None
    width: int
    height: int
    row: Mapping[str, Value]
    body: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive.

    Attributes:
        path: ASCII, relative, with `/` between its parts; another one for each file. Every part has 99 characters at
            most and all of it 200, so that the oldest tar holds it and Windows can unpack it.
        body: what it holds.
    """

    path: str
    body: bytes | Spool


class Layout(Protocol):
    """One way to lay a dataset out.

    Attributes:
        summary: one line for people: what opens it.
        carriers: what it may be delivered as.
        formats: formats of images that all its readers open; others are converted to the first of them.
        default_splits: ratios of splits where none are asked for; empty for none.
        split_per_part: whether an archive holds images of one split only.
    """

    summary: ClassVar[str]
    carriers: ClassVar[frozenset[ExportFormat]]
    formats: ClassVar[tuple[str, ...]]
    default_splits: ClassVar[Mapping[str, float]]
    split_per_part: ClassVar[bool]

    def __init__(self, dataset: Dataset) -> None:
        """Begin an archive of that dataset."""
        ...

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return what the image's `file_name` is in tables, and the files to write now; maybe none yet."""
        ...

    def close(self) -> Iterator[Entry]:
        """Return the files that are left to write."""
        ...

    @staticmethod
    def data_files(split: str | None) -> str | None:
        """Return the pattern of a split's files for Hugging Face's dataset card; None when it cannot open the layout.

        Args:
            split: its name; None for a dataset that is not split.
        """
        ...

    @staticmethod
    def extra_path(name: str) -> str | None:
        """Return where a file that every export has lies: README.md, images.csv, ...; None to leave it out."""
        ...


def load(name: str) -> type[Layout]:
    """Return the layout of that name.

    Raises:
        PermanentError: when no such layout is installed, or its package is broken; the message has the nearest name.
    """
    found: type[Layout] = LAYOUTS.load(name)
    return found

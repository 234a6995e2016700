"""The base class of layouts: the one file to read before writing a layout.

A layout is a subclass of `Layout` that an installed package registers under the entry point group `pixcrawler.layouts`.
An export makes one object per archive, passes it the images in their order, and writes the files that it returns:

    class Numbered(Layout):
        summary = "files with numbers: scripts"

        def __init__(self, dataset: Dataset) -> None:
            super().__init__(dataset)
            self._last = dataset.part * 1_000_000

        def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
            self._last += 1
            path = f"{self._last:09d}.{sample.extension}"
            return path, iter([Entry(path, sample.body)])

A layout may keep a few bytes per image in memory; what grows faster goes into a `Spool`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, TypeAlias

from pixcrawler_worker.domain.facts import WRITTEN_FORMATS
from pixcrawler_worker.domain.list_columns import ColumnType
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters.spool import Spool
from pixcrawler_worker.plugins import Plugins

LAYOUTS = Plugins("layout")

#: A column of Hugging Face's `datasets`: `string`, `int64`, `float64`, `bool`, `image`, the names of classes, or the
#: columns of an object.
Feature: TypeAlias = "str | Sequence[str] | Mapping[str, Feature]"


class ExportFormat(StrEnum):
    """The format of an export's files; the values of `export_jobs.format`."""

    ZIP = "zip"
    TAR = "tar"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What the images of an archive have in common.

    Attributes:
        name: display name.
        labels: all classes of the export, sorted; the position of a class is its number, the same in all archives.
        splits: the requested splits in their order; empty when the dataset is not split.
        part: number of this archive, from 0.
        parts: number of archives of the export.
        max_files_per_dir: limit of files in one folder.
        columns: the columns that its rows have besides `domain/tables.COLUMNS`, with their types: `text` for captions,
            where an image has one, and those of URL lists.
    """

    name: str
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    part: int = 0
    parts: int = 1
    max_files_per_dir: int = 5000
    columns: Mapping[str, ColumnType] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image, as its file is in the dataset.

    Attributes:
        stem: unique name of its file without extension, at most 94 ASCII letters, digits, `-` and `_`: 64 hexadecimal
            digits, or these, a hyphen and a number, or what the template in the options makes of it.
        extension: extension of its format without a dot: `jpg`, `png`, ...
        label: its class.
        split: `train`, ...; None when the dataset is not split.
        width: pixels.
        height: pixels.
        row: the columns of the dataset's tables (`domain/tables.py`) without `file_name`, then those of
            `Dataset.columns`, each of one type, none null.
        body: content of the file.
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
        path: unique in all archives of the export, ASCII, relative, with `/` between its parts. A part has at most 99
            characters and the path at most 200, so that every tar can store it and Windows can unpack it.
        body: content of the file.
    """

    path: str
    body: bytes | Spool


class Layout(ABC):
    """One way to arrange the images and metadata of a dataset. The defaults suit most layouts.

    Attributes:
        summary: one line: which readers open it.
        export_formats: what it can be exported as.
        image_formats: image formats that all its readers open, of `WRITTEN_FORMATS`; images of others are converted to
            the first of them.
        default_splits: ratios of splits where the options have none; empty for a dataset that is not split.
        split_per_part: whether an archive has images of one split only.
        files_per_image: files of an archive for each image, without that of its caption.
        needs_all_archives: whether an archive has files that others need even when all its images were left out.
        reader_options: options of Hugging Face's reader, for the dataset card.
        features_are_options: whether the columns are among these options, besides the information on the dataset.
    """

    summary: ClassVar[str]
    export_formats: ClassVar[frozenset[ExportFormat]] = frozenset({ExportFormat.ZIP, ExportFormat.TAR})
    image_formats: ClassVar[tuple[str, ...]] = WRITTEN_FORMATS
    default_splits: ClassVar[Mapping[str, float]] = MappingProxyType({})
    split_per_part: ClassVar[bool] = False
    files_per_image: ClassVar[int] = 1
    needs_all_archives: ClassVar[bool] = False
    reader_options: ClassVar[Mapping[str, bool]] = MappingProxyType({})
    features_are_options: ClassVar[bool] = True

    def __init__(self, dataset: Dataset) -> None:
        """Begin an archive of the dataset."""
        self._dataset = dataset

    @classmethod
    def default_format(cls) -> ExportFormat:
        """Return the format of an export that names none. The default is the first of `ExportFormat` that there is."""
        return next(one for one in ExportFormat if one in cls.export_formats)

    @abstractmethod
    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the `file_name` of an image in tables, and the files to write now, if any."""

    def close(self) -> Iterator[Entry]:
        """Return the files to write after the last image. The default is none."""
        return iter(())

    @staticmethod
    def data_files(split: str | None) -> str | Sequence[str] | None:
        """Return the pattern, or the patterns, of a split's files for Hugging Face's dataset card.

        The default is None: Hugging Face does not read the layout.

        Args:
            split: its name; None for a dataset that is not split.
        """
        del split
        return None

    @staticmethod
    def features(labels: Sequence[str]) -> Mapping[str, Feature]:
        """Return the columns by name for Hugging Face's dataset card, with the classes of the dataset.

        The default is none: Hugging Face infers them, and classes are strings.

        Args:
            labels: all classes; the position of a class is its number.
        """
        del labels
        return {}

    @staticmethod
    def with_columns(features: Mapping[str, Feature], columns: Mapping[str, ColumnType]) -> Mapping[str, Feature]:
        """Return `features` with the columns of `Dataset.columns`.

        The default suits layouts whose readers see the values of `Sample.row` as columns.
        """
        return {**features, **columns}

    @staticmethod
    def extra_path(name: str) -> str | None:
        """Return the path of a sidecar file (README.md, images.csv, ...), or None to leave it out.

        The default is the top folder.
        """
        return name


def load(name: str) -> type[Layout]:
    """Return the layout of that name.

    Raises:
        PermanentError: when no such layout is installed, or its package is broken; the message has the nearest name.
    """
    found = LAYOUTS.load(name)
    if not (isinstance(found, type) and issubclass(found, Layout)):
        raise PermanentError(
            f"layout {name!r} cannot be used: {LAYOUTS.require(name).value} is not a subclass of {__name__}.Layout"
        )
    return found

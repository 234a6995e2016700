"""A table of the images, without the images."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from pixcrawler_worker.domain import tables
from pixcrawler_worker.exporters import features
from pixcrawler_worker.exporters.protocol import Entry, ExportFormat, Feature, Layout, Sample


class TableOnly(Layout):
    """One CSV file with the source URL and all metadata of each image."""

    summary: ClassVar[str] = "one CSV file with URLs and metadata, no images"
    export_formats: ClassVar[frozenset[ExportFormat]] = frozenset({ExportFormat.CSV})
    # Otherwise a title `NA` and an empty one are none.
    reader_options: ClassVar[Mapping[str, bool]] = MappingProxyType({"keep_default_na": False})

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name that the file of the image would have."""
        return f"{sample.stem}.{sample.extension}", iter(())

    @staticmethod
    def data_files(split: str | None) -> str | None:
        """Return the pattern of the table."""
        return None if split else "*.csv"

    @staticmethod
    def features(labels: Sequence[str]) -> Mapping[str, Feature]:
        """Return the columns of the table, with the classes as its cells have them."""
        return features.of_tables([str(tables.cell(label)) for label in labels])

    @staticmethod
    def extra_path(name: str) -> str | None:
        """Return the name of the table, and None for all other files."""
        return name if name == "images.csv" else None

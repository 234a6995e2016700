"""A table of the images, without the images."""

from collections.abc import Iterator
from typing import ClassVar

from pixcrawler_worker.exporters.protocol import Entry, ExportFormat, Layout, Sample


class TableOnly(Layout):
    """One CSV file with the source URL and all metadata of each image."""

    summary: ClassVar[str] = "one CSV file with URLs and metadata, no images"
    export_formats: ClassVar[frozenset[ExportFormat]] = frozenset({ExportFormat.CSV})

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name that the file of the image would have."""
        return f"{sample.stem}.{sample.extension}", iter(())

    @staticmethod
    def data_files(split: str | None) -> str | None:
        """Return the pattern of the table."""
        return None if split else "*.csv"

    @staticmethod
    def extra_path(name: str) -> str | None:
        """Return the name of the table, and None for all other files."""
        return name if name == "images.csv" else None

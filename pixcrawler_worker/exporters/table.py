"""A table of the images, without them."""

from collections.abc import Iterator
from typing import ClassVar

from pixcrawler_worker.exporters.protocol import Entry, ExportFormat, Layout, Sample


class TableOnly(Layout):
    """One CSV file: where each image was found, and all that is known of it."""

    summary: ClassVar[str] = "one CSV file with addresses and metadata, no images"
    export_formats: ClassVar[frozenset[ExportFormat]] = frozenset({ExportFormat.CSV})

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name that the image's file would have."""
        return f"{sample.stem}.{sample.extension}", iter(())

    @staticmethod
    def data_files(split: str | None) -> str | None:
        """Return the table."""
        return None if split else "*.csv"

    @staticmethod
    def extra_path(name: str) -> str | None:
        """Return that the table is all there is."""
        return name if name == "images.csv" else None

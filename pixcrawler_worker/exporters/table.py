"""A table of the images, without them."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.exporters.protocol import Dataset, Entry, ExportFormat, Sample


class TableOnly:
    """One CSV file: where each image was found, and all that is known of it."""

    summary: ClassVar[str] = "one CSV file with addresses and metadata, no images"
    carriers: ClassVar[frozenset[ExportFormat]] = frozenset({ExportFormat.CSV})
    formats: ClassVar[tuple[str, ...]] = FORMATS
    default_splits: ClassVar[Mapping[str, float]] = {}
    split_per_part: ClassVar[bool] = False

    def __init__(self, dataset: Dataset) -> None:
        del dataset

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the name that the image's file would have."""
        return f"{sample.stem}.{sample.extension}", iter(())

    def close(self) -> Iterator[Entry]:
        """Return nothing."""
        return iter(())

    @staticmethod
    def data_files(split: str | None) -> str | None:
        """Return the table."""
        return None if split else "*.csv"

    @staticmethod
    def extra_path(name: str) -> str | None:
        """Return that the table is all there is."""
        return name if name == "images.csv" else None

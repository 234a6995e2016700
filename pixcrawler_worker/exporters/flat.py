"""All images in one folder, with a metadata file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pixcrawler_worker.exporters import features
from pixcrawler_worker.exporters.folders import EVERYTHING, Metadata
from pixcrawler_worker.exporters.one_folder import Images
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Feature, Layout, Sample


class Flat(Layout):
    """`images/<file>` with `metadata.jsonl`: class and split are columns of it."""

    summary: ClassVar[str] = "all images in one folder with a metadata.jsonl: scripts"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._images = Images(dataset, has_metadata=True)
        self._metadata = Metadata(dataset)

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the path of the image, and the image."""
        path = self._images.path(sample)
        self._metadata.add(path, sample)
        return path, iter([Entry(path, sample.body)])

    def close(self) -> Iterator[Entry]:
        """Return the metadata."""
        return self._metadata.entries()

    @staticmethod
    def data_files(split: str | None) -> str | Sequence[str] | None:
        """Return the patterns of all files; None for a split, because no pattern selects its files."""
        return None if split else EVERYTHING

    @staticmethod
    def features(labels: Sequence[str]) -> Mapping[str, Feature]:
        """Return the columns of the metadata, with the image."""
        return features.of_folders(labels)

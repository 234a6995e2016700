"""A folder per class, for torchvision's ImageFolder, Keras and Hugging Face's imagefolder."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pixcrawler_worker.exporters import features
from pixcrawler_worker.exporters.folders import EVERYTHING, Folders, Metadata
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Feature, Layout, Sample


class ImageFolder(Layout):
    """`<split>/<class>/<file>` with `metadata.jsonl`; without splits, `<class>/<file>`."""

    summary: ClassVar[str] = "a folder per class: torchvision, Keras, Hugging Face imagefolder"
    # torchvision ignores gif and avif without a warning.
    image_formats: ClassVar[tuple[str, ...]] = ("jpg", "png", "webp", "bmp", "tiff")

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._folders = Folders(dataset, has_metadata=True)
        self._metadata = Metadata(dataset)

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the path of the image, and the image."""
        path = self._folders.path(sample)
        self._metadata.add(path, sample)
        return path, iter([Entry(path, sample.body)])

    def close(self) -> Iterator[Entry]:
        """Return the metadata."""
        return self._metadata.entries()

    @staticmethod
    def data_files(split: str | None) -> str | Sequence[str] | None:
        """Return the pattern of the split's folder, or those of all files."""
        return f"{split}/**" if split else EVERYTHING

    @staticmethod
    def features(labels: Sequence[str]) -> Mapping[str, Feature]:
        """Return the columns of the metadata, with the image."""
        return features.of_folders(labels)

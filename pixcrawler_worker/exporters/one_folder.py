"""Paths of images in one folder for all classes."""

from dataclasses import replace

from pixcrawler_worker.exporters.folders import Folders
from pixcrawler_worker.exporters.protocol import Dataset, Sample

ROOT = "images"


class Images:
    """Paths `images/<file>`, with subfolders like those of `Folders`."""

    def __init__(self, dataset: Dataset, *, has_metadata: bool = False) -> None:
        self._folders = Folders(dataset, has_metadata=has_metadata)

    def path(self, sample: Sample) -> str:
        """Return the path of the next image."""
        # All images are treated as one class with the name of the folder.
        return self._folders.path(replace(sample, split=None, label=ROOT))

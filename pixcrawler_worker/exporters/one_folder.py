"""Where an image lies in a layout whose folders say nothing about it."""

from dataclasses import replace

from pixcrawler_worker.exporters.folders import Folders
from pixcrawler_worker.exporters.protocol import Dataset, Sample

ROOT = "images"


class Images:
    """Paths `images/<file>`, with subfolders where `Folders` has them, and for the same reasons."""

    def __init__(self, dataset: Dataset) -> None:
        self._folders = Folders(dataset)

    def path(self, sample: Sample) -> str:
        """Return the path of the next image."""
        # As if all of them were of one class of that name.
        return self._folders.path(replace(sample, split=None, label=ROOT))

"""A folder per split and class, as Ultralytics trains classifiers on."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample

#: Names a folder's class as it was asked for, and is what the folder of a class without images is there for.
_CLASS = "class.txt"
#: Such files that one archive may have: a ZIP has not many more places than an archive may have images.
_MOST = 4_000


class UltralyticsClassify(Layout):
    """`<split>/<class>/<file>`, with a folder for every class in every split.

    Ultralytics numbers the classes of each split by that split's folders (`ClassificationDataset` is torchvision's
    ImageFolder). A class that has no folder in `val` would shift the numbers of all that come after it, and the
    validation would judge them by wrong labels. So a class without images in a split has its folder there too, with
    `class.txt` in it; torchvision allows that from 0.18 on, and older ones stop with an error rather than count wrong.
    `check_cls_dataset` still tells in the log that images of some classes are missing, which is true.

    The same check takes every folder with images for a class, at any depth: there are no subfolders, however many files
    a class has and however many archives there are. Files never share a name.
    """

    summary: ClassVar[str] = "train, val and test with a folder per class: Ultralytics YOLO classification"
    # What is both in Ultralytics' IMG_FORMATS and in torchvision's IMG_EXTENSIONS: neither has gif or avif.
    image_formats: ClassVar[tuple[str, ...]] = ("jpg", "png", "webp", "bmp", "tiff")
    default_splits: ClassVar[Mapping[str, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        # Each archive looks after its share of the classes, so that no file is in two of them.
        mine = dataset.labels[dataset.part :: dataset.parts]
        if len(mine) * len(dataset.splits) > _MOST:
            raise PermanentError(
                f"layout yolo has a folder per class in each split, which {len(dataset.labels):,} classes in "
                f"{dataset.parts:,} archives are too many for: choose fewer classes, or smaller archives"
            )
        self._empty = {(split, label): None for split in dataset.splits for label in mine}

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the image's path, and the image."""
        if sample.split:
            self._empty.pop((sample.split, sample.label), None)
        path = f"{_folder(sample.split, sample.label)}/{sample.stem}.{sample.extension}"
        return path, iter([Entry(path, sample.body)])

    def close(self) -> Iterator[Entry]:
        """Return a file for each folder that no image of this archive makes."""
        for split, label in self._empty:
            yield Entry(f"{_folder(split, label)}/{_CLASS}", f"{label}\n".encode())


def _folder(split: str | None, label: str) -> str:
    return "/".join(filter(None, (split, slug(label))))

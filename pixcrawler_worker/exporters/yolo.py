"""A folder per split and class, for training classifiers with Ultralytics YOLO."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pixcrawler_worker.domain.labels import class_folder
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample

#: The file in the folder of a class without images; contains the name of the class.
_CLASS_FILE = "class.txt"
#: Limit of these files in an archive: the limit of files in a ZIP is not much above the limit of images.
_MAX_EMPTY_FOLDERS = 4_000


class UltralyticsClassify(Layout):
    """`<split>/<class>/<file>`, with a folder for every class in every split.

    Ultralytics numbers the classes of each split by the folders of the split (`ClassificationDataset` is torchvision's
    ImageFolder). A class without a folder in `val` would shift the numbers of all classes after it, and the model would
    be evaluated with wrong labels. So a class without images in a split has a folder there, too, with `class.txt` in
    it. torchvision allows this since 0.18; older versions stop with an error. `check_cls_dataset` still logs a warning
    that images of some classes are missing, which is correct.

    `check_cls_dataset` takes every folder with images for a class, at any depth. So there are no subfolders, however
    many files a class has, and all parts write into the same folders. File names are unique.
    """

    summary: ClassVar[str] = "train, val and test with a folder per class: Ultralytics YOLO classification"
    # The formats in both Ultralytics' IMG_FORMATS and torchvision's IMG_EXTENSIONS: neither has gif or avif.
    image_formats: ClassVar[tuple[str, ...]] = ("jpg", "png", "webp", "bmp", "tiff")
    default_splits: ClassVar[Mapping[str, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}
    # Each has the folders of some classes.
    needs_all_archives: ClassVar[bool] = True

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        # Each archive has the files of a share of the classes, so that no file is in two archives.
        share = dataset.labels[dataset.part :: dataset.parts]
        if len(share) * len(dataset.splits) > _MAX_EMPTY_FOLDERS:
            raise PermanentError(
                f"layout yolo needs a folder per class in each split; {len(dataset.labels):,} classes in "
                f"{dataset.parts:,} archives are too many: select fewer classes, or make archives smaller"
            )
        self._empty = {(split, label): None for split in dataset.splits for label in share}

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the path of the image, and the image."""
        if sample.split:
            self._empty.pop((sample.split, sample.label), None)
        path = f"{_folder(sample.split, sample.label)}/{sample.stem}.{sample.extension}"
        return path, iter([Entry(path, sample.body)])

    def close(self) -> Iterator[Entry]:
        """Return a file for each folder without images in this archive."""
        for split, label in self._empty:
            yield Entry(f"{_folder(split, label)}/{_CLASS_FILE}", f"{label}\n".encode())


def _folder(split: str | None, label: str) -> str:
    return "/".join(filter(None, (split, class_folder(label))))

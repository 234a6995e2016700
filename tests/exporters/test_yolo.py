from pathlib import PurePosixPath

import pytest
from layout_samples import LABELS, SPLITS, archives, dataset, sample, write

from pixcrawler_worker.domain.labels import class_folder
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters.yolo import UltralyticsClassify


def classes(paths: set[str], split: str) -> set[str]:
    return {PurePosixPath(path).parts[1] for path in paths if path.startswith(f"{split}/")}


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_every_split_has_the_folders_of_all_classes_once_all_archives_are_unpacked(parts: int) -> None:
    paths: set[str] = set()
    # Too few images for every class to be in every split.
    for described, samples in archives(UltralyticsClassify, splits=SPLITS, parts=parts, count=5):
        paths |= set(write(UltralyticsClassify, described, samples).files)
    expected = {class_folder(label) for label in LABELS}
    assert [classes(paths, split) for split in SPLITS] == [expected] * 3


def test_a_class_without_images_has_a_file_that_names_it_and_others_have_none() -> None:
    described = dataset(splits=["train", "val"], labels=["Cat", "dog"])
    written = write(
        UltralyticsClassify,
        described,
        [
            sample(0, label="Cat", split="train"),
            sample(1, label="dog", split="train"),
            sample(2, label="dog", split="val"),
        ],
    )
    assert {path: body for path, body in written.files.items() if path.endswith(".txt")} == {
        f"val/{class_folder('Cat')}/class.txt": b"Cat\n"
    }


def test_a_class_has_one_folder_however_many_images_it_has() -> None:
    samples = [sample(number, split="train", body=b"%d" % number) for number in range(7_000)]
    for part, parts in ((0, 1), (2, 3)):
        written = write(UltralyticsClassify, dataset(splits=["train"], labels=["cat"], part=part, parts=parts), samples)
        assert {PurePosixPath(path).parent.as_posix() for path in written.images} == {"train/cat"}


def test_without_splits_there_is_a_folder_per_class() -> None:
    written = write(UltralyticsClassify, dataset(labels=["cat", "dog"]), [sample(0)])
    assert [path.count("/") for path in written.files] == [1]


def test_too_many_folders_for_an_archive_are_rejected_before_anything_is_written() -> None:
    labels = [str(number) for number in range(3_000)]
    with pytest.raises(PermanentError, match="3,000 classes in 1 archives"):
        UltralyticsClassify(dataset(splits=SPLITS, labels=labels))
    UltralyticsClassify(dataset(splits=SPLITS, labels=labels, part=1, parts=3))

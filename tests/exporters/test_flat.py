import json
from collections import Counter
from dataclasses import replace

import pytest
from layout_samples import dataset, sample, write

from pixcrawler_worker.exporters.flat import Flat
from pixcrawler_worker.exporters.imagefolder import ImageFolder
from pixcrawler_worker.exporters.protocol import Layout


def test_a_folder_has_at_most_the_limit_of_files_and_the_metadata_has_their_paths() -> None:
    written = write(Flat, replace(dataset(), max_files_per_dir=2), [sample(number) for number in range(5)])
    folders = [name.rpartition("/")[0] for name in written.names]
    assert folders == ["images", "images", "images/0001", "images/0001", "images/0002"]
    rows = [json.loads(line) for line in written.files["metadata.jsonl"].split(b"\n") if line]
    assert [row["file_name"] for row in rows] == list(written.names)
    assert {row["label"] for row in rows} == {"cat"}


@pytest.mark.parametrize("layout", [Flat, ImageFolder])
def test_a_folder_of_one_of_several_archives_has_room_for_its_metadata(layout: type[Layout]) -> None:
    described = replace(dataset(part=1, parts=2), max_files_per_dir=3)
    written = write(layout, described, [sample(number) for number in range(5)])
    folders = Counter(path.rpartition("/")[0] for path in written.files)
    assert sorted(folders.values()) == [2, 3, 3], "two images and their metadata"


def test_classes_and_splits_make_no_folders() -> None:
    samples = [sample(0, label="cat", split="train"), sample(1, label="dog", split="val")]
    written = write(Flat, dataset(splits=["train", "val"], labels=["cat", "dog"]), samples)
    assert [name.count("/") for name in written.names] == [1, 1]
    rows = [json.loads(line) for line in written.files["metadata.jsonl"].split(b"\n") if line]
    assert [(row["label"], row["split"]) for row in rows] == [("cat", "train"), ("dog", "val")]

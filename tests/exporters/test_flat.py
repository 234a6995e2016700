import json
from dataclasses import replace

from layout_samples import dataset, sample, write

from pixcrawler_worker.exporters.flat import Flat


def test_a_folder_has_at_most_the_limit_of_files_and_the_metadata_has_their_paths() -> None:
    written = write(Flat, replace(dataset(), max_files_per_dir=2), [sample(number) for number in range(5)])
    folders = [name.rpartition("/")[0] for name in written.names]
    assert folders == ["images", "images", "images/0001", "images/0001", "images/0002"]
    rows = [json.loads(line) for line in written.files["metadata.jsonl"].split(b"\n") if line]
    assert [row["file_name"] for row in rows] == list(written.names)
    assert {row["label"] for row in rows} == {"cat"}


def test_classes_and_splits_make_no_folders() -> None:
    samples = [sample(0, label="cat", split="train"), sample(1, label="dog", split="val")]
    written = write(Flat, dataset(splits=["train", "val"], labels=["cat", "dog"]), samples)
    assert [name.count("/") for name in written.names] == [1, 1]
    rows = [json.loads(line) for line in written.files["metadata.jsonl"].split(b"\n") if line]
    assert [(row["label"], row["split"]) for row in rows] == [("cat", "train"), ("dog", "val")]

import io
import json
import re
import sys
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pytest
from layout_samples import LABELS, SPLITS, archives, dataset, sample, write
from pyarrow import parquet

from pixcrawler_worker.domain.tables import COLUMNS, NUMBERS
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.parquet import Parquet


def opened(body: bytes) -> Any:
    return parquet.ParquetFile(io.BytesIO(body))


def test_a_row_is_an_image_with_all_its_metadata() -> None:
    for described, samples in archives(Parquet, splits=(), parts=1):
        written = write(Parquet, described, samples)
        (body,) = written.files.values()
        rows = opened(body).read().to_pylist()
        assert [row.pop("image") for row in rows] == [
            {"bytes": one.body, "path": f"{one.stem}.{one.extension}"} for one in samples
        ]
        assert [row.pop("file_name") for row in rows] == list(written.names)
        assert rows == [one.row for one in samples]
        assert {row["label"] for row in rows} == set(LABELS)


def test_the_schema_declares_the_column_of_images() -> None:
    (body,) = write(Parquet, dataset(), [sample(0)]).files.values()
    schema = opened(body).schema_arrow
    assert schema.names == ["image", *COLUMNS]
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["image"] == {"_type": "Image"}
    for name in COLUMNS:
        assert features[name] == {"dtype": "int64" if name in NUMBERS else "string", "_type": "Value"}
        assert schema.field(name).type == (pa.int64() if name in NUMBERS else pa.string())


def test_datasets_infers_the_splits_from_the_file_names() -> None:
    # Its SPLIT_PATTERN_SHARDED, tried before all other patterns.
    digits = "[0-9]" * 5
    paths = {split: f"data/{split}-{digits}-of-{digits}*.*" for split in (*SPLITS, "my_split")}
    described = dataset(splits=list(paths), part=2, parts=7)
    written = write(Parquet, described, [sample(number, split=split) for number, split in enumerate(paths)])
    assert list(written.files) == [f"data/{split}-00002-of-00007-00000.parquet" for split in paths]
    for path, pattern in zip(written.files, paths.values(), strict=True):
        assert fnmatchcase(path, pattern)
    assert list(write(Parquet, dataset(), [sample(0)]).files) == ["data/train-00000-of-00001-00000.parquet"]


def test_a_row_group_has_at_most_a_hundred_rows() -> None:
    samples = [sample(number, body=b"x" * 1000) for number in range(250)]
    (body,) = write(Parquet, dataset(), samples).files.values()
    assert groups(body) == [100, 100, 50]
    # Row groups of large images have fewer rows, because they are in memory.
    (body,) = write(SmallGroups, dataset(), samples).files.values()
    assert groups(body) == [10] * 25


class SmallGroups(Parquet):
    full_group_bytes = 10_000


def groups(body: bytes) -> list[int]:
    metadata = opened(body).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_images_are_not_compressed_again() -> None:
    (body,) = write(Parquet, dataset(), [sample(number) for number in range(20)]).files.values()
    group = opened(body).metadata.row_group(0)
    columns = {group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)}
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert not columns["image.bytes"].is_stats_set
    assert columns["label"].compression == "SNAPPY"


def test_a_full_file_is_written_before_the_last_image() -> None:
    class SmallFiles(Parquet):
        full_file_bytes = 50_000

    made = SmallFiles(dataset(splits=SPLITS))
    early = [
        entry
        for number in range(300)
        for entry in made.add(sample(number, split=SPLITS[number % 3], body=bytes(1000)))[1]
    ]
    entries = [*early, *made.close()]
    assert [entry.path for entry in early] == [
        f"data/{split}-00000-of-00001-0000{number}.parquet" for number in (0, 1) for split in SPLITS
    ]
    bodies = [b"".join(entry.body.blocks()) for entry in entries if not isinstance(entry.body, bytes)]
    assert all(len(body) < 100_000 for body in bodies)
    assert sum(opened(body).metadata.num_rows for body in bodies) == 300
    assert len({entry.path for entry in entries}) == len(entries)


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pixcrawler_worker.exporters.parquet")
    with pytest.raises(PermanentError, match=re.escape("pip install 'pixcrawler-worker[parquet]'")):
        protocol.load("parquet")

"""Captions and columns of URL lists in every layout that has a place for them, without the readers themselves."""

import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_samples import SPLITS, Written, dataset, sample, write
from pyarrow import parquet

from pixcrawler_worker.domain.list_columns import ColumnFacts, ColumnType, ListColumns, kept_columns
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import Sample
from pixcrawler_worker.exporters.webdataset import WebDataset

COLUMNS: Mapping[str, ColumnType] = {
    "text": "string",
    "a.b c": "string",
    "count": "int64",
    "score": "float64",
    "is_cat": "bool",
}
HOSTILE = (
    'A cat, "asleep" on a mat.',
    "",
    "=HYPERLINK(1);+1",
    "<script>alert(1)</script></View>",
    "\u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629 \u732b \U0001f408",
    "x" * 100_000,
    "2024-05-06",
)


def samples(captions: Sequence[str] = HOSTILE, **values: Any) -> list[Sample]:
    return [
        sample(
            number,
            **{
                "text": caption,
                "a.b c": f"{number}, 'b'",
                "count": (-1) ** number * (2**63 - 1),
                "score": number / 3,
                "is_cat": number % 2 == 0,
            },
            **values,
        )
        for number, caption in enumerate(captions)
    ]


def written(layout: str, captions: Sequence[str] = HOSTILE) -> Written:
    return write(protocol.load(layout), dataset(columns=COLUMNS), samples(captions))


def of_row(row: Mapping[str, Value]) -> dict[str, Value]:
    return {name: row[name] for name in COLUMNS}


EXPECTED = [of_row(one.row) for one in samples()]


@pytest.mark.parametrize("layout", ["imagefolder", "flat"])
def test_metadata_has_all_columns_in_every_line(layout: str) -> None:
    lines = [json.loads(line) for line in written(layout).files["metadata.jsonl"].splitlines()]
    found = [{**of_row(line), "text": line["text"].rstrip()} for line in lines]
    assert found == EXPECTED
    assert len({tuple(line) for line in lines}) == 1
    # A column of dates only would become a column of times.
    assert [line["text"] for line in lines][-1] == "2024-05-06 "


def test_shards_have_a_text_file_for_each_image_if_one_has_a_caption() -> None:
    found = written("webdataset")
    stems = [path.removesuffix(".jpg") for path in found.files if path.endswith(".jpg")]
    assert list(found.files) == [f"{stem}.{kind}" for stem in stems for kind in ("jpg", "cls", "json", "txt")]
    assert [found.files[f"{stem}.txt"].decode() for stem in stems] == list(HOSTILE)
    assert [of_row(json.loads(found.files[f"{stem}.json"])) for stem in stems] == EXPECTED
    without = write(WebDataset, dataset(columns={"count": "int64"}), samples())
    assert not any(path.endswith(".txt") for path in without.files)


def test_coco_has_an_annotation_for_each_caption_and_attributes_of_each_image() -> None:
    files = written("coco").files
    instances = json.loads(files["annotations/instances_all.json"])
    captions = json.loads(files["annotations/captions_all.json"])
    assert instances["images"] == captions["images"]
    assert "categories" not in captions
    assert captions["licenses"] == instances["licenses"]
    by_image = {one["image_id"]: one["caption"] for one in captions["annotations"]}
    assert [by_image.get(image["id"], "") for image in captions["images"]] == list(HOSTILE)
    assert len(captions["annotations"]) == len(HOSTILE) - 1
    assert all(one["id"] > 0 for one in captions["annotations"])
    attributes = [image["attributes"] for image in captions["images"]]
    assert [{"text": text, **one} for text, one in zip(HOSTILE, attributes, strict=True)] == EXPECTED


def test_coco_has_files_of_captions_for_each_split_and_archive() -> None:
    layout = protocol.load("coco")
    described = dataset(splits=SPLITS, part=1, parts=2, columns={"text": "string"})
    found = write(layout, described, [sample(1, split="val", text="")]).files
    names = [f"annotations/{kind}_{split}-part-00001.json" for kind in ("instances", "captions") for split in SPLITS]
    assert [name for name in found if name.startswith("annotations")] == names
    documents = [json.loads(found[name]) for name in names[3:]]
    assert [(len(one["images"]), one["annotations"]) for one in documents] == [(0, []), (1, []), (0, [])]
    assert "attributes" not in documents[1]["images"][0]


def test_parquet_has_the_columns_with_their_types() -> None:
    (body,) = written("parquet").files.values()
    table = parquet.ParquetFile(io.BytesIO(body)).read()
    assert [of_row(row) for row in table.to_pylist()] == EXPECTED
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert {name: features[name]["dtype"] for name in COLUMNS} == COLUMNS
    types = {name: str(table.schema.field(name).type) for name in COLUMNS}
    assert types == {**COLUMNS, "score": "double"}


def test_tasks_show_the_captions() -> None:
    files = written("label_studio").files
    assert [of_row(task["data"]) for task in json.loads(files["tasks.json"])] == EXPECTED
    (text,) = ET.fromstring(files["label_config.xml"]).findall("Text")
    assert (text.get("name"), text.get("value")) == ("text", "$text")


def test_records_have_the_columns_as_features() -> None:
    (body,) = written("tfrecord").files.values()
    found = [features(example) for example in records(body)]
    for one, expected in zip(found, EXPECTED, strict=True):
        assert one["image/caption"] == str(expected["text"]).encode()
        assert one["a.b c"] == str(expected["a.b c"]).encode()
        assert one["count"] == expected["count"]
        assert one["score"] == struct.unpack("<f", struct.pack("<f", expected["score"]))[0]
        assert one["is_cat"] == int(bool(expected["is_cat"]))


@pytest.mark.parametrize("number", [1e300, -1e300, 3.5e38])
def test_a_number_that_has_no_32_bits_is_the_largest_that_has(number: float) -> None:
    described = dataset(columns={"score": "float64"})
    (body,) = write(protocol.load("tfrecord"), described, [sample(1, score=number)]).files.values()
    (found,) = (features(example)["score"] for example in records(body))
    assert isinstance(found, float)
    assert abs(found) == pytest.approx(3.4028234e38)
    assert (found > 0) == (number > 0)


@pytest.mark.parametrize("layout", list(protocol.LAYOUTS.installed()))
def test_columns_of_the_card_are_those_of_the_rows(layout: str) -> None:
    loaded = protocol.load(layout)
    described = loaded.features(["cat"])
    if not described:
        pytest.skip("the card has no columns of it")
    found = dict(loaded.with_columns(described, COLUMNS))
    rows = found["json"] if layout == "webdataset" else found
    assert isinstance(rows, Mapping)
    assert {name: rows[name] for name in COLUMNS} == COLUMNS
    if layout == "webdataset":
        assert list(found) == ["jpg", "cls", "json", "txt", "__key__", "__url__"]
        assert "txt" not in loaded.with_columns(described, {"count": "int64"})


@given(st.lists(st.text(), min_size=1, max_size=4), st.dictionaries(st.text(), st.text() | st.integers(), max_size=4))
@settings(max_examples=25, deadline=None)
def test_any_caption_and_any_columns_are_the_same_in_all_layouts(captions: list[str], row: dict[str, object]) -> None:
    kept = kept_columns(row) or {}
    facts = [list_columns_facts(key, value, images=len(captions)) for key, value in kept.items()]
    columns = ListColumns.of(facts, images=len(captions), has_captions=True, row_bytes=0)
    described = dataset(columns=columns.types)
    plain = [sample(at) for at in range(len(captions))]
    images = [
        replace(one, row={**one.row, **columns.values(caption, kept)})
        for one, caption in zip(plain, captions, strict=True)
    ]
    expected = [{name: one.row[name] for name in columns.types} for one in images]

    def files(layout: str) -> Mapping[str, bytes]:
        return write(protocol.load(layout), described, images).files

    shards = files("webdataset")
    assert [shards[f"{one.stem}.txt"].decode() for one in images] == [one.row["text"] for one in images]
    (table,) = files("parquet").values()
    read = {
        "webdataset": [json.loads(shards[f"{one.stem}.json"]) for one in images],
        "label_studio": [task["data"] for task in json.loads(files("label_studio")["tasks.json"])],
        "parquet": parquet.ParquetFile(io.BytesIO(table)).read().to_pylist(),
    }
    for rows in read.values():
        assert [{name: one[name] for name in columns.types} for one in rows] == expected
    (body,) = files("tfrecord").values()
    assert [features(one)["image/caption"] for one in records(body)] == [str(one["text"]).encode() for one in expected]


def list_columns_facts(key: str, value: object, *, images: int) -> ColumnFacts:
    is_number = isinstance(value, int)
    return ColumnFacts(key=key, values=images, numbers=is_number, integers=is_number, booleans=False)


# Reading records, as `tensorflow/core/example/feature.proto` has them


def records(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        (length,) = struct.unpack_from("<Q", body, at)
        yield body[at + 12 : at + 12 + length]
        at += 16 + length


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        length, at = varint(data, at)
        yield tag >> 3, data[at : at + length]
        at += length


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def features(example: bytes) -> dict[str, bytes | int | float]:
    found: dict[str, bytes | int | float] = {}
    ((_, listed),) = fields(example)
    for _, entry in fields(listed):
        (_, name), (_, feature) = fields(entry)
        ((kind, values),) = fields(feature)
        ((_, value),) = fields(values)
        match kind:
            case 1:
                found[name.decode()] = value
            case 2:
                found[name.decode()] = struct.unpack("<f", value)[0]
            case _:
                number, _ = varint(value, 0)
                found[name.decode()] = number - 2**64 if number >> 63 else number
    return found

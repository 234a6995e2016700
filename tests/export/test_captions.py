"""Exports of images with captions and columns of lists: which columns a dataset has, of which types."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ledger
import pytest
from doubles import query
from export import exporting
from export.exporting import (
    StoredImage,
    crawl_of,
    export,
    files,
    made,
    metadata_rows,
    stored_images,
    untarred,
    unzipped,
)

from pixcrawler_worker.domain.list_columns import MAX_COLUMNS
from pixcrawler_worker.domain.tables import COLUMNS
from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("nothing_else")


def listed(*rows: Mapping[str, object] | None, captions: Sequence[str | None] = ()) -> list[StoredImage]:
    """Return an image for each row of a list."""
    given = [*captions, *[None] * len(rows)]
    images = stored_images(len(rows))
    return [replace(one, columns=row, caption=caption) for one, row, caption in zip(images, rows, given, strict=False)]


def rows_of(runtime: Runtime, job: int, options: object = None) -> list[dict[str, Any]]:
    """Return what the lines of an export's metadata have besides the columns of every dataset."""
    rows = metadata_rows(made(runtime, export(runtime, job, options)))
    return [{name: value for name, value in row.items() if name not in {*COLUMNS, "path"}} for row in rows]


def sorted_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=json.dumps)


def test_a_dataset_without_lists_is_as_it_was(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(2))
    ref = export(runtime, job)
    archive = made(runtime, ref)
    assert [set(row) for row in metadata_rows(archive)] == [{*COLUMNS, "path"}] * 2
    assert archive["images.csv"].decode().splitlines()[0] == ",".join(COLUMNS)
    assert "captions" not in exporting.row(runtime, ref).export_options["result"]
    plans = query(runtime, "SELECT columns IS NULL FROM pixcrawler.export_plans WHERE export_job_id = :id", id=ref.id)
    assert plans == [(True,)]


def test_all_images_have_the_columns_of_any(runtime: Runtime) -> None:
    rows: list[Mapping[str, object] | None] = [{"a": 1, "b": "x"}, {"a": 2.5, "c": [1]}, None]
    job = crawl_of(runtime, listed(*rows, captions=["a cat"]))
    assert sorted_rows(rows_of(runtime, job)) == sorted_rows(
        [
            {"text": "a cat", "a": "1", "b": "x", "c": ""},
            {"text": "", "a": "2.5", "b": "", "c": "[1]"},
            {"text": "", "a": "", "b": "", "c": ""},
        ]
    )


def test_types_and_captions_are_those_of_the_selected_images(runtime: Runtime) -> None:
    images = listed({"a": 1, "b": True}, {"a": 2.5, "b": False}, {"a": "x", "c": None}, captions=[None, None, "a dog"])
    images = [replace(one, label=label) for one, label in zip(images, ("cat", "cat", "dog"), strict=True)]
    job = crawl_of(runtime, images)
    cats = rows_of(runtime, job, {"select": {"labels": ["cat"]}})
    assert sorted_rows(cats) == [{"a": 1.0, "b": True}, {"a": 2.5, "b": False}]
    assert {type(row["a"]) for row in cats} == {float}
    assert rows_of(runtime, job, {"select": {"labels": ["dog"]}}) == [{"text": "a dog", "a": "x"}]
    assert {type(row["a"]) for row in rows_of(runtime, job)} == {str}


@pytest.mark.parametrize(
    ("values", "exported"),
    [
        (["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)]),
        (["9223372036854775808", "1"], [float(2**63), 1.0]),
        (["1.0", "2"], [1.0, 2.0]),
        (["1e400", "1"], ["1" + "0" * 400, "1"]),
        # The whole row cannot be read by Python.
        (["1" + "0" * 5000, "1"], ["", "1"]),
        (["null", "null"], []),
        (["true", "false"], [True, False]),
        (["true", "1"], ["true", "1"]),
    ],
)
def test_numbers_that_another_program_has_written_have_one_type(
    runtime: Runtime, values: Sequence[str], exported: list[object]
) -> None:
    job = crawl_of(runtime, stored_images(2))
    ids = [row[0] for row in query(runtime, "SELECT id FROM images WHERE crawl_job_id = :job ORDER BY id", job=job)]
    for image_id, value in zip(ids, values, strict=True):
        ledger.execute(
            runtime.sessions,
            "UPDATE pixcrawler.image_facts SET columns = CAST(:value AS jsonb) WHERE image_id = :id",
            value=f'{{"a": {value}}}',
            id=image_id,
        )
    found = [row["a"] for row in rows_of(runtime, job) if "a" in row]
    assert sorted(map(repr, found)) == sorted(map(repr, exported))


@pytest.mark.parametrize("odd", ['"text"', "[1]", "7", '{"\\u202e": {"a": "\\u202e"}}', "{}", "[" * 200 + "]" * 200])
def test_columns_that_another_program_has_written_cost_no_image(runtime: Runtime, odd: str) -> None:
    job = crawl_of(runtime, stored_images(2))
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.image_facts SET columns = CAST(:odd AS jsonb), caption = '' WHERE crawl_job_id = :job",
        odd=odd,
        job=job,
    )
    for row in rows_of(runtime, job):
        assert row == ({"list_": '{"a": ""}'} if "202e" in odd else {})


def test_a_dataset_has_the_most_frequent_columns_and_one_for_the_others(runtime: Runtime) -> None:
    common = {f"c{number:03d}": number for number in range(MAX_COLUMNS)}
    first = {**common, "rare": "r"}
    job = crawl_of(runtime, listed(first, common, {"c000": 7}))
    rows = rows_of(runtime, job)
    assert {tuple(row) for row in rows} == {(*common, "other_columns")}
    assert sorted(row["other_columns"] for row in rows) == ["", "", '{"rare": "r"}']
    assert {type(row["c000"]) for row in rows} == {int}
    assert {type(row["c001"]) for row in rows} == {str}


def test_columns_are_the_same_in_all_archives_and_splits(runtime: Runtime) -> None:
    rows = [{"n": number, "only": "x"} if number == 3 else {"n": number} for number in range(12)]
    job = crawl_of(runtime, listed(*rows, captions=["a cat"]))
    options = {"archive": {"part_max_images": 5}, "splits": {"ratios": {"train": 0.5, "test": 0.5}}}

    def tables(layout: str, format_: str) -> Iterator[dict[str, bytes]]:
        ref = export(runtime, job, {**options, "layout": layout}, format_=format_)
        for name, body in files(runtime, ref).items():
            if name.endswith(".zip"):
                yield unzipped(body)
            elif name.endswith(".tar"):
                yield untarred(body)

    zips = list(tables("imagefolder", "zip"))
    assert len(zips) == 3
    lines = [row for archive in zips for row in metadata_rows(archive)]
    assert {tuple(row) for row in lines} == {(*COLUMNS, "text", "n", "only", "path")}
    headers = {body.splitlines()[0] for one in zips for name, body in one.items() if name.startswith("images")}
    assert headers == {f'{",".join(COLUMNS)},"text","n","only"'.encode()}
    shards = list(tables("webdataset", "tar"))
    assert len(shards) > 2
    for shard in shards:
        kinds = [name.rpartition(".")[2] for name in shard if not name.startswith("__meta__")]
        assert kinds == ["jpg", "cls", "json", "txt"] * (len(kinds) // 4)
    cards = [body for shard in zips for name, body in shard.items() if name.startswith("README")]
    assert len(cards) == 3
    assert all(b"- name: only\n" in card for card in cards)


def test_large_captions_are_read_in_small_pages_and_arrive_whole(runtime: Runtime) -> None:
    texts = [f"{number} " + "\N{CAT FACE}" * 100_000 for number in range(44)]
    job = crawl_of(runtime, listed(*[None] * 44, captions=texts))
    ref = export(runtime, job, {"layout": "table"}, format_="csv")
    (body,) = (body for name, body in files(runtime, ref).items() if name.endswith(".csv"))
    found = [row["text"] for row in csv.DictReader(io.StringIO(body.decode()))]
    assert sorted(found) == sorted(texts)


def test_the_sizes_of_captions_count_for_the_size_of_an_archive(runtime: Runtime) -> None:
    job = crawl_of(runtime, listed(*[{"x": "y" * 9_000}] * 8, captions=["x" * 100_000] * 8))
    limit = 1_000_000
    ref = export(runtime, job, {"layout": "webdataset", "archive": {"part_max_bytes": limit}}, format_="tar")
    sizes = [len(body) for name, body in files(runtime, ref).items() if name.endswith(".tar")]
    assert len(sizes) > 1
    assert max(sizes) <= limit


def test_a_label_of_a_list_is_a_class_like_any_other(runtime: Runtime) -> None:
    labels = ("cat", "../../etc", "train", "=1+1", "a\u202eb", "CON")
    images = [replace(one, label=label) for one, label in zip(stored_images(6), labels, strict=True)]
    archive = made(runtime, export(runtime, crawl_of(runtime, images)))
    rows = metadata_rows(archive)
    assert {row["label"] for row in rows} == {"cat", "../../etc", "train", "=1+1", "ab", "CON"}
    assert all(row["path"] in archive for row in rows)
    assert not any(part in {"..", "train", "con"} for row in rows for part in row["path"].split("/"))

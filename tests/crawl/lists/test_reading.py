"""Lists in the formats of the field: each gives the same URLs, as it is and compressed."""

import csv
import gzip
import io
import json
import math
import random
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_samples import FORMATS, URLS, Unseekable, table, written_parquet, zstandard
from pyarrow import parquet

from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.crawl.lists.rows import FOUND, Columns, Notes
from pixcrawler_worker.domain.list_columns import MAX_CAPTION
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError


def read(content: bytes, name: str = "list", column: str | None = None) -> list[ListRow]:
    return list(reading.read(io.BytesIO(content), name, Columns(column)))


def urls(content: bytes, column: str | None = None) -> list[str]:
    return [row.url for row in read(content, column=column)]


def message_of(content: bytes, column: str | None = None) -> str:
    with pytest.raises(PermanentError) as raised:
        read(content, column=column)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
    return str(raised.value)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard], ids=["plain", "gz", "zst"])
@pytest.mark.parametrize("content", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_urls(content: bytes, compress: Callable[[bytes], bytes]) -> None:
    assert urls(compress(content)) == URLS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_are_read_in_every_encoding_and_with_every_line_end(encoding: str, end: str) -> None:
    for content in (FORMATS["csv"], FORMATS["tsv"], FORMATS["JSON Lines"], FORMATS["array, indented"]):
        assert urls(content.decode().replace("\n", end).encode(encoding)) == URLS


def test_numbers_are_those_of_the_lines_that_rows_begin_in() -> None:
    quoted = 'url,caption\r\nhttp://a.example/1,"a\r\nb"\r\n\r\nhttp://a.example/2,c\r\n'
    assert [(row.number, row.url) for row in read(quoted.encode())] == [
        (2, "http://a.example/1"),
        (5, "http://a.example/2"),
    ]
    indented = json.dumps(["http://a.example/1", "http://a.example/2"], indent=1)
    assert [line.number for line in read(indented.encode())] == [2, 3]
    assert [line.number for line in read(FORMATS["parquet"])] == [1, 2, 3]


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (("page_url", "url"), 1),
        (("url", "image_url"), 0),
        (("id", "Image-URL"), 1),
        (("landing", "SOURCE_URL"), 1),
        (("photo_url", "photo_image_url"), 1),
        (("link", "image_link"), 1),
    ],
)
def test_the_column_is_found_by_its_name(header: tuple[str, str], chosen: int) -> None:
    rows = [(f"http://a.example/a/{number}", f"http://a.example/b/{number}") for number in range(3)]
    assert urls(table(",", header, *rows)) == [row[chosen] for row in rows]
    other = 1 - chosen
    assert urls(table(",", header, *rows), column=header[other]) == [row[other] for row in rows]
    assert urls(table(",", header, *rows), column=header[other].upper()) == [row[other] for row in rows]


def test_a_column_of_the_right_name_without_urls_is_not_it() -> None:
    rows = [(f"{number}.jpg", f"http://a.example/{number}") for number in range(3)]
    assert urls(table(",", ("image", "where"), *rows)) == [row[1] for row in rows]


def test_a_column_that_is_not_there_or_not_clear_is_an_error_that_lists_them() -> None:
    assert message_of(FORMATS["csv"], "ulr") == "list has no column \"ulr\"; did you mean 'url'?"
    assert message_of(FORMATS["text"], "url") == ("list has no columns: --url-column is for CSV, TSV, JSON and Parquet")
    two = table(",", ("front", "back"), *((url, url) for url in URLS))
    assert message_of(two) == "list has several columns with URLs: choose one with --url-column, of front, back"
    assert message_of(b"name,age\na,1\nb,2\n") == (
        "list has no column with URLs among its first 2 rows: it has name, age"
    )
    assert message_of(written_parquet(name=["a"], tags=[["http://a.example/1"]])).endswith(": it has name, tags")
    assert message_of(json.dumps({"urls": URLS}).encode()).endswith(": it has urls")
    many = table(",", [f"c{number}" for number in range(100)], [str(number) for number in range(100)])
    assert message_of(many).endswith("c10, c11, and 88 more")
    assert message_of(b"[]") == message_of(b"[[1], 2]") == "list contains no URLs: it has no row that can be read"


def meant(content: bytes, columns: Columns = FOUND) -> tuple[list[ListRow], list[str]]:
    """Return the rows without their numbers, and what is said about them."""
    notes = Notes()
    rows = [replace(row, number=0) for row in reading.read(io.BytesIO(content), "list", columns, notes)]
    return rows, list(notes.lines("list"))


@pytest.mark.parametrize("name", ["caption", "TEXT", "alt", "Alt-Text", "image_caption"])
@pytest.mark.parametrize("label", ["label", "CLASS", "category_name"])
def test_captions_and_labels_are_found_by_their_usual_names(name: str, label: str) -> None:
    rows = meant(table(",", ("n", label, "url", name), ("1", "cat", URLS[0], "a red cat"), ("", " ", URLS[1], "")))
    assert rows == ([ListRow(URLS[0], "a red cat", "cat", {"n": "1"}), ListRow(URLS[1])], [])


def test_columns_are_chosen_by_name() -> None:
    content = table(",", ("caption", "alt", "kind", "url"), ("a", "b", "c", URLS[0]))
    assert meant(content) == ([ListRow(URLS[0], "a", None, {"alt": "b", "kind": "c"})], [])
    chosen = Columns(None, "Alt", "kind")
    assert meant(content, chosen) == ([ListRow(URLS[0], "b", "c", {"caption": "a"})], [])
    for columns, message in (
        (Columns(None, "captoin"), "list has no column \"captoin\"; did you mean 'caption'?"),
        (Columns(None, None, "none"), 'list has no column "none"; known are caption, alt, kind, url'),
        (Columns("url", "url"), 'list: the column "url" cannot be two things'),
        (Columns(None, "alt", "alt"), 'list: the column "alt" cannot be two things'),
        (Columns("alt"), 'list has no URLs in its column "alt" among its first 1 rows: url has them'),
        (Columns(""), 'list has no column ""; known are caption, alt, kind, url'),
    ):
        with pytest.raises(PermanentError) as raised:
            meant(content, columns)
        assert str(raised.value) == message


def test_an_empty_name_stands_for_no_column() -> None:
    content = table(",", ("caption", "label", "url"), ("a", "b", URLS[0]))
    assert meant(content, Columns(None, "", "")) == ([ListRow(URLS[0], columns={"caption": "a", "label": "b"})], [])
    later = [{"url": URLS[0]}] * 150 + [{"url": URLS[0], "caption": "a", "label": "b"}]
    rows, _ = meant(json.dumps(later).encode(), Columns(None, "", ""))
    assert rows[-1] == ListRow(URLS[0], columns={"caption": "a", "label": "b"})
    assert meant(FORMATS["text"], Columns(None, "", "")) == ([ListRow(url) for url in URLS], [])


@pytest.mark.parametrize(
    ("rows", "labels", "count"),
    [
        (100, 100, "100 labels in 100 rows"),
        (299, 100, "100 labels in 299 rows"),
        (300, 100, None),
        (99, 99, None),
        (11_000, 10_500, "10,000 labels in the first 10,000 rows"),
    ],
)
def test_a_label_column_that_looks_like_ids_is_named_unless_it_was_chosen(
    rows: int, labels: int, count: str | None
) -> None:
    content = table(",", ("url", "category"), *((URLS[0], f"id {at % labels}") for at in range(rows)))
    found, lines = meant(content)
    assert len({row.label for row in found}) == labels
    line = (
        f'list: the column "category" has {count}, as a column of ids has. If it has no classes, choose another one '
        'with --label-column, or "" for none'
    )
    assert lines == ([line] if count else [])
    assert meant(content, Columns(None, None, "category")) == (found, [])


def test_values_of_any_type_are_kept_in_json() -> None:
    odd: dict[str, object] = {
        "n": 1,
        "x": 0.5,
        "is": True,
        "none": None,
        "nan": math.nan,
        "list": [1, [None, "a"]],
        "object": {"a": {}},
    }
    kept = {"n": 1, "x": 0.5, "is": True, "list": [1, [None, "a"]], "object": {"a": {}}}
    content = "\n".join([json.dumps({"url": URLS[0], **odd}), json.dumps({"url": URLS[1], "n": "one"})])
    assert meant(content.encode()) == ([ListRow(URLS[0], columns=kept), ListRow(URLS[1], columns={"n": "one"})], [])
    mixed = [{"url": URLS[0], "caption": 5, "label": 3}, {"url": URLS[1], "caption": ["a", "b"], "label": True}]
    rows = [ListRow(URLS[0], "5", "3"), ListRow(URLS[1], '["a", "b"]', "true")]
    assert meant(json.dumps(mixed).encode()) == (rows, [])


def test_columns_of_parquet_are_kept_in_json() -> None:
    days = [datetime(2024, 1, 2, tzinfo=UTC), None]
    content = written_parquet(
        url=pa.array([url.encode() for url in URLS[:2]]),
        at=pa.array(days, pa.timestamp("us", "UTC")),
        nanoseconds=pa.array([1, None], pa.timestamp("ns")),
        far=pa.array([10**12, None], pa.timestamp("s")),
        price=pa.array([Decimal("1.50"), None]),
        word=pa.array(["a", None]).dictionary_encode(),
        map=pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        deep=[{"x": [{"y": 1}]}, None],
        text=pa.array([b"a red cat", b"\xff\xd8\xff"]),
        image=[{"bytes": b"\xff\xd8\xff", "path": "1.jpg"}] * 2,
    )
    (first, second), said = meant(content)
    assert said == []
    assert second == ListRow(URLS[1])
    columns = dict(first.columns)
    assert "value out of range" in str(columns.pop("far"))
    assert (first.url, first.caption) == (URLS[0], "a red cat")
    assert columns == {
        "at": "2024-01-02T00:00:00+00:00",
        "nanoseconds": "1970-01-01 00:00:00.000000001",
        "price": "1.50",
        "word": "a",
        "map": {"a": 1},
        "deep": {"x": [{"y": 1}]},
    }


def test_what_is_changed_is_said_with_the_line_of_the_first_row() -> None:
    long, wide = "a" * 100_000, ["b" * 10_001, *("c" for _ in range(150))]
    header = ["url", "caption", "label", *(f"c{at}" for at in range(151))]
    rows = [
        header,
        [URLS[0], long, "cat"],
        ["", "none"],
        ["", "none"],
        [URLS[1], "a" * 200_000, "d" * 201],
        [URLS[2], "caf\xe9", "", *wide],
    ]
    content = "\n".join(",".join(row) for row in rows).encode("latin-1")
    found, said = meant(content)
    assert found[0] == ListRow(URLS[0], long, "cat")
    assert (len(found[3].caption or ""), found[3].label, found[3].columns) == (MAX_CAPTION, None, {"label": "d" * 201})
    assert (found[4].caption, len(found[4].columns), len(found[4].columns["c0"])) == ("caf\xe9", 100, 10_000)
    assert said == [
        "list, line 3: there is no URL, so that the row will be rejected as bad_url (2 rows in all)",
        f"list, line 5: the caption has more than {MAX_CAPTION:,} characters, and is cut off",
        "list, line 5: the label has more than 200 characters, and is kept as a column: the keyword is the label",
        "list, line 6: bytes that are not UTF-8 are read as Windows-1252: save the list as UTF-8 if that is wrong",
        "list, line 6: the columns are more or longer than is kept: 100 of them, 10,000 characters in each",
    ]


def test_values_that_are_nested_too_deeply_are_their_own_trouble() -> None:
    nested = json.dumps({"url": URLS[0], "n": 0}).replace("0}", "[" * 500 + "]" * 500 + "}")
    (row,), said = meant(nested.encode())
    assert row == ListRow(URLS[0], columns={"n": "(nested too deeply, or too large)"})
    assert len(said) == 1


def test_a_table_that_ends_within_quotation_marks_is_cut_off() -> None:
    for content in (b'url,caption\n%s,"a red', b'url,caption\n%s,"a\nred', b'caption;url\n"a ""red"" cat";"%s'):
        with_url = content % URLS[0].encode()
        assert message_of(with_url) == (
            "list is cut off: it ends within the quotation marks of a cell, in the row of line 2"
        )
        assert urls(with_url + b'"') == [URLS[0]]
    assert urls(b'url,caption\n%s,a "red" cat\n%s,"a" b\n' % (URLS[0].encode(), URLS[1].encode())) == URLS[:2]


def test_a_row_that_cannot_be_read_is_its_own_trouble() -> None:
    lines = [json.dumps({"url": url}) for url in URLS]
    broken = "\n".join([lines[0], '{"url": "http://a.exam', "17", lines[1], '{"url": null}', '{"text": "a"}', lines[2]])
    assert urls(broken.encode()) == [URLS[0], '{"url": "http://a.exam', "17", URLS[1], "", "", URLS[2]]
    shifted = f"url,caption\n{URLS[0]},a, b and c\n{URLS[1]},a\n,no\n{URLS[2]}\n"
    assert urls(shifted.encode()) == [f"3 cells for 2 columns: {URLS[0]},a,b and c", URLS[1], "", URLS[2]]
    assert urls(json.dumps([URLS[0], 5, None, {"a": 1}, URLS[1]]).encode()) == [URLS[0], "5", "null", "", URLS[1]]
    assert urls(f"url,t\n{URLS[0]},x\n".encode() + b"http://a.example/pe\xf1a,\xff\n") == [
        URLS[0],
        "http://a.example/pe%F1a",
    ]
    assert urls(written_parquet(url=[URLS[0], None, "", "no"])) == [URLS[0], "", "", "no"]


@pytest.mark.parametrize("format_", ["csv", "JSON Lines", "array", "text"])
@pytest.mark.parametrize("compress", [gzip.compress, zstandard], ids=["gz", "zst"])
def test_what_is_cut_off_is_an_error_that_names_the_list(format_: str, compress: Callable[[bytes], bytes]) -> None:
    noise = random.Random(1)
    longer = [f"http://a.example/{noise.random()}" for _ in range(20_000)]
    content = {
        "csv": table(",", ("url", "n"), *((url, "1") for url in longer)),
        "JSON Lines": "\n".join(json.dumps({"url": url}) for url in longer).encode(),
        "array": json.dumps(longer).encode(),
        "text": "\n".join(longer).encode(),
    }[format_]
    packed = compress(content)
    assert message_of(packed[: len(packed) // 2]).startswith("list ")
    if compress is gzip.compress:
        # It has a checksum; Zstandard may have none.
        damaged = packed[:-8] + bytes(4) + packed[-4:]
        assert message_of(damaged).startswith("list cannot be read: ")


def test_what_is_wrong_with_a_compressed_list_is_said_with_what_to_do() -> None:
    packed = zstandard(FORMATS["csv"])
    assert message_of(packed[:-1]) == "list is cut off: it ends in the middle of what is compressed"
    assert message_of(packed + b"more").endswith(": what follows the end of its compressed data is something else")
    # Frames with a dictionary, and with a window of 2 GB, as zstd -D and zstd --long=31 write them.
    dictionary, window = b"\x21\x07\x01\x09\x00\x00", b"\x00\xa8\x01\x00\x00"
    assert message_of(packed[:4] + dictionary).endswith("unpack it with its dictionary, zstd -d -D DICTIONARY")
    assert message_of(packed[:4] + window).endswith(": unpack it with zstd -d --long=31")


def test_the_first_row_that_cannot_be_read_is_shown_where_none_can() -> None:
    assert message_of(b"url,caption\n'http://a.example/1','a, b'\n") == (
        "list contains no URLs: it has no row that can be read. Line 2 is \"3 cells for 2 columns: 'http://a.example/1',"
        "'a,b'\""
    )


def test_json_that_is_cut_off_or_none_is_an_error_with_the_line() -> None:
    assert message_of(b'["http://a.example/1",\n"http://a.example/2"') == (
        "list is cut off: its array does not end (line 2)"
    )
    assert message_of(b'["http://a.example/1",\nnot json]') == (
        'list, line 2: expected JSON: a URL or an object, got "not json]"'
    )
    assert "nested too deeply" in message_of(b"[" + b'{"a":' * 100_000)


def test_a_parquet_file_that_is_damaged_is_an_error() -> None:
    content = FORMATS["parquet"]
    assert message_of(content[: len(content) // 2]).startswith("list cannot be read as Parquet: ")
    assert message_of(b"PAR1").startswith("list cannot be read as Parquet: ")


def test_a_quotation_mark_that_is_not_closed_does_not_take_all_memory() -> None:
    swallowing = b'url,caption\nhttp://a.example/1,"a\n' + b"http://a.example/2,b\n" * 100_000
    assert message_of(swallowing) == (
        "list, line 2: a cell of more than 1,048,576 characters: is a quotation mark not closed?"
    )
    assert "a line of more than 1,048,576 characters" in message_of(
        b"url,caption\nhttp://a.example/1," + b"a" * 3_000_000
    )
    assert urls(b"url,caption\nhttp://a.example/1," + b"a" * 100_000) == ["http://a.example/1"]


class Repeated(io.RawIOBase):
    """A file that repeats itself, after a start, and counts what is read of it."""

    def __init__(self, start: bytes, again: bytes, times: int) -> None:
        self._parts = self._all(start, again, times)
        self._rest = b""

    @staticmethod
    def _all(start: bytes, again: bytes, times: int) -> Iterator[bytes]:
        yield start
        for _ in range(times // 1000):
            yield again * 1000

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"url,caption\n", b"http://a.example/1,a red cat\n"),
        (b"", b'{"url": "http://a.example/1", "caption": "a red cat"}\n'),
        (b"[", b'{"url": "http://a.example/1", "caption": "a red cat"},'),
    ],
    ids=["csv", "jsonl", "array"],
)
def test_a_long_list_is_not_held_in_memory(start: bytes, again: bytes) -> None:
    rows, file = 50_000, Repeated(start, again, 1_000_000)
    opened: BinaryIO = file  # type: ignore[assignment]  # what it has of a file suffices
    found = reading.read(opened, "long")
    for _ in range(rows // 10):
        next(found)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert {next(found).url for _ in range(rows)} == {"http://a.example/1"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_a_long_parquet_file_is_not_held_in_memory() -> None:
    noise, file = random.Random(1), io.BytesIO()
    for_each = pa.table({"url": [URLS[0]] * 1000, "noise": [noise.randbytes(500).hex() for _ in range(1000)]})
    with parquet.ParquetWriter(file, for_each.schema, use_dictionary=False, compression="none") as writer:
        for _ in range(40):
            writer.write_table(for_each)
    before, most = pa.total_allocated_bytes(), 0
    for row in reading.read(io.BytesIO(file.getvalue()), "list"):
        assert row.url == URLS[0]
        most = max(most, pa.total_allocated_bytes() - before)
    # The file has 40 MB, and a batch 4.
    assert most < 8 << 20


@given(
    st.lists(st.tuples(st.sampled_from(URLS), st.text(max_size=30)), min_size=1, max_size=8),
    st.sampled_from(["excel", "unix"]),
)
def test_what_a_program_writes_as_csv_is_read(rows: list[tuple[str, str]], dialect: str) -> None:
    written = [(url, text.replace("\x00", "")) for url, text in rows]
    file = io.StringIO()
    csv.writer(file, dialect).writerows([("url", "caption"), *written])
    assert urls(file.getvalue().encode("utf-8", "surrogatepass")) == [url for url, _ in written]


@given(st.lists(st.one_of(st.sampled_from(URLS), st.text(max_size=20)), max_size=6), st.sampled_from([None, 1]))
def test_any_array_is_read_or_rejected(values: list[str], indent: int | None) -> None:
    content = json.dumps(values, indent=indent).encode()
    if any(value in URLS for value in values):
        assert len(urls(content)) == len(values)
    else:
        assert "URL" in message_of(content)


@given(
    st.sampled_from([b"url,a\n", b'{"url":1}', b"[", b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"url\ta\n"]),
    st.binary(max_size=200),
)
def test_any_bytes_after_a_plausible_start_are_read_or_rejected(start: bytes, rest: bytes) -> None:
    try:
        read(start + rest)
    except PermanentError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may also be read


def test_a_file_is_read_once_and_may_be_a_pipe(tmp_path: Path) -> None:
    for name, content in FORMATS.items():
        path = tmp_path / name
        path.write_bytes(content)
        with path.open("rb", buffering=0) as file:
            pipe: BinaryIO = Unseekable(file)  # type: ignore[assignment]  # what it has of a file suffices
            assert [row.url for row in reading.read(pipe, name)] == URLS

"""Parquet files as odd programs write them: no column, and no row, is lost or costs the others."""

import contextlib
import io
import struct
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_samples import URLS, written_parquet
from pyarrow import parquet

from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.crawl.lists.rows import FOUND, Columns, Notes
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError


def read(content: bytes, columns: Columns = FOUND) -> tuple[list[ListRow], list[str]]:
    notes = Notes()
    rows = list(reading.read(io.BytesIO(content), "list", columns, notes))
    return rows, list(notes.lines("list"))


def texts(values: list[bytes]) -> pa.Array:
    """Return a column of texts with any bytes: pyarrow does not check them, on writing or reading."""
    ends = [sum(map(len, values[:at])) for at in range(len(values) + 1)]
    offsets = struct.pack(f"<{len(ends)}i", *ends)
    return pa.Array.from_buffers(
        pa.string(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values) or b"x")]
    )


def test_texts_that_are_not_utf_8_are_their_own_trouble() -> None:
    content = written_parquet(
        url=texts([URLS[0].encode(), b"http://a.example/\xff.jpg", URLS[2].encode()]),
        caption=texts([b"caf\xe9", b"b", "\u00e9".encode()]),
        tags=pa.ListArray.from_arrays(pa.array([0, 1, 2, 2]), texts([b"\xe9", b"x"])),
    )
    rows, said = read(content)
    assert [(row.url, row.caption, dict(row.columns)) for row in rows] == [
        (URLS[0], "caf\xe9", {"tags": ["\xe9"]}),
        ("http://a.example/%FF.jpg", "b", {"tags": ["x"]}),
        (URLS[2], "\xe9", {"tags": []}),
    ]
    assert said[0].startswith("list, row 1: bytes that are not UTF-8 are read as Windows-1252")


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=5))
def test_any_texts_are_read(values: list[bytes]) -> None:
    urls = [URLS[0]] * len(values)
    nested = pa.StructArray.from_arrays([texts(values)], names=["a"])
    rows, _ = read(written_parquet(url=urls, caption=texts(values), nested=nested))
    assert [row.url for row in rows] == urls


def test_columns_of_one_name_are_all_kept() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array(URLS[:1]), pa.array([2])], names=["x", "url", "x"])
    file = io.BytesIO()
    parquet.write_table(table, file)
    (row,), _ = read(file.getvalue())
    assert list(row.columns.values()) == [1, 2]
    assert row.columns["x"] == 1


def test_times_that_python_does_not_have_cost_no_other_value() -> None:
    content = written_parquet(
        url=URLS[:2],
        zone=pa.array([1, None], pa.timestamp("ms", "Nowhere/City")),
        nested=pa.array([[123456789], [1000]], pa.list_(pa.timestamp("ns"))),
        far=pa.array([2**55, 0], pa.timestamp("ms")),
        words=pa.array([b"a", b"\xff"]).dictionary_encode(),
    )
    (first, second), said = read(content)
    assert (first.columns["zone"], first.columns["nested"]) == (
        "1970-01-01 00:00:00.001Z",
        ["1970-01-01 00:00:00.123456789"],
    )
    assert "out of range" in first.columns["far"]
    assert (first.columns["words"], dict(second.columns)) == (
        "a",
        {"nested": ["1970-01-01T00:00:00.000001"], "far": "1970-01-01T00:00:00"},
    )
    assert said == []


def test_bytes_of_every_type_are_text_or_nothing() -> None:
    for type_ in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2)):
        content = written_parquet(url=URLS[:2], bytes=pa.array([b"ab", b"\xff\xd8"], type_))
        assert [dict(row.columns) for row in read(content)[0]] == [{"bytes": "ab"}, {}]


def test_numbers_of_more_than_64_bits_are_texts_of_which_nothing_is_lost() -> None:
    (row,), said = read(written_parquet(url=URLS[:1], n=pa.array([2**64 - 1], pa.uint64())))
    assert (row.columns, said) == ({"n": "18446744073709551615"}, [])


def test_urls_in_nested_columns_are_named() -> None:
    for column in ([URLS], [{"href": URLS[0]}]):
        with pytest.raises(PermanentError, match="those in image are in arrays or objects") as raised:
            read(written_parquet(image=column, n=[1]))
        assert str(raised.value).endswith(": it has image, n")


def test_files_in_place_of_urls_are_said() -> None:
    with pytest.raises(PermanentError) as raised:
        read(written_parquet(image=[{"bytes": b"\xff", "path": "1.jpg"}], n=[1]))
    assert str(raised.value) == (
        "list has no column with URLs among its first 1 rows (image has files instead, which are not read): it has n"
    )
    with pytest.raises(PermanentError, match="all of its rows are empty, or bytes that are no text"):
        read(written_parquet(image=[b"\xff"], n=[1]))


def test_urls_may_begin_after_many_rows_without_one() -> None:
    late = written_parquet(url=[None] * 200 + URLS, caption=["a"] * (200 + len(URLS)))
    for columns in (FOUND, Columns("url")):
        rows, said = read(late, columns)
        assert [row.url for row in rows] == [""] * 200 + URLS
        assert said == ["list, row 1: there is no URL, so that the row will be rejected as bad_url (200 rows in all)"]
    with pytest.raises(PermanentError, match='list has no URLs in its column "url": all of its rows are empty'):
        read(written_parquet(url=[None, None], caption=["a", "b"]))


@given(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_rejected(at: int, damage: bytes) -> None:
    whole = written_parquet(url=URLS, caption=["a", "b", "c"])
    at %= len(whole)
    with contextlib.suppress(PermanentError):
        read(whole[:at] + damage + whole[at + len(damage) :])


def test_names_of_columns_that_are_not_utf_8_are_an_error_of_the_file() -> None:
    content = written_parquet(url=URLS).replace(b"url", b"u\xffl")
    with pytest.raises(PermanentError, match="cannot be read as Parquet: "):
        read(content)


def test_what_is_damaged_or_encrypted_is_said_with_what_to_do() -> None:
    for content in (b"PAR1", written_parquet(url=URLS)[:-9]):
        with pytest.raises(PermanentError, match=r"cannot be read as Parquet: .*: get or write the file again\Z"):
            read(content)


def test_long_texts_of_many_rows_are_not_held_in_memory() -> None:
    long = ["a" * 100_000, "b" * 100_000]
    repeated = pa.DictionaryArray.from_arrays(pa.array([at % 2 for at in range(1000)], pa.int8()), pa.array(long))
    each = [f"{at}{long[0]}" for at in range(600)]
    files = [
        written_parquet(url=URLS[:1] * 1000, caption=repeated),
        written_parquet(url=URLS[:1] * 600, caption=each),
    ]
    for file in files:
        tracemalloc.start()
        try:
            assert {len(row.caption or "") // 100_000 for row in reading.read(io.BytesIO(file), "list")} == {1}
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # The columns are found by a hundred rows, which have 10 MB.
        assert most < 24 << 20

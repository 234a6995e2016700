"""Tables as odd programs write them."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_samples import URLS

from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.crawl.lists.rows import Columns, Notes, unique
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.errors import PermanentError


def read(content: bytes) -> tuple[list[ListRow], list[str]]:
    notes = Notes()
    with StoredList(reading.read(io.BytesIO(content), "list", notes=notes)) as stored:
        return list(stored.page(0, 1000)), list(notes.lines("list"))


def test_a_row_with_more_cells_than_the_header_is_no_url() -> None:
    rows, said = read(f"url,caption\n{URLS[0]},a, b and c\n{URLS[1]},d\n".encode())
    assert [row.url for row in rows] == [f"3 cells for 2 columns: {URLS[0]},a,b and c", URLS[1]]
    (line,) = said
    assert line == (
        "list, line 2: the row has more cells than columns, or is neither a URL nor an object: it will be rejected as "
        "bad_url"
    )


@pytest.mark.parametrize(
    ("content", "url", "other"),
    [
        ("a, b, c\thttp://a.example/1\nd\thttp://a.example/2\n", "http://a.example/1", "a, b, c"),
        ("http://a.example/w_1,h_2/1.jpg\ta\n", "http://a.example/w_1,h_2/1.jpg", "a"),
        ("url\twords (en, de, fr)\nhttp://a.example/1\ta, b\n", "http://a.example/1", "a, b"),
        ("url;words, all\nhttp://a.example/1;a, b\n", "http://a.example/1", "a, b"),
        ("Preis, brutto, EUR;Bild\n2,5;http://a.example/1\n", "http://a.example/1", "2,5"),
        ("http://a.example/1.jpg;a cat, small\nhttp://a.example/2.jpg;b c\n", "http://a.example/1.jpg", "a cat, small"),
        ("url,a;b;c\nhttp://a.example/1,d;e;f\n", "http://a.example/1", "d;e;f"),
        ("url;a;words, all\nhttp://a.example/1?b=1,2;;a\n", "http://a.example/1?b=1,2", "a"),
        ("id;words, all\n1;a, b\n2;http://a.example/1\n", "a, b", "1"),
    ],
)
def test_separators_within_cells_divide_none(content: str, url: str, other: str) -> None:
    first = read(content.encode())[0][0]
    assert (first.url, list(first.columns.values())) == (url, [other])


@pytest.mark.parametrize("end", ['z" w', '"z"', 'z"w,"v"'])
def test_a_quotation_mark_that_is_not_closed_costs_one_row(end: str) -> None:
    """Up to a quotation mark of another row, all would be one cell, and their images would be lost."""
    lines = [f'{URLS[0]},"open', f"{URLS[1]},b", f"{URLS[2]},{end}", f'{URLS[0]}4,"a\nb" ', f"{URLS[0]}5,c"]
    rows, said = read("\n".join(["url,caption", *lines]).encode())
    assert rows[0].url == f'a quotation mark that is not closed: {URLS[0]},"open'
    assert [(row.number, row.url) for row in rows][1] == (3, URLS[1])
    assert [(row.number, row.url, row.caption) for row in rows][-2:] == [
        (5, f"{URLS[0]}4", "a\nb"),
        (7, f"{URLS[0]}5", "c"),
    ]
    assert len(rows) == 5
    assert said[0] == (
        "list, line 2: a quotation mark is not closed, so that the line will be rejected as bad_url: write two for one "
        "in a cell"
    )


@pytest.mark.parametrize("url", ["", "N/A", "null", "ftp://a.example/1", "a.example/1.jpg"])
def test_a_first_row_without_a_url_is_no_header(url: str) -> None:
    rows, said = read(f"a cat\t{url}\na dog\t{URLS[1]}\na cow\t{URLS[2]}\n".encode())
    assert [(row.url, dict(row.columns)) for row in rows] == [
        (url, {"column 1": "a cat"}),
        (URLS[1], {"column 1": "a dog"}),
        (URLS[2], {"column 1": "a cow"}),
    ]
    assert said == ["list, line 1: there is no URL, so that the row will be rejected as bad_url"]


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_a_label_behind_each_url_is_a_column(separator: str) -> None:
    for number, url in enumerate(("http://a.example/1.jpg", "http://a.example/1")[: 1 + (separator == "|")]):
        rows, said = read(f"{url}{separator}cat\n{url}{number}{separator}snow leopard\n".encode())
        assert [(row.url, dict(row.columns)) for row in rows] == [
            (url, {"column 2": "cat"}),
            (f"{url}{number}", {"column 2": "snow leopard"}),
        ]
        assert said == []


@pytest.mark.parametrize("line", ['{};"a; ""b"""', "{}|#tag; a", '{}?a=1;"b"'])
def test_what_no_url_has_begins_a_column(line: str) -> None:
    urls = ["http://a.example/1.jpg", "http://a.example/2"]
    rows, _ = read("\n".join(map(line.format, urls)).encode())
    assert [row.url.partition("?a")[0] for row in rows] == urls
    assert all(row.columns for row in rows)


def test_a_first_row_of_several_lines_is_no_header() -> None:
    for separator in ",;|":
        first = separator.join(['"a ""cat"""', '"on two\nlines"', URLS[0]])
        rows, said = read(f"{first}\nb{separator}c{separator}{URLS[1]}\n".encode())
        assert [(row.number, row.url, dict(row.columns)) for row in rows] == [
            (1, URLS[0], {"column 1": 'a "cat"', "column 2": "on two\nlines"}),
            (3, URLS[1], {"column 1": "b", "column 2": "c"}),
        ]
        assert said == []


def test_lines_before_a_table_are_said() -> None:
    with pytest.raises(
        PermanentError, match=r"looks like CSV .*: remove the lines before the table, or write its URLs"
    ):
        read(f"My cats\nof 2026\n\nid,url\n1,{URLS[0]}\n2,{URLS[1]}\n".encode())


def test_captions_that_begin_as_comments_are_rows() -> None:
    for separator in ",\t":
        listed = [f"# cats{separator}2026", "; more", f"#cat{separator}{URLS[0]}", "", f"dog{separator}{URLS[1]}"]
        rows, said = read("\n".join(listed).encode())
        assert [(row.number, row.url, dict(row.columns)) for row in rows] == [
            (3, URLS[0], {"column 1": "#cat"}),
            (5, URLS[1], {"column 1": "dog"}),
        ]
        assert said == []


def test_a_header_may_begin_as_a_comment() -> None:
    for header in ("#caption,url", "# Caption, URL", "# cats, 2026\n#x,http://a.example/old\n#caption,url"):
        rows, said = read(f"{header}\na,{URLS[0]}\n".encode())
        assert ([(row.url, row.caption) for row in rows], said) == ([(URLS[0], "a")], [])
    # A comment, and a header after comments.
    for comment in ("# of cats, text", "# url", "# caption,url\ncaption,url"):
        (row,), _ = read(f"{comment}\na,{URLS[0]}\n".encode())
        assert row.url == URLS[0]


def test_names_of_columns_are_read_in_another_encoding() -> None:
    (row,), _ = read(f"url,Gr\xf6\xdfe,caf\xe9\n{URLS[0]},1,2\n".encode("latin-1"))
    assert row.columns == {"Gr\xf6\xdfe": "1", "caf\xe9": "2"}


def test_a_slash_in_the_name_of_a_column_does_not_make_it_text() -> None:
    for header in ("url,w/h,n", "n/a,url,../x"):
        assert [row.url for row in read(f"{header}\n{URLS[0]},{URLS[1]},1\n".encode())[0]] in ([URLS[0]], [URLS[1]])


def test_a_table_without_header_is_one_when_captions_have_commas() -> None:
    rows, _ = read(b"http://a.example/1.jpg,a cat,1\nhttp://a.example/2.jpg,b,2\n")
    assert [(row.url, dict(row.columns)) for row in rows] == [
        ("http://a.example/1.jpg", {"column 2": "a cat", "column 3": "1"}),
        ("http://a.example/2.jpg", {"column 2": "b", "column 3": "2"}),
    ]


def test_captions_of_100_kb_are_read_in_the_first_row_without_header() -> None:
    caption = "a cat " * 17_000
    for content in (f"{URLS[0]}\t{caption}\n{URLS[1]}\tb\n", f"{caption}\t{URLS[0]}\nb\t{URLS[1]}\n"):
        assert [row.url for row in read(content.encode())[0]] == URLS[:2]


def test_the_end_of_a_dos_file_is_no_row() -> None:
    rows, said = read(f"url,caption\r\n{URLS[0]},a\r\n\x1a".encode())
    assert ([row.url for row in rows], said) == (URLS[:1], [])


@given(st.lists(st.sampled_from(["", "a", "b", "column 1", "column 2", "column 3"])))
def test_names_of_columns_are_unique_and_stay_where_they_can(names: list[str]) -> None:
    found = unique(names)
    assert len(set(found)) == len(found) == len(names)
    assert all(
        new == old for at, (new, old) in enumerate(zip(found, names, strict=True)) if old and old not in names[:at]
    )


def test_names_of_columns_in_messages_have_one_line() -> None:
    for columns in (Columns(), Columns("zzzz")):
        with pytest.raises(PermanentError, match="a b") as raised:
            list(reading.read(io.BytesIO(b'url,"a\nb",c\nx,y,z\n'), "list", columns))
        assert "\n" not in str(raised.value)

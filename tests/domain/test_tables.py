import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.safe_text import safe


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("cat", "cat"),
        ("", ""),
        (None, ""),
        (7, 7),
        (-7, -7),
        ("a=b", "a=b"),
        ("=1", "'=1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@a", "'@a"),
        ("  =1", "'  =1"),
        ("  a", "  a"),
        ("\t=1", "' =1"),
        ("\r=1", "' =1"),
        ("\n=1", "' =1"),
        ("\u202e=1", "'=1"),
        ('"=1', "'\"=1"),
        ("'=1", "''=1"),
        ("ok;=cmd|' /C calc'!A0", "ok;'=cmd|' /C calc'!A0"),
        ('a; "+1;b;-1', "a;' \"+1;b;'-1"),
        ("a;", "a;'"),
        ("a; b", "a; b"),
        ("https://a/?b;=c", "https://a/?b;'=c"),
        ("\u2800=1", "' =1"),
        ("ok;\u115f=1", "ok;' =1"),
        ("`\u200d=1", "'`\u200d=1"),
        ("'\ufe0f=1", "''\ufe0f=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff20a", "'\uff20a"),
    ],
)
def test_a_cell_is_text_to_every_spreadsheet(value: object, shown: object) -> None:
    assert tables.cell(value) == shown


def test_every_format_has_a_media_type() -> None:
    assert set(tables.MIME) == set(FORMATS)


#: What may be before a formula, what begins one, and what divides lines or cells.
PIECES = st.sampled_from(
    [
        *" ;,\t\n\r\"'`=+-@|a1",
        "\uff1d",
        "\uff0b",
        "\uff0d",
        "\uff20",
        "\u201c",
        "\u202e",
        "\x1b",
        "\0",
        "é",
        ";=",
        '";"',
    ]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join), st.text(st.characters(exclude_categories=()), max_size=20)
)
FORMULA = re.compile('[\\s"\u201c\u201d]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\\s"]*[\t\r\n]')


@settings(max_examples=400)
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_no_cell_of_a_file_is_a_formula_whatever_divides_its_lines(rows: list[list[str]]) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        writer.writerow([tables.cell(text) for text in row])
    text = file.getvalue()
    for delimiter in ",;\t":
        for skips in (False, True):
            read = list(csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=skips))
            found = [cell for line in read for cell in line if FORMULA.match(cell)]
            assert found == [], (delimiter, text)
            assert len(read) == len(rows)
    assert list(csv.reader(io.StringIO(text))) == [[tables.cell(text) for text in row] for row in rows]
    # Without regard to quotation marks, as some scripts do it.
    for line in text.splitlines():
        assert not [cell for cell in line.split(";") if FORMULA.match(cell)]


@settings(max_examples=400)
@given(TEXTS)
def test_the_text_of_a_cell_can_be_read_back(text: str) -> None:
    assert tables.text_of(str(tables.cell(text))) == safe(text)

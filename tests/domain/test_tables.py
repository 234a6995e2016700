import pytest

from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.facts import FORMATS


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
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
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

"""Columns of the tables of a dataset, and escaping of their cells.

Spreadsheets evaluate a cell as a formula by its first character, and divide the lines of a CSV file by the separator of
the country: by `;` in most of Europe, in spite of the quotation marks around a cell that has one after a comma. So a
text gets an apostrophe before each formula that begins it, or begins after a `;` in it. Tabs are spaces in safe text.
`text_of` removes these apostrophes, and no others: a URL in a table can be read back.
"""

import re
from collections.abc import Iterable, Mapping
from operator import itemgetter

from pixcrawler_worker.domain.safe_text import MAX_LENGTH, safe

#: File name of the table in an archive.
NAME = "images.csv"
#: Columns of every table, in their order. None of them is null: unknown texts are empty, so that all values of a column
#: have one type.
COLUMNS = (
    "file_name",
    "label",
    "split",
    "width",
    "height",
    "bytes",
    "sha256",
    "phash",
    "mime",
    "source_url",
    "page_url",
    "title",
    "author",
    "license",
    "license_url",
    "attribution",
    "engine",
    "query",
    "crawled_at",
    "flags",
)
#: The columns with integers.
NUMBERS = frozenset({"width", "height", "bytes"})
Value = str | int | float
_get_values = itemgetter(*COLUMNS[1:])

MIME = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "avif": "image/avif",
    "heic": "image/heic",
    "jxl": "image/jxl",
}

#: Characters of a cell with which Python's csv reads it.
MAX_CELL = 131_072
#: The columns with URLs.
URLS = frozenset({"source_url", "page_url", "license_url"})
#: Spreadsheets evaluate cells with these first characters as formulas, including the full-width and the small forms
#: (OWASP, "CSV Injection"). Tabs and line ends are not in safe text.
_FORMULAS = "=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"
#: What readers may skip at the beginning of a cell, and what is not seen after it.
_SKIPPED = "\\s\"'`\u2018-\u201f\u00ab\u00bb\u2039\u203a\uff02\uff07\u200c\u200d\ufe00-\ufe0f"
#: Where a formula may begin. After a `;` it is also where nothing follows in the cell: the quotation mark at its end
#: would be the beginning of a cell that goes on in the next line.
_UNSAFE = re.compile(rf"\A(?=[{_SKIPPED}]*[{_FORMULAS}])|(?<=;)(?=[{_SKIPPED}]*(?:[{_FORMULAS}]|\Z))")
_MARKED = re.compile(rf"(?:\A|(?<=;))'(?=[{_SKIPPED}]*[{_FORMULAS}])|(?<=;)'(?=[{_SKIPPED}]*\Z)")
#: First characters of texts that need a closer look.
_SUSPICIOUS = re.compile(rf"[{_SKIPPED}{_FORMULAS}]")


def header(columns: Iterable[str] = ()) -> str:
    """Return the first line of a table: its columns, with those after them in quotation marks.

    Args:
        columns: names as `list_columns.ListColumns` has them, with no quotation mark in any.
    """
    return ",".join((*COLUMNS, *(f'"{name}"' for name in columns))) + "\n"


def cells(row: Mapping[str, Value]) -> list[object]:
    """Return the cells of an image's row, in the order of the columns, without its `file_name`."""
    return [cell(value) for value in _get_values(row)]


def cell(value: object, *, max_length: int = MAX_LENGTH) -> object:
    """Return a cell that no spreadsheet evaluates as a formula, whatever it divides lines by; None is an empty text.

    Numbers stay numbers.

    Args:
        value: of any type.
        max_length: of a text, in characters.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        value = safe(value, max_length=max_length)
        if ";" in value or _SUSPICIOUS.match(value):
            return _UNSAFE.sub("'", value)[:MAX_CELL]
    return value


def text_of(cell: str) -> str:
    """Return the text that `cell` made a cell of."""
    return _MARKED.sub("", cell) if "'" in cell else cell

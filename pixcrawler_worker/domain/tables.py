"""Columns of the tables of a dataset, and escaping of their cells."""

from collections.abc import Mapping
from operator import itemgetter

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
Value = str | int
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

#: Spreadsheets evaluate cells with these first characters as formulas, including the full-width forms.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_SUSPICIOUS = frozenset({" ", *_FORMULAS})


def cells(row: Mapping[str, Value]) -> list[object]:
    """Return the cells of an image's row, in the order of the columns, without its `file_name`."""
    return [cell(value) for value in _get_values(row)]


def cell(value: object) -> object:
    """Return a cell that spreadsheets do not evaluate as a formula; None becomes an empty text.

    Source: OWASP, CSV Injection.
    """
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in _SUSPICIOUS and value.lstrip(" ").startswith(_FORMULAS):
        return f"'{value}"
    return value

"""What a dataset's tables say of each image, and how a cell is written."""

from collections.abc import Mapping
from operator import itemgetter

#: The table of an archive.
NAME = "images.csv"
#: Columns of every table, in their order. None of them is ever null: an unknown text is empty, and keeps its type.
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
#: Those of them that are whole numbers.
NUMBERS = frozenset({"width", "height", "bytes"})
Value = str | int
_IN_ORDER = itemgetter(*COLUMNS[1:])

MIME = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "avif": "image/avif",
}

#: A spreadsheet takes a cell that begins like this for a formula, the full-width forms too.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_SUSPICIOUS = frozenset({" ", *_FORMULAS})


def cells(row: Mapping[str, Value]) -> list[object]:
    """Return the cells of an image's row, in the order of the columns, without its `file_name`."""
    return [cell(value) for value in _IN_ORDER(row)]


def cell(value: object) -> object:
    """Return a value as a cell that no spreadsheet takes for a formula; None becomes the empty text.

    Source: OWASP, CSV Injection.
    """
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in _SUSPICIOUS and value.lstrip(" ").startswith(_FORMULAS):
        return f"'{value}"
    return value

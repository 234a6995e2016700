"""Captions and other columns of URL lists: what is kept of them, and the columns of a dataset that they become.

A list may have any columns, and each row others. A dataset has the same columns in every row, each with one type, under
names that every reader accepts and that are not those of its own columns.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.postgres_types import MAX_INT8, storable, storable_json
from pixcrawler_worker.domain.safe_text import MAX_LENGTH, normalized, safe, safe_json
from pixcrawler_worker.domain.stored_json import Fields, is_deeper
from pixcrawler_worker.domain.tables import Value
from pixcrawler_worker.errors import PermanentError

#: Type of a column, as Hugging Face's `datasets` and pyarrow name it.
ColumnType = Literal["string", "int64", "float64", "bool"]

#: Characters of a caption. Readers of JSON Lines allow for about a megabyte in a line, Python's csv for 131,072
#: characters in a cell.
MAX_CAPTION = 120_000
#: Columns of a row, and of a dataset.
MAX_COLUMNS = 100
#: Characters of a column's name, and bytes of all columns of a row.
_MAX_NAME, _MAX_ROW = 100, 100_000

#: The column of a dataset with the captions, and the one with the columns of lists that are beyond their limit.
TEXT, OTHERS = "text", "other_columns"
#: What begins the name of a column that would have the name of another one.
PREFIX = "list_"
#: Names that readers keep for themselves, besides the columns of every dataset: the image, and files of it.
_RESERVED = frozenset({*tables.COLUMNS, TEXT, OTHERS, "image", "images", "file_names", "__key__", "__url__"})
#: Characters in the name of a column of a dataset, besides letters, marks and digits. Others mean something to
#: spreadsheets, or to readers that make a path of the name.
_PUNCTUATION = frozenset(" ._-\u200c\u200d")
#: Hugging Face takes columns with these ends for paths of files. Source: `datasets`, folder_based_builder.py.
_FILE_NAME = re.compile(r"file_(names?)\Z", re.IGNORECASE)
#: In place of a nested value that JSON's writer gives up on.
_UNREADABLE = "(nested too deeply, or too large)"
#: Bits of an integer that is written in base 10: Python does not write more than 4,300 digits.
_MAX_DECIMAL_BITS = 4096
_MIN_INT8 = -MAX_INT8 - 1
#: Largest number of a column of numbers.
MAX_NUMBER = 1e300


def kept_caption(caption: object) -> str | None:
    """Return a caption as it is stored: cut off at `MAX_CAPTION` characters; None for a blank one.

    Raises:
        TypeError: for what is no text, as a source of another package may have it.
    """
    if not isinstance(caption, str | None):
        raise TypeError(f"a caption is a text, not {type(caption).__name__}")
    if caption is None or not caption.strip():
        return None
    return caption if len(caption) <= MAX_CAPTION else f"{caption[: MAX_CAPTION - 1]}\N{HORIZONTAL ELLIPSIS}"


def kept_columns(columns: Mapping[str, object]) -> dict[str, object] | None:
    """Return the columns of a row as they are stored; None when it has no values.

    Nulls are left out. A text, or the JSON of a nested value, that has more than 10,000 characters is cut off and is a
    text. So is an integer that does not have 64 bits. Columns beyond `MAX_COLUMNS`, or beyond 100,000 bytes of a row,
    are left out.
    """
    found: dict[str, object] = {}
    room = _MAX_ROW
    for key, value in columns.items():
        if value is None or len(found) == MAX_COLUMNS:
            continue
        name, stored = _kept_name(str(key)), _kept_value(value)
        room -= len(json.dumps({name: stored}))
        if room < 0:
            break
        found[name] = stored
    return found or None


def _kept_name(name: str) -> str:
    name = storable(name)
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _kept_value(value: object) -> object:
    match value:
        case str():
            return _cut(storable(value))
        case bool():
            return value
        case int():
            return kept_integer(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping() | list() | tuple():
            return _kept_nested(value)
    return _cut(storable(str(value)))


def kept_integer(value: int) -> int | str:
    """Return an integer as it is stored: one that does not have 64 bits is a text."""
    if _MIN_INT8 <= value <= MAX_INT8:
        return value
    return str(value) if value.bit_length() <= _MAX_DECIMAL_BITS else _cut(f"{value:#x}")


def _kept_nested(value: object) -> object:
    if is_deeper(value):
        return _UNREADABLE
    try:
        text = json.dumps(storable_json(value), ensure_ascii=False, default=str)
    except ValueError:
        return _UNREADABLE
    return json.loads(text) if len(text) <= MAX_LENGTH else _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """What the images of a dataset have in a column of their lists.

    Attributes:
        key: name of the column in the lists.
        values: number of images that have a value.
        numbers: whether all values are numbers, none larger than `MAX_NUMBER`.
        integers: whether all numbers are integers of 64 bits.
        booleans: whether all values are true or false.
    """

    key: str
    values: int
    numbers: bool
    integers: bool
    booleans: bool


@dataclass(frozen=True, slots=True)
class ListColumn:
    """A column of a dataset that comes from a list.

    Attributes:
        key: its name in the list.
        name: its name in the dataset.
        type: of all its values.
    """

    key: str
    name: str
    type: ColumnType


@dataclass(frozen=True)
class ListColumns:
    """The columns of a dataset that come from lists, in their order.

    Attributes:
        has_captions: whether an image has a caption: `text` is a column then.
        columns: those with names and types of their own.
        has_others: whether lists have more: `other_columns` is a column then, with a JSON object.
        row_bytes: of the longest caption and columns of an image, as they are stored.
    """

    has_captions: bool = False
    columns: tuple[ListColumn, ...] = ()
    has_others: bool = False
    row_bytes: int = 0

    @cached_property
    def types(self) -> Mapping[str, ColumnType]:
        """The types of the columns by name, in their order."""
        found: dict[str, ColumnType] = {TEXT: "string"} if self.has_captions else {}
        found.update({column.name: column.type for column in self.columns})
        return {**found, OTHERS: "string"} if self.has_others else found

    @classmethod
    def of(cls, facts: Iterable[ColumnFacts], *, images: int, has_captions: bool, row_bytes: int) -> "ListColumns":
        """Return the columns of a dataset.

        Args:
            facts: of the columns of its images, the most frequent first; those after `MAX_COLUMNS` are the others.
            images: number of its images.
            has_captions: whether one of them has a caption.
            row_bytes: see `ListColumns`.
        """
        listed = list(facts)
        taken: set[str] = {name.casefold() for name in _RESERVED}
        columns = tuple(
            ListColumn(one.key, _name(one.key, taken), _type(one, images))
            for one in sorted(listed[:MAX_COLUMNS], key=lambda one: one.key)
        )
        return cls(has_captions, columns, len(listed) > MAX_COLUMNS, row_bytes)

    def values(self, caption: str | None, columns: object) -> dict[str, Value]:
        """Return the values of an image in all columns, none null.

        Args:
            caption: of the image; None for none.
            columns: as the row of the image has them. Another program may have written them.
        """
        found: dict[str, Value] = {TEXT: safe(caption or "", max_length=MAX_CAPTION)} if self.has_captions else {}
        of_row = columns if isinstance(columns, Mapping) else {}
        for column in self.columns:
            found[column.name] = _value(of_row.get(column.key), column.type)
        if self.has_others:
            keys = {column.key for column in self.columns}
            others = {key: value for key, value in of_row.items() if key not in keys and value is not None}
            found[OTHERS] = _json(others) if others else ""
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the columns with JSON's types only."""
        return {
            "captions": self.has_captions,
            "columns": [{"key": one.key, "name": one.name, "type": one.type} for one in self.columns],
            "others": self.has_others,
            "row_bytes": self.row_bytes,
        }

    @classmethod
    def from_json(cls, recorded: Mapping[str, Any]) -> "ListColumns":
        """Return what `to_json` wrote.

        Raises:
            PermanentError: when it is something else; the message names the field.
        """
        fields = Fields(recorded, "columns")
        columns = [Fields(one, "columns.columns") for one in fields.objects("columns")]
        return cls(
            has_captions=fields.flag("captions"),
            columns=tuple(
                ListColumn(one.text("key"), one.text("name"), _known_type(one.text("type"))) for one in columns
            ),
            has_others=fields.flag("others"),
            row_bytes=fields.integer("row_bytes"),
        )


def _known_type(name: str) -> ColumnType:
    match name:
        case "string" | "int64" | "float64" | "bool":
            return name
    raise PermanentError(f"columns.columns.type: expected the type of a column, got {name!r}")


def _name(key: str, taken: set[str]) -> str:
    """Return the name of a column that no other one has, whatever its case, and add it to those that are taken."""
    listed = safe(normalized("NFC", key), max_length=_MAX_NAME).strip()
    plain = "".join(one if one in _PUNCTUATION or _kind(one) in {"L", "M", "N"} else "_" for one in listed)
    # Whether a joiner may stay depends on what is before it.
    plain = _FILE_NAME.sub(r"file\1", safe(plain))
    if not plain or not (plain[0] == "_" or _kind(plain[0]) in {"L", "N"}) or plain.casefold() in taken:
        plain = f"{PREFIX}{plain}"
    name, number = plain, 1
    while name.casefold() in taken:
        number += 1
        name = f"{plain}_{number}"
    taken.add(name.casefold())
    return name


def _kind(character: str) -> str:
    """Return the first letter of the category of a character: `L` for letters, `M` for marks, `N` for numbers."""
    return unicodedata.category(character)[0]


def _type(facts: ColumnFacts, images: int) -> ColumnType:
    """Return the type of a column. Only texts have a value that stands for none."""
    if facts.values < images:
        return "string"
    if facts.booleans:
        return "bool"
    if facts.numbers:
        return "int64" if facts.integers else "float64"
    return "string"


def _value(value: object, type_: ColumnType) -> Value:
    """Return a value with the type of its column. One that does not have it was written after the columns were read."""
    if type_ == "string":
        return _text(value)
    if type_ == "bool":
        return value is True
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_NUMBER:
        value = 0
    if type_ == "int64":
        return int(value) if _MIN_INT8 <= value <= MAX_INT8 else 0
    return float(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return safe(value)
    return _json(value)


def _json(value: object) -> str:
    try:
        return safe(json.dumps(safe_json(value), ensure_ascii=False, sort_keys=True))
    except ValueError:
        return _UNREADABLE

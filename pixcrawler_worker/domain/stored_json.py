"""Reading JSON columns that another version of the worker, an API or a person may have written: any value is possible.

The functions return what they are asked for, or raise a `PermanentError` that names the field, what was expected and
what was given: `payload.page: expected an integer of at least 0, got "wide"`.
"""

import re
from collections.abc import Mapping
from datetime import date, time
from typing import Any, Self

from pixcrawler_worker.domain.postgres_types import MAX_INT8
from pixcrawler_worker.errors import PermanentError

#: Lists and objects inside of each other, in what is sent to workers or read from rows: far more than anything of ours
#: has, and few enough for whatever copies or writes a value by recursion.
MAX_DEPTH = 90
#: Characters and values of a JSON column. A list of 200,000 URLs has 20 million characters; each value takes up to 100
#: bytes of memory.
MAX_STORED_CHARACTERS, MAX_STORED_VALUES = 64 * 1024 * 1024, 2_000_000
#: Characters of a value that a message quotes.
_MAX_QUOTE = 60
#: Bits of an integer that a message quotes: Python does not write more than 4,300 digits.
_MAX_QUOTED_BITS = 128
#: A position in a page, as a key.
_POSITION = re.compile("[0-9]{1,9}")


class UnreadableJson(str):
    """In place of a JSON value that is too large or nested too deeply for Python: a text, which nothing expects.

    What was to be an object or an array is invalid by that, so that its row fails by itself, and says why.

    Args:
        why: what is wrong with the value, in a few words.
    """

    __slots__ = ("why",)

    def __new__(cls, why: str) -> Self:
        """Return a text that begins like one of JSON, and is none."""
        made = super().__new__(cls, f"<{why}>")
        made.why = why
        return made

    why: str


class Fields:
    """The fields of a JSON object.

    Args:
        value: the JSON value.
        where: name of the value in messages.

    Raises:
        PermanentError: when it is no object.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise PermanentError(f"{where}: expected an object, got {quoted(value)}")
        self._value: Mapping[str, Any] = value
        self._where = where

    def integer(self, name: str, *, minimum: int = 0, maximum: int = MAX_INT8, default: int | None = None) -> int:
        """Return an integer; the default, where there is one, for a field that is missing."""
        value = self._value.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        raise self._invalid(name, f"an integer from {minimum} to {maximum}")

    def number(self, name: str) -> float:
        """Return a finite number of at least 0."""
        value = self._value.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_INT8:
            return float(value)
        raise self._invalid(name, "a number of at least 0")

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._value.get(name)
        if isinstance(value, str):
            return value
        raise self._invalid(name, "a string")

    def flag(self, name: str) -> bool:
        """Return a boolean."""
        value = self._value.get(name)
        if isinstance(value, bool):
            return value
        raise self._invalid(name, "true or false")

    def integers(self, name: str) -> tuple[int, ...]:
        """Return an array of integers of at least 0."""
        value = self._value.get(name)
        if isinstance(value, list | tuple) and all(
            isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= MAX_INT8 for one in value
        ):
            return tuple(value)
        raise self._invalid(name, "an array of integers")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return an array of strings."""
        value = self._value.get(name)
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise self._invalid(name, "an array of strings")

    def objects(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """Return an array of objects."""
        value = self._value.get(name)
        if isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value):
            return tuple(value)
        raise self._invalid(name, "an array of objects")

    def each(self, name: str) -> "tuple[Fields, ...]":
        """Return the fields of each object of an array."""
        return tuple(Fields(one, f"{self._where}.{name}") for one in self.objects(name))

    def counts(self, name: str, *, optional: bool = False) -> dict[str, int]:
        """Return an object of counts; an empty one for a missing field that is optional."""
        value = self._value.get(name, {} if optional else None)
        if isinstance(value, Mapping) and len(found := counts(value)) == len(value):
            return found
        raise self._invalid(name, "an object of counts")

    def positions(self, name: str) -> dict[int, str]:
        """Return an object whose keys are positions and whose values are texts; empty when there is none."""
        value = self._value.get(name)
        if value is None:
            return {}
        if isinstance(value, Mapping) and all(
            _POSITION.fullmatch(position) and isinstance(text, str) for position, text in value.items()
        ):
            return {int(position): text for position, text in value.items()}
        raise self._invalid(name, "an object of texts by position")

    def has(self, name: str) -> bool:
        """Return whether there is a value that is not null."""
        return self._value.get(name) is not None

    def object(self, name: str) -> "Fields":
        """Return the fields of an object."""
        return Fields(self._value.get(name), f"{self._where}.{name}")

    def _invalid(self, name: str, expected: str) -> PermanentError:
        given = quoted(self._value[name]) if name in self._value else "nothing"
        return PermanentError(f"{self._where}.{name}: expected {expected}, got {given}")


def counts(value: object) -> dict[str, int]:
    """Return the counts in what should be an object of counts, without anything else that it has."""
    if not isinstance(value, Mapping):
        return {}
    return {
        name: count
        for name, count in value.items()
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_INT8
    }


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else that a column may have, as if its fields were missing."""
    return value if isinstance(value, dict) else {}


def quoted(value: object) -> str:
    """Return a JSON value for a message, in at most 60 characters; an object or an array by its type alone."""
    if isinstance(value, UnreadableJson):
        return value.why
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, int) and value.bit_length() > _MAX_QUOTED_BITS:
        return "a number with very many digits"
    if isinstance(value, date | time):  # of TOML
        return value.isoformat()
    text = repr(value[: _MAX_QUOTE + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_QUOTE else f"{text[: _MAX_QUOTE - 3]}..."


def is_deeper(value: object, levels: int = MAX_DEPTH) -> bool:
    """Return whether lists and objects are nested more deeply, or one holds itself; it does not recurse."""
    level = [value] if isinstance(value, Mapping | list | tuple) else []
    for _ in range(levels):
        inner = (list(one.values()) if isinstance(one, Mapping) else one for one in level)
        # Each object once: one that is twice in each level would be a billion times in the thirtieth.
        found = {id(child): child for one in inner for child in one if isinstance(child, Mapping | list | tuple)}
        if not found:
            return False
        level = list(found.values())
    return bool(level)

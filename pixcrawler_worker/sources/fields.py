"""Types of fields in a provider's answer, which may hold anything: an odd value is a missing one and costs no entry."""

import math
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator

from pixcrawler_worker.domain.postgres_types import storable

T = TypeVar("T", bound=BaseModel)

#: Pixels of a side: a larger number is not a size.
_MAX_SIDE = 2**31 - 1


def text_of(value: object) -> str | None:
    """Return the text that a value is meant as; None when it is none."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    # A number is written as one: a version "4.0" comes as 4.0, a creator "17" as 17.
    return str(value)


def side_of(value: object) -> int | None:
    """Return the pixels that a value is meant as; None when it is no size."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(_MAX_SIDE)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if 0 < value <= _MAX_SIDE else None


def _first_text(value: object) -> str | None:
    return text_of(next(iter(value), None) if isinstance(value, list) else value)


def _count(value: object) -> int | None:
    return 0 if value in (0, "0") and not isinstance(value, bool) else side_of(value)


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _part(value: object) -> object:
    return value if isinstance(value, dict | BaseModel) else {}


def _listed(value: object) -> object:
    return [entry for entry in value if isinstance(entry, dict | BaseModel)] if isinstance(value, list) else []


#: A text, or None where the provider has none.
Text = Annotated[str | None, BeforeValidator(text_of)]
#: Width or height in pixels, or None where the provider has none.
Side = Annotated[int | None, BeforeValidator(side_of)]
#: The same where it may be in an array, of which the first one counts.
FirstText = Annotated[str | None, BeforeValidator(_first_text)]
#: A number of things from 0, or None where the provider has none.
Count = Annotated[int | None, BeforeValidator(_count)]
#: True or False, or None where the provider has neither.
Flag = Annotated[bool | None, BeforeValidator(_flag)]
#: An object in another one: whatever else is there is an empty one, so all its fields have defaults.
Part = Annotated[T, BeforeValidator(_part)]
#: The objects in an array: whatever else is there is left out, and all their fields have defaults.
Listed = Annotated[list[T], BeforeValidator(_listed)]

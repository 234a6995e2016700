"""Types of fields in a provider's answer, which may hold anything: an odd value is a missing one and costs no entry."""

from typing import Annotated

from pydantic import BeforeValidator

#: Pixels of a side: a larger number is not a size.
_MAX_SIDE = 2**31 - 1


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    # A number is written as one: a version "4.0" comes as 4.0, a creator "17" as 17.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _side(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(_MAX_SIDE)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if 0 < value <= _MAX_SIDE else None


#: A text, or None where the provider has none.
Text = Annotated[str | None, BeforeValidator(_text)]
#: Width or height in pixels, or None where the provider has none.
Side = Annotated[int | None, BeforeValidator(_side)]

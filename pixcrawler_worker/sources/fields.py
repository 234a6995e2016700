"""Types of fields in a provider's answer, which may hold anything: an odd value is a missing one and costs no entry."""

import math
from typing import Annotated

from pydantic import BeforeValidator

from pixcrawler_worker.domain.postgres_types import storable

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


def _side(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(_MAX_SIDE)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if 0 < value <= _MAX_SIDE else None


#: A text, or None where the provider has none.
Text = Annotated[str | None, BeforeValidator(text_of)]
#: Width or height in pixels, or None where the provider has none.
Side = Annotated[int | None, BeforeValidator(_side)]

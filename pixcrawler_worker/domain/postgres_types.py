"""What PostgreSQL's types can hold.

Source: PostgreSQL's documentation, "Numeric Types" and "Character Types".
"""

import math
from collections.abc import Mapping

#: Largest values of the types `integer` and `bigint`.
MAX_INT4, MAX_INT8 = 2**31 - 1, 2**63 - 1


def storable(text: str) -> str:
    """Return a text without NUL, and with `?` for each unpaired surrogate: PostgreSQL stores neither of them."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def storable_json(value: object) -> object:
    """Return a JSON value with its texts storable, and with text for NaN and infinity, which JSON does not have."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): storable_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(one) for one in value]
    return value

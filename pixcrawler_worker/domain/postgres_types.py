"""What PostgreSQL's types can hold.

Source: PostgreSQL's documentation, "Numeric Types" and "Character Types".
"""

#: Largest values of the types `integer` and `bigint`.
MAX_INT4, MAX_INT8 = 2**31 - 1, 2**63 - 1


def storable(text: str) -> str:
    """Return a text without NUL, and with `?` for each unpaired surrogate: PostgreSQL stores neither of them."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()

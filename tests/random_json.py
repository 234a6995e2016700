"""Random JSON as another program may write it: every type, huge numbers, deep nesting, odd texts, valid values mutated.

It is text, because Python can neither write nor read all that PostgreSQL stores.
"""

import json
import random
from collections.abc import Mapping
from typing import Any

TEXTS = (
    "", " ", "a", "cat", "0", "1", "true", "null", "-0.0", "NaN", "Infinity",
    "\x01\x02\x1f\x7f", "\u0085\u2028\u202e\ufeff", "e\u0301", "\U0001f9a9", "\uffff\ufffe",
    "'; DROP TABLE images; --", "%s %(a)s {0} \\u0000",
    "../../etc/passwd",
    "x" * 300, "\U0001f9a9" * 5000, "https://example.org/a.jpg", "cc-by-4.0", "jpg", "zip", "urls", "strict",
)  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "-0.0", "7", "100", "2147483647", "2147483648", "-2147483649", "9223372036854775807",
    "9223372036854775808", "-9223372036854775809", "1e30", "1" + "0" * 30, "1e400", "-1e400", "1e-400", "0.1",
    "3.0000000000000000000000000001", "1" + "0" * 5000, "-" + "9" * 4400,
)  # fmt: skip


class Raw(str):
    """JSON text, where a value is expected."""

    __slots__ = ()


def value(rng: random.Random, depth: int = 0) -> object:
    """Return a random value; `text` writes it."""
    kind = rng.randrange(11 if depth < 4 else 6)
    if kind == 0:
        return rng.choice((None, True, False, [], {}))
    if kind <= 2:
        return Raw(rng.choice(NUMBERS))
    if kind <= 5:
        return rng.choice(TEXTS) if rng.random() < 0.98 else nested(rng)
    if kind <= 8:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS)[:500]: value(rng, depth + 1) for _ in range(rng.randrange(4))}


def nested(rng: random.Random) -> Raw:
    """Return a value that is nested more deeply than Python reads."""
    depth = rng.choice((60, 900, 1100, 3000))
    return Raw("[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth)


def mutated(rng: random.Random, valid: object) -> object:
    """Return a valid value with one part replaced, removed, added, or all of it replaced."""
    if rng.random() < 0.05:
        return nested(rng)
    if isinstance(valid, dict) and valid and rng.random() < 0.9:
        key = rng.choice(list(valid))
        match rng.randrange(8):
            case 0:
                return {name: one for name, one in valid.items() if name != key}
            case 1:
                return valid | {rng.choice(TEXTS)[:500]: value(rng)}
            case _:
                return valid | {key: mutated(rng, valid[key])}
    if isinstance(valid, list) and valid and rng.random() < 0.7:
        at = rng.randrange(len(valid))
        return [mutated(rng, one) if place == at else one for place, one in enumerate(valid)]
    return value(rng)


def text(found: object) -> str:
    """Return a value as JSON."""
    if isinstance(found, Raw):
        return str(found)
    if isinstance(found, Mapping):
        return "{" + ",".join(f"{json.dumps(key)}:{text(one)}" for key, one in found.items()) + "}"
    if isinstance(found, list):
        return "[" + ",".join(map(text, found)) + "]"
    return json.dumps(found)


def python(found: object) -> Any:
    """Return a value as Python has it after reading a message; one that cannot be read becomes text."""
    try:
        return json.loads(text(found))
    except (ValueError, RecursionError):
        return text(found)[:100]

"""Assigning images to the splits of a dataset by a hash: deterministic, and without leaks between splits.

A group is an image with all its near duplicates, named by the smallest SHA-256 among them. Its position is the first
eight bytes, as a number, of the SHA-256 of `<seed>:<name in hexadecimal digits>`; the database computes it
(`db/export_selection.py`). All images of a group are in one split, and images that are added later move no others.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate

#: Positions are below this number.
WHOLE = 2**64


def bounds(ratios: Mapping[str, float]) -> list[int]:
    """Return the upper bounds of the splits' positions. An image is in the first split with a bound above its own."""
    # Exact decimals: 0.8 + 0.1 + 0.1 is 1.
    parts = [Fraction(str(ratio)) for ratio in ratios.values()]
    whole = sum(parts)
    return [int(upto * WHOLE / whole) for upto in accumulate(parts)]

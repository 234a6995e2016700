"""Which split of a dataset an image belongs to, by a hash: without leaks, and the same whenever it is asked.

A group is an image with all its near duplicates, named by the smallest SHA-256 among them. Its position is the first
eight bytes, as a number, of the SHA-256 of `<seed>:<name in hexadecimal digits>`; the database computes it
(`db/exports.py`). The group decides alone: all of it comes into one split, and images that are added later move none.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate

#: Positions lie below this.
WHOLE = 2**64


def bounds(ratios: Mapping[str, float]) -> list[int]:
    """Return the upper bounds of the splits' positions, in their order: an image is in the first that lies above it."""
    # Exact, as they were written: 0.8 + 0.1 + 0.1 is one.
    parts = [Fraction(str(ratio)) for ratio in ratios.values()]
    whole = sum(parts)
    return [int(upto * WHOLE / whole) for upto in accumulate(parts)]

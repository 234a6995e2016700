"""Choosing one of the sizes in which a provider has an image."""

from collections.abc import Sequence
from typing import NamedTuple

from pixcrawler_worker.sources.protocol import Query

#: Pixels of the longer side that suit most datasets: more costs the provider and takes longer.
USUAL_SIDE = 1024


class Size(NamedTuple):
    """A file of an image.

    Attributes:
        url: where it is.
        width: pixels; None when the provider does not say.
        height: pixels, likewise.
    """

    url: str
    width: int | None = None
    height: int | None = None


def chosen(sizes: Sequence[Size], query: Query) -> Size | None:
    """Return the smallest size that is large enough for a query and most datasets, else the largest; None for none."""
    if not sizes:
        return None
    measured = [size for size in sizes if size.width and size.height]
    enough = [size for size in measured if _is_enough(size, query)]
    if enough:
        return min(enough, key=_area)
    return max(measured, key=_area) if measured else sizes[-1]


def scaled(width: int | None, height: int | None, longest: int) -> tuple[int, int] | None:
    """Return width and height of a file that was scaled down to a longest side; None where a side is unknown."""
    if not width or not height:
        return None
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _is_enough(size: Size, query: Query) -> bool:
    width, height = size.width or 0, size.height or 0
    return max(width, height) >= USUAL_SIDE and width >= query.min_width and height >= query.min_height


def _area(size: Size) -> int:
    return (size.width or 0) * (size.height or 0)

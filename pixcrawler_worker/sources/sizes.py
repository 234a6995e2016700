"""Choosing one of the sizes in which a provider has an image, and the order of the others."""

from collections.abc import Sequence
from typing import NamedTuple

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources.protocol import Candidate, Query

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


def candidate(sizes: Sequence[Size], query: Query, credit: Credit, *, use_url: str | None = None) -> Candidate | None:
    """Return the candidate of an image with these sizes; None for none.

    Its URL is that of the size that suits the query best. With a `target_side` the others are its alternates.

    Args:
        sizes: in any order; of those with unknown sides, the last one suits best.
        query: what is searched.
        credit: of the image.
        use_url: see `Candidate`.
    """
    if not sizes:
        return None
    best, *others = ranked(sizes, query)
    alternates = dict.fromkeys(size.url for size in others if size.url != best.url) if query.target_side else ()
    return Candidate(
        url=best.url,
        credit=credit,
        width=best.width,
        height=best.height,
        use_url=use_url,
        alternates=tuple(alternates),
    )


def ranked(sizes: Sequence[Size], query: Query) -> list[Size]:
    """Return the sizes that suit a query, the best first; at least one where there is one.

    The best is the smallest that is large enough, and then larger ones follow. Of those that are not, the largest comes
    first, and those with unknown sides come last: some are thumbnails. With a `target_side`, sizes that are certainly
    below the minimum of the query are left out where there are others.
    """
    measured = [size for size in sizes if size.width and size.height]
    enough = sorted((size for size in measured if _is_enough(size, query)), key=_area)
    others = sorted((size for size in measured if not _is_enough(size, query)), key=_area, reverse=True)
    unknown = [size for size in reversed(sizes) if not (size.width and size.height)]
    found = [*enough, *others, *unknown]
    if not query.target_side:
        return found
    return [size for size in found if not _is_below_minimum(size, query)] or found


def scaled(width: int | None, height: int | None, longest: int) -> tuple[int, int] | None:
    """Return width and height of a file that was scaled down to a longest side; None where a side is unknown."""
    if not width or not height:
        return None
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def of_width(width: int | None, height: int | None, scaled_width: int) -> tuple[int, int] | None:
    """Return width and height of a file that was scaled down to a width; None where a side is unknown."""
    if not width or not height:
        return None
    scale = min(1.0, scaled_width / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _is_enough(size: Size, query: Query) -> bool:
    width, height = size.width or 0, size.height or 0
    if query.target_side:
        return min(width, height) >= query.target_side and not _is_below_minimum(size, query)
    return max(width, height) >= USUAL_SIDE and not _is_below_minimum(size, query)


def _is_below_minimum(size: Size, query: Query) -> bool:
    return bool(size.width and size.height) and (
        (size.width or 0) < query.min_width or (size.height or 0) < query.min_height
    )


def _area(size: Size) -> int:
    return (size.width or 0) * (size.height or 0)

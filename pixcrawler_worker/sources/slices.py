"""Pages beyond what a provider returns for one query: the query is divided until each part is within reach.

The pages of a query are those of the query itself, and then those of its parts, one part after the other. A part is a
search with further parameters, such as a license or a range of dates. Which page of which part a page is follows from
the numbers of results alone, so that every worker finds the same one, in whatever order pages are requested.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

#: The parameters of a search, those of the query and those of the part.
Slice: TypeAlias = tuple[tuple[str, str | int], ...]

#: Numbers of results that a process remembers.
_MAX_KNOWN = 10_000


class Slices:
    """The slices of a source's queries.

    Args:
        depth: candidates that the provider returns for one search.
        split: returns the parts of a slice, which have all its results among them; none where it cannot be divided.
    """

    def __init__(self, *, depth: int, split: Callable[[Slice], Sequence[Slice]]) -> None:
        self._depth, self._split = depth, split
        self._known: dict[Slice, int] = {}

    def know(self, part: Slice, total: int) -> None:
        """Remember the number of results of a slice, which a page of it has said."""
        self._known.pop(part, None)
        self._known[part] = total
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def continues(self, query: Slice, page: int, page_size: int) -> bool:
        """Return whether a page of a query's own results may be followed by those of its parts."""
        is_last = page + 1 == self._depth // page_size
        return is_last and self._is_beyond(self._known.get(query, 0), page_size) and bool(self._split(query))

    async def find(
        self, query: Slice, page: int, page_size: int, *, count: Callable[[Slice], Awaitable[int]]
    ) -> tuple[Slice, int] | None:
        """Return the slice that has a page of a query, and the number of the page in it; None beyond the last.

        Args:
            query: the slice of the query itself.
            page: from 0.
            page_size: candidates per page.
            count: asks the provider for the number of results of a slice. Where it says less than there are, it says
                at least the depth.
        """
        reach = self._depth // page_size
        if page < reach:
            return query, page

        async def total(part: Slice) -> int:
            if part not in self._known:
                self.know(part, await count(part))
            return self._known[part]

        if not self._is_beyond(await total(query), page_size):
            return None
        page -= reach
        open_: list[Slice] = [*reversed(self._split(query))]
        while open_:
            part = open_.pop()
            found = await total(part)
            if self._is_beyond(found, page_size) and (parts := self._split(part)):
                open_.extend(reversed(parts))
                continue
            pages = min(reach, math.ceil(found / page_size))
            if page < pages:
                return part, page
            page -= pages
        return None

    def _is_beyond(self, total: int, page_size: int) -> bool:
        """Return whether a slice has, or may have, more results than its pages, of which the last has to be whole."""
        return total >= self._depth or total > self._depth // page_size * page_size

"""Result pages that this process has searched lately: what is left over of one needs no second search.

Providers count searches, and some have few of them a day. They are in memory only: a new process searches such a page
again, and finds what is left over of it wherever it is by then (`crawl/worker.py`).
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from pixcrawler_worker.sources.protocol import Page, Query, Source

#: Candidates that are kept, about 1 kB each; and seconds for which they are.
_MAX_CANDIDATES, _SECONDS = 10_000, 3600.0


class _Kept(NamedTuple):
    source: Source
    page: Page
    until: float


class RecentPages:
    """The last result pages of all jobs.

    Args:
        max_candidates: that are kept, of all pages together.
        clock: returns seconds.
    """

    def __init__(self, *, max_candidates: int = _MAX_CANDIDATES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_candidates, self._clock = max_candidates, clock
        self._kept: OrderedDict[tuple[int, str, Query], _Kept] = OrderedDict()
        self._candidates = 0

    def keep(self, job_id: int, name: str, source: Source, query: Query, page: Page) -> None:
        """Keep a page that the source of that name has returned for a job."""
        key = job_id, name, query
        self._drop(key)
        self._kept[key] = _Kept(source, page, self._clock() + _SECONDS)
        self._candidates += _size(page)
        while self._candidates > self._max_candidates:
            self._drop(next(iter(self._kept)))

    def find(self, job_id: int, name: str, source: Source, query: Query) -> Page | None:
        """Return the page that this very source has returned to a query of a job; None when it is not kept."""
        kept = self._kept.get((job_id, name, query))
        if kept is None or kept.source is not source or self._clock() >= kept.until:
            return None
        return kept.page

    def _drop(self, key: tuple[int, str, Query]) -> None:
        if kept := self._kept.pop(key, None):
            self._candidates -= _size(kept.page)


def _size(page: Page) -> int:
    """Return what a page counts, one without candidates, too."""
    return len(page.candidates) + 1

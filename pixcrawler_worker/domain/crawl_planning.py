"""Planning the rounds of a crawl: which result pages are requested, and how many images each may bring.

A chunk is one result page of one source for one keyword. A round is a set of chunks whose quotas sum to the images that
are missing, so a job cannot exceed its limit. If images are still missing afterwards, the next round uses the leftovers
and further result pages.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pixcrawler_worker.domain.crawl_chunks import MAX_CHUNKS, CrawlChunk
from pixcrawler_worker.domain.crawl_history import CrawlHistory, Search, SearchHistory
from pixcrawler_worker.domain.keywords import Keyword

#: Lower bound of the expected share of candidates that become images: a lower yield says little about the next page.
_MIN_YIELD = 0.1
#: Standard deviations below the mean to which candidates are counted on: some two of three times they bring as many.
_SAFETY = 0.5
#: After so many failed result pages in a row, a source is not searched for this keyword any more.
_MAX_FAILURES = 2
#: After so many result pages in a row without a new candidate, only a few more are requested in a round, and after many
#: none: the provider has come to its end without saying so, and each page is a request of its quota.
_REPEATED, _PAGES_AFTER_REPEATED, _MAX_REPEATED = 2, 2, 10
#: More candidates than any job requests.
_UNKNOWN = 2**31


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """How many candidates one source returns for one keyword.

    Attributes:
        page_size: candidates per result page.
        max_pages: result pages; None when the number is unknown.
        is_list: whether it has a list, of which each keyword is one class, and that is not searched.
    """

    page_size: int
    max_pages: int | None = None
    is_list: bool = False


def balance(total: int, have: Sequence[int], caps: Sequence[int]) -> tuple[int, ...]:
    """Return how many to add to each of `have` so that they become as even as the caps allow.

    The additions sum to `total`, or to the sum of the caps when that is less. Earlier entries get the remainder: five
    images over seven keywords give 1, 1, 1, 1, 1, 0, 0.
    """
    added = [0] * len(have)
    left = total
    while left > 0:
        growing = [i for i, cap in enumerate(caps) if added[i] < cap]
        if not growing:
            break
        level = min(have[i] + added[i] for i in growing)
        lowest = [i for i in growing if have[i] + added[i] == level]
        # Raise the lowest together up to the next level, a cap, or the total.
        above = [have[i] + added[i] - level for i in growing if have[i] + added[i] > level]
        step = min([caps[i] - added[i] for i in lowest] + above)
        step = min(step, left // len(lowest))
        if step:
            for i in lowest:
                added[i] += step
            left -= step * len(lowest)
        else:
            for i in lowest[:left]:
                added[i] += 1
            left = 0
    return tuple(added)


def fill(total: int, caps: Sequence[int]) -> tuple[int, ...]:
    """Return shares of `total` that fill each cap before the next one gets any."""
    shares = []
    for cap in caps:
        shares.append(min(cap, total))
        total -= shares[-1]
    return tuple(shares)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One search at one source: which result pages were requested, and which can still be."""

    keyword: Keyword
    query: str
    source: str
    limits: SourceLimits
    history: SearchHistory
    gone: int

    @property
    def stored(self) -> int:
        """Images so far, without those that are gone."""
        return self.history.stored - self.gone

    @property
    def max_pages(self) -> int | None:
        """Result pages that there are, and that are worth a request; None when the number is unknown."""
        known = (self.limits.max_pages, self.history.pages, None if self.limits.is_list else self._worth_a_request)
        return min((one for one in known if one is not None), default=None)

    @property
    def _worth_a_request(self) -> int | None:
        """Result pages up to which something new may be expected; None where nothing is known against more."""
        repeated = len(self.history.repeated)
        if repeated < _REPEATED:
            return None
        return self.history.next_page + (_PAGES_AFTER_REPEATED if repeated < _MAX_REPEATED else 0)

    @property
    def alive(self) -> bool:
        """Whether there is more to request, and the source does not only fail."""
        if self.history.failures >= _MAX_FAILURES or (self.history.failures and not self.history.offered):
            return False
        return bool(self.history.left) or self.max_pages is None or self.history.next_page < self.max_pages

    @property
    def capacity(self) -> int:
        """Candidates that can still be requested; a large number where it is unknown."""
        if self.max_pages is None:
            return _UNKNOWN
        return sum(map(len, self.history.left.values())) + self._pages * self.limits.page_size

    @property
    def expected(self) -> int:
        """Images that can be counted on; a large number where it is unknown, and none after a failure."""
        if self.history.failures:
            return 0
        if self.max_pages is None:
            return _UNKNOWN
        left = sum(self._reliable(len(positions)) for positions in self.history.left.values())
        return left + self._pages * self._reliable(self.limits.page_size)

    @property
    def _pages(self) -> int:
        """Result pages that were not requested, where their number is known."""
        return max(0, (self.max_pages or 0) - self.history.next_page)

    def _reliable(self, candidates: int) -> int:
        """Return how many images so many candidates are likely to bring at least, by the yield so far.

        Before the first result, every candidate is expected to become an image. The lower bound of a yield is no
        estimate, so that nothing is taken off it: a source that brings nothing more would only be searched more.
        """
        if not self.history.offered:
            return candidates
        share = min(1.0, self.history.stored / self.history.offered)
        if share <= _MIN_YIELD:
            return math.floor(candidates * _MIN_YIELD)
        mean = candidates * share
        return math.floor(mean - _SAFETY * math.sqrt(mean * (1 - share)))

    def chunks(self, quota: int, *, limit: int) -> list[CrawlChunk]:
        """Return chunks that are likely to bring `quota` images by the yield so far, at most `limit` chunks.

        Leftovers come first, and then further pages. Leftovers that are too few to count on come last, since each chunk
        is a search. Before the first result, pages are filled one after the other. Later each gets an even share of
        what can be counted on, so that none is short of candidates.
        """
        parts = list(itertools.islice(self._parts(quota), limit))
        sizes = [size for _, _, size in parts]
        likely = [max(1, self._reliable(size)) for size in sizes]
        quotas = _shares(quota, likely, sizes) if self.history.offered else fill(quota, sizes)
        return [
            CrawlChunk(
                source=self.source,
                query=self.query,
                label=self.keyword.label,
                page=page,
                page_size=self.limits.page_size,
                quota=share,
                only=positions,
            )
            for (page, positions, _), share in zip(parts, quotas, strict=True)
            if share
        ]

    def _parts(self, missing: int) -> Iterator[tuple[int, tuple[int, ...] | None, int]]:
        """Yield pages, with the positions of leftovers, and the number of candidates, until they suffice."""
        few: list[tuple[int, tuple[int, ...]]] = []
        for page, positions in sorted(self.history.left.items()):
            if not (likely := self._reliable(len(positions))):
                few.append((page, positions))
            elif missing > 0:
                yield page, positions, len(positions)
                missing -= likely
        page = self.history.next_page
        while missing > 0 and (self.max_pages is None or page < self.max_pages):
            yield page, None, self.limits.page_size
            missing -= max(1, self._reliable(self.limits.page_size))
            page += 1
        for page, positions in few:
            if missing > 0:
                yield page, positions, len(positions)
                missing -= 1


def _shares(total: int, likely: Sequence[int], caps: Sequence[int]) -> tuple[int, ...]:
    """Return even shares of `total` up to what is likely, and beyond that up to the caps."""
    first = balance(total, [0] * len(likely), likely)
    rest = balance(total - sum(first), first, [cap - share for cap, share in zip(caps, first, strict=True)])
    return tuple(map(sum, zip(first, rest, strict=True)))


def next_round(
    *,
    keywords: Sequence[Keyword],
    sources: Mapping[str, SourceLimits],
    max_images: int,
    history: CrawlHistory,
    gone: Mapping[Search, int] = MappingProxyType({}),
) -> tuple[CrawlChunk, ...]:
    """Return the chunks of the next round; none when the job has its images or nothing is left to request.

    The quotas sum to the missing images, or to fewer where 10,000 chunks cannot bring that many candidates. Classes are
    kept even, the searches of a class get equal shares: each of its texts at each of the sources. Chunks of different
    classes alternate, so that every class has images early.

    Args:
        keywords: the classes of the job.
        sources: names of the sources, with their limits.
        max_images: of the job.
        history: of earlier rounds.
        gone: images of each search that were deleted, or found invalid: they are missing again.
    """
    of_classes = [_streams(keyword, sources, history, gone) for keyword in keywords]
    have = [sum(stream.stored for stream in found) for found in of_classes]
    caps = []
    for keyword, found, stored in zip(keywords, of_classes, have, strict=True):
        room = sum(stream.capacity for stream in found if stream.alive)
        caps.append(min(room, max_images if keyword.max_images is None else max(0, keyword.max_images - stored)))
    quotas = balance(max_images - sum(have), have, caps)

    planned: list[tuple[int, list[CrawlChunk]]] = []
    streams = sum(map(len, of_classes))
    limit = max(1, MAX_CHUNKS // streams) if streams else 0
    for found, quota in zip(of_classes, quotas, strict=True):
        alive = [stream for stream in found if stream.alive]
        shares = _shares(quota, [stream.expected for stream in alive], [stream.capacity for stream in alive])
        planned += [
            (stream.keyword.queries.index(stream.query), stream.chunks(share, limit=limit))
            for stream, share in zip(alive, shares, strict=True)
            if share
        ]
    # The keywords themselves before their expansions.
    rows = itertools.zip_longest(*(chunks for _, chunks in sorted(planned, key=lambda one: one[0])))
    return tuple(chunk for row in rows for chunk in row if chunk is not None)


def _streams(
    keyword: Keyword,
    sources: Mapping[str, SourceLimits],
    history: CrawlHistory,
    gone: Mapping[Search, int],
) -> list[_Stream]:
    """Return the searches for a keyword: at all sources for the keyword itself, and then for what else it is."""
    return [
        _Stream(
            keyword,
            text,
            source,
            limits,
            history.of(text, keyword.label, source),
            gone.get((text, keyword.label, source), 0),
        )
        for text in keyword.queries
        for source, limits in sources.items()
        if text == keyword.query or not limits.is_list
    ]

"""Planning the rounds of a crawl: which result pages are requested, and how many images each may bring.

A chunk is one result page of one source for one keyword. A round is a set of chunks whose quotas sum to the images that
are missing, so a job cannot exceed its limit. If images are still missing afterwards, the next round uses the leftovers
and further result pages.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pixcrawler_worker.domain.keywords import Keyword
from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.domain.stored_json import Fields

#: Lower bound of the expected share of candidates that become images: a lower yield says little about the next page.
_MIN_YIELD = 0.1
#: Standard deviations below the mean to which candidates are counted on: some two of three times they bring as many.
_SAFETY = 0.5
#: Chunks of one round, so that a row with two billion images does not exceed the memory of a worker.
_MAX_CHUNKS = 10_000
#: After so many failed result pages in a row, a source is not searched for this keyword any more.
_MAX_FAILURES = 2
#: More candidates than any job requests.
_UNKNOWN = 2**31
#: Reasons of candidates that cost no request besides that for their page.
_FREE = frozenset({Reason.KNOWN_URL, Reason.DUPLICATE_URL, Reason.INVALID_ENTRY})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlChunk:
    """The work of one chunk, as its payload has it.

    Attributes:
        source: name of the source.
        query: the text to search for.
        label: of the images.
        page: number of the result page, from 0.
        page_size: candidates per result page, which defines what a page number stands for.
        quota: images that the chunk may store, at most.
        only: positions of leftovers within the page; None for all candidates.
        yields: how often the chunk made way for other jobs, because its hosts were slow.
        waiting: number of candidates that wait for each host that is left alone, until the chunk is due.
    """

    source: str
    query: str
    label: str
    page: int
    page_size: int
    quota: int
    only: tuple[int, ...] | None = None
    yields: int = 0
    waiting: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the payload of the chunk."""
        payload = asdict(self)
        for name in ("yields", "waiting"):
            if not payload[name]:
                del payload[name]
        return payload

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> "CrawlChunk":
        """Return the chunk with that payload.

        Raises:
            PermanentError: when the payload is invalid; the message names the field.
        """
        fields = Fields(payload, "payload")
        return cls(
            source=fields.text("source"),
            query=fields.text("query"),
            label=fields.text("label"),
            page=fields.integer("page", maximum=MAX_INT4),
            page_size=fields.integer("page_size", minimum=1, maximum=MAX_INT4),
            quota=fields.integer("quota"),
            only=fields.integers("only") if fields.has("only") else None,
            yields=fields.integer("yields", default=0),
            waiting=fields.counts("waiting", optional=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlChunkResult:
    """How a chunk of an earlier round ended.

    Attributes:
        chunk: its work.
        offered: candidates that became images or were rejected.
        stored: candidates that became images.
        left: positions of leftovers: the quota was met before they were needed.
        more: whether the source may have further result pages.
        downloaded: complete downloads.
        reasons: rejection reasons with counts.
        retriable: positions of candidates that were rejected for now, with the reasons.
        failed: whether the chunk failed, so that nothing is known of the rest of its page.
    """

    chunk: CrawlChunk
    offered: int = 0
    stored: int = 0
    left: tuple[int, ...] = ()
    more: bool = True
    downloaded: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    retriable: Mapping[int, str] = field(default_factory=dict)
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the result of a chunk."""
        result = {
            "offered": self.offered,
            "stored": self.stored,
            "downloaded": self.downloaded,
            "reasons": dict(self.reasons),
            "left": self.left,
            "more": self.more,
        }
        if self.retriable:
            result["retriable"] = {str(position): reason for position, reason in self.retriable.items()}
        return result

    @classmethod
    def from_json(cls, chunk: CrawlChunk, result: Mapping[str, Any]) -> "CrawlChunkResult":
        """Return the result of a chunk, or of the parts of it that are done.

        Raises:
            PermanentError: when the result is invalid; the message names the field.
        """
        fields = Fields(result, "result")
        return cls(
            chunk=chunk,
            offered=fields.integer("offered"),
            stored=fields.integer("stored"),
            left=fields.integers("left"),
            more=fields.flag("more"),
            downloaded=fields.integer("downloaded", default=0),
            reasons=fields.counts("reasons", optional=True),
            retriable=fields.positions("retriable"),
        )

    def after(self, earlier: "CrawlChunkResult") -> "CrawlChunkResult":
        """Return the result of this part of a chunk with those before it."""
        reasons = Counter(earlier.reasons)
        reasons.update(self.reasons)
        return replace(
            self,
            offered=earlier.offered + self.offered,
            stored=earlier.stored + self.stored,
            downloaded=earlier.downloaded + self.downloaded,
            reasons=dict(reasons),
            retriable={**earlier.retriable, **self.retriable},
        )

    def reopened(self) -> "CrawlChunkResult":
        """Return the result as if the candidates that were rejected for now had not been offered."""
        again = Counter(self.retriable.values())
        return replace(
            self,
            offered=max(0, self.offered - again.total()),
            reasons=dict(Counter(self.reasons) - again),
            retriable={},
        )


def free_rounds(history: Sequence[CrawlChunkResult], *, list_source: str) -> int:
    """Return how many rounds do not count.

    Those of which a result page had nothing but what other jobs have: a job that adds to a large dataset passes over
    all of its pages first, for one request each. And those that a URL list filled: a long one takes many.

    Args:
        history: results of all chunks of earlier rounds.
        list_source: name of the source that takes the job's URL list.
    """
    known = sum(
        Reason.KNOWN_URL in result.reasons and not result.stored and not result.reasons.keys() - _FREE
        for result in history
    )
    pages = 1 + max((result.chunk.page for result in history if result.chunk.source == list_source), default=-1)
    return known + pages // _MAX_CHUNKS


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


@dataclass(slots=True)
class _Stream:
    """One search at one source: which result pages were requested, and which can still be."""

    keyword: Keyword
    query: str
    source: str
    page_size: int
    max_pages: int | None
    next_page: int = 0
    offered: int = 0
    stored: int = 0
    failures: int = 0
    left: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether there is more to request, and the source does not only fail."""
        if self.failures >= _MAX_FAILURES or (self.failures and not self.offered):
            return False
        return bool(self.left) or self.max_pages is None or self.next_page < self.max_pages

    @property
    def capacity(self) -> int:
        """Candidates that can still be requested; a large number where it is unknown."""
        if self.max_pages is None:
            return _UNKNOWN
        return sum(map(len, self.left.values())) + self._pages * self.page_size

    @property
    def expected(self) -> int:
        """Images that can be counted on; a large number where it is unknown, and none after a failure."""
        if self.failures:
            return 0
        if self.max_pages is None:
            return _UNKNOWN
        left = sum(self._reliable(len(positions)) for positions in self.left.values())
        return left + self._pages * self._reliable(self.page_size)

    @property
    def _pages(self) -> int:
        """Result pages that were not requested, where their number is known."""
        return max(0, (self.max_pages or 0) - self.next_page)

    def add(self, result: CrawlChunkResult) -> None:
        """Take the result of a chunk of an earlier round into account."""
        page = result.chunk.page
        self.failures = self.failures + 1 if result.failed else 0
        self.next_page = max(self.next_page, page + 1)
        self.offered += result.offered
        self.stored += result.stored
        self.left.pop(page, None)
        if result.left:
            self.left[page] = result.left
        if not result.more:
            self.max_pages = self.next_page if self.max_pages is None else min(self.max_pages, self.next_page)

    def _reliable(self, candidates: int) -> int:
        """Return how many images so many candidates are likely to bring at least, by the yield so far.

        Before the first result, every candidate is expected to become an image. The lower bound of a yield is no
        estimate, so that nothing is taken off it: a source that brings nothing more would only be searched more.
        """
        if not self.offered:
            return candidates
        share = min(1.0, self.stored / self.offered)
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
        quotas = _shares(quota, likely, sizes) if self.offered else fill(quota, sizes)
        return [
            CrawlChunk(
                source=self.source,
                query=self.query,
                label=self.keyword.label,
                page=page,
                page_size=self.page_size,
                quota=share,
                only=positions,
            )
            for (page, positions, _), share in zip(parts, quotas, strict=True)
            if share
        ]

    def _parts(self, missing: int) -> Iterator[tuple[int, tuple[int, ...] | None, int]]:
        """Yield pages, with the positions of leftovers, and the number of candidates, until they suffice."""
        few: list[tuple[int, tuple[int, ...]]] = []
        for page, positions in sorted(self.left.items()):
            if not (likely := self._reliable(len(positions))):
                few.append((page, positions))
            elif missing > 0:
                yield page, positions, len(positions)
                missing -= likely
        page = self.next_page
        while missing > 0 and (self.max_pages is None or page < self.max_pages):
            yield page, None, self.page_size
            missing -= max(1, self._reliable(self.page_size))
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
    history: Sequence[CrawlChunkResult] = (),
) -> tuple[CrawlChunk, ...]:
    """Return the chunks of the next round; none when the job has its images or nothing is left to request.

    The quotas sum to the missing images, or to fewer where 10,000 chunks cannot bring that many candidates. Classes are
    kept even, the searches of a class get equal shares: each of its texts at each of the sources. Chunks of different
    classes alternate, so that every class has images early.

    Args:
        keywords: the classes of the job.
        sources: names of the sources, with their limits.
        max_images: of the job.
        history: results of all chunks of earlier rounds.
    """
    of_classes = [_streams(keyword, sources) for keyword in keywords]
    streams = {(one.query, one.keyword.label, one.source): one for found in of_classes for one in found}
    for result in sorted(history, key=lambda result: result.chunk.page):
        done = result.chunk
        if stream := streams.get((done.query, done.label, done.source)):
            stream.add(result)

    have = [sum(stream.stored for stream in found) for found in of_classes]
    caps = []
    for keyword, found, stored in zip(keywords, of_classes, have, strict=True):
        room = sum(stream.capacity for stream in found if stream.alive)
        caps.append(min(room, max_images if keyword.max_images is None else max(0, keyword.max_images - stored)))
    quotas = balance(max_images - sum(have), have, caps)

    planned: list[tuple[int, list[CrawlChunk]]] = []
    limit = max(1, _MAX_CHUNKS // len(streams)) if streams else 0
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


def _streams(keyword: Keyword, sources: Mapping[str, SourceLimits]) -> list[_Stream]:
    """Return the searches for a keyword: at all sources for the keyword itself, and then for what else it is."""
    return [
        _Stream(keyword, text, source, limits.page_size, limits.max_pages)
        for text in keyword.queries
        for source, limits in sources.items()
        if text == keyword.query or not limits.is_list
    ]

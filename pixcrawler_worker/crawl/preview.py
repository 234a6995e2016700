"""What a crawl would find: its sources are searched as by a job, and nothing is downloaded or stored."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.crawl.downloading import check_candidate
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.crawl.options import CrawlOptions, recorded
from pixcrawler_worker.crawl.planner import URLS
from pixcrawler_worker.db.crawls import CrawlRequest
from pixcrawler_worker.domain import storage_keys
from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.crawl_history import CrawlHistory
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.masking import mask
from pixcrawler_worker.runtime import SearchRuntime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.web import http

log = structlog.get_logger()

#: License of candidates whose source states none.
UNKNOWN = "unknown"
#: Entries of a URL list that no host is requested for: so many are named.
_MAX_BAD = 1000
#: Characters of the error of a bug that are shown.
_MAX_ERROR = 200
#: Reasons that are mistakes of a list, or of settings.
_BAD = frozenset({Reason.BAD_URL, Reason.FORBIDDEN_ADDRESS, Reason.FORBIDDEN_PORT})


@dataclass(slots=True)
class SearchCounts:
    """What one source has for one keyword.

    Attributes:
        source: its name.
        keyword: the label of the images.
        found: candidates on the result pages that were read.
        reasons: why some of them would not be downloaded.
        usable: candidates that would be.
        more: whether the source may have further ones.
        errors: why result pages could not be read.
    """

    source: str
    keyword: str
    found: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    usable: int = 0
    more: bool = False
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BadEntry:
    """A URL that would not be requested.

    Attributes:
        line: in the URL list; None for one that a source offers.
        url: as it is given.
        reason: why.
        detail: in words.
    """

    line: int | None
    url: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class UsableCandidate:
    """A candidate that would be downloaded."""

    source: str
    label: str
    query: str
    candidate: Candidate


@dataclass(slots=True)
class Preview:
    """What a crawl would find.

    Attributes:
        searches: counts by source and keyword, in their order.
        licenses: candidates with different URLs, by license.
        hosts: candidates that would be downloaded, by host.
        usable: these candidates, in the order in which they were found; empty unless they are kept.
        bad: URLs that would not be requested, the first of them.
    """

    searches: dict[tuple[str, str], SearchCounts] = field(default_factory=dict)
    licenses: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    usable: list[UsableCandidate] = field(default_factory=list)
    bad: list[BadEntry] = field(default_factory=list)

    @property
    def reasons(self) -> Counter[Reason]:
        """Why candidates would not be downloaded."""
        return sum((one.reasons for one in self.searches.values()), start=Counter())

    @property
    def count(self) -> int:
        """How many candidates would be downloaded."""
        return sum(one.usable for one in self.searches.values())


async def preview(  # noqa: PLR0913 - what a job has
    runtime: SearchRuntime,
    keywords: Sequence[str],
    options: CrawlOptions,
    listed: StoredList,
    *,
    max_images: int,
    keeps_candidates: bool,
) -> Preview:
    """Return what a crawl would find, as if each usable candidate became an image.

    Args:
        runtime: searches the sources.
        keywords: of the job.
        options: of the job, without a URL list.
        listed: the URL list; empty for none.
        max_images: of the job.
        keeps_candidates: whether to keep them: a list may have millions.

    Raises:
        PermanentError: when a source is not installed or not configured.
    """
    size = options.chunk_size or runtime.settings.chunk_size
    request = CrawlRequest(
        keywords=list(keywords),
        max_images=max_images,
        total_images=0,
        valid_images=0,
        options=recorded(options),
        round=0,
        url_pages=math.ceil(len(listed) / size),
    )
    search = _Search(runtime, options, listed, keeps_candidates=keeps_candidates)
    history = CrawlHistory()
    for _ in range(options.max_rounds):
        chunks = planner.next_round(runtime, request, options, history)
        if not chunks:
            break
        for result in await search.run(chunks):
            history.add(result)
    return search.preview


class _Search:
    """The searches of a preview."""

    def __init__(
        self, runtime: SearchRuntime, options: CrawlOptions, listed: StoredList, *, keeps_candidates: bool
    ) -> None:
        self.preview = Preview()
        self._keeps_candidates = keeps_candidates
        self._runtime = runtime
        self._options = options
        self._listed = listed
        self._seen: set[bytes] = set()
        # Of each result page: whether there are more, and the positions of its usable candidates.
        self._pages: dict[tuple[str, str, int], tuple[bool, int, Sequence[int]]] = {}

    async def run(self, chunks: Sequence[CrawlChunk]) -> list[CrawlChunkResult]:
        """Return the results of the chunks of a round; the sources are searched at the same time."""
        for chunk in chunks:
            key = chunk.source, chunk.label
            self.preview.searches.setdefault(key, SearchCounts(*key))
        by_source: dict[str, list[CrawlChunk]] = {}
        for chunk in chunks:
            by_source.setdefault(chunk.source, []).append(chunk)
        found = await asyncio.gather(*(self._run(of_one) for of_one in by_source.values()))
        return [result for results in found for result in results]

    async def _run(self, chunks: Sequence[CrawlChunk]) -> list[CrawlChunkResult]:
        return [await self._result(chunk) for chunk in chunks]

    async def _result(self, chunk: CrawlChunk) -> CrawlChunkResult:
        counts = self.preview.searches[chunk.source, chunk.label]
        place = chunk.source, chunk.query, chunk.page
        if place not in self._pages:
            try:
                page = await self._page(chunk)
            except (TransientError, PermanentError) as error:
                counts.errors.append(str(error))
                return CrawlChunkResult(chunk=chunk, failed=True)
            except Exception as error:
                # As in a job, where its chunk fails, a bug of one source leaves the others.
                log.exception("search failed: internal error", source=chunk.source)
                counts.errors.append(f"internal error: {mask(repr(error))[:_MAX_ERROR]}")
                return CrawlChunkResult(chunk=chunk, failed=True)
            counts.more = page.more
            self._pages[place] = page.more, len(page.candidates), self._usable(chunk, page, counts)
        more, size, usable = self._pages[place]
        positions = range(size) if chunk.only is None else chunk.only
        ours = [at for at in usable if at in positions]
        # A job tries no more once it has its images: what is behind them is left over.
        last = ours[chunk.quota - 1] if 0 < chunk.quota <= len(ours) else size
        return CrawlChunkResult(
            chunk=chunk,
            offered=sum(at <= last for at in positions),
            stored=min(chunk.quota, len(ours)),
            left=tuple(at for at in positions if at > last),
            more=more,
        )

    async def _page(self, chunk: CrawlChunk) -> Page:
        options, start = self._options, chunk.page * chunk.page_size
        query = Query(
            text=chunk.query,
            label=chunk.label,
            page=chunk.page,
            page_size=chunk.page_size,
            urls=tuple(row.url for row in self._listed.page(start, chunk.page_size)) if chunk.source == URLS else (),
            licenses=options.licenses,
            min_width=options.min_width,
            min_height=options.min_height,
            safe_search=options.safe_search,
            target_side=options.target_side,
        )
        with http.translated(chunk.source):
            return await self._runtime.source(chunk.source).search(query, http.client(self._runtime.downloader))

    def _usable(self, chunk: CrawlChunk, page: Page, counts: SearchCounts) -> Sequence[int]:
        """Count the candidates of a page; return the positions of those that would be downloaded."""
        counts.found += len(page.candidates) + page.invalid
        counts.reasons[Reason.INVALID_ENTRY] += page.invalid
        usable: list[int] = []
        for at, candidate in enumerate(page.candidates):
            try:
                host = self._checked(candidate)
            except RejectedError as error:
                counts.reasons[error.reason] += 1
                if error.reason in _BAD and len(self.preview.bad) < _MAX_BAD:
                    self.preview.bad.append(BadEntry(self._line(chunk, at), candidate.url, error.reason, error.detail))
                continue
            except Exception as error:  # noqa: BLE001 - a source of another package may offer anything
                counts.reasons[Reason.INTERNAL_ERROR] += 1
                log.warning("candidate rejected: internal error", source=chunk.source, error=repr(error)[:200])
                continue
            usable.append(at)
            self.preview.hosts[host] += 1
            if self._keeps_candidates:
                self.preview.usable.append(UsableCandidate(chunk.source, chunk.label, chunk.query, candidate))
        counts.usable += len(usable)
        counts.reasons = +counts.reasons
        return usable

    def _line(self, chunk: CrawlChunk, at: int) -> int | None:
        if chunk.source != URLS:
            return None
        (row,) = self._listed.page(chunk.page * chunk.page_size + at, 1)
        return row.number

    def _checked(self, candidate: Candidate) -> str:
        """Return the host of a candidate that would be downloaded.

        Raises:
            RejectedError: when it would not be, in the order in which a job checks it.
        """
        url_hash = storage_keys.url_hash(candidate.url)
        if url_hash in self._seen:
            raise RejectedError(Reason.DUPLICATE_URL, "the same URL again")
        self._seen.add(url_hash)
        self.preview.licenses[candidate.credit.license or UNKNOWN] += 1
        check_candidate(candidate, self._options)
        self._runtime.placeholders.check_url(candidate.url)
        return self._runtime.downloader.checked_host(candidate.url)

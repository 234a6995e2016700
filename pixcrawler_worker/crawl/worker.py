"""Running one chunk of a crawl: search the source, download, inspect and store its candidates."""

import asyncio
import contextlib
import functools
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.crawl.options import CrawlOptions, parse
from pixcrawler_worker.db import crawls, images
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger import fairness
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import licenses, storage_keys
from pixcrawler_worker.domain.crawl_planning import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import PASSING, Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError, WorkerError
from pixcrawler_worker.jobs.kind import Report
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.web import http
from pixcrawler_worker.web.downloader import Fetched

log = structlog.get_logger()

#: Seconds before the only second attempt at a URL whose failure may pass.
_RETRY_SECONDS = 0.5
#: Downloads at a time beyond the images that are missing: they replace rejected candidates without a wait.
_SPARE_DOWNLOADS = 8
#: Seconds without a candidate that ends, after which a chunk leaves the rest to a later one if other jobs wait for its
#: process: the first time that candidates of its result page are left, the second, ... After that it stays.
_STALLS = (1.0, 4.0, 16.0)
#: The same for a page that is new, when chunks before it did so: its hosts are probably the same.
_STALL_OF_SLOW = 0.25
#: Seconds between two looks at whether a chunk should stop.
_LOOK_SECONDS = 0.25
#: Attempts to search a failing source when the job has other sources: half a minute.
_MAX_SEARCH_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class CrawlWork:
    """A claimed chunk with what it needs of the job.

    Attributes:
        claim: of the chunk.
        chunk: its payload.
        options: of the job.
        quota: images that the chunk may store, at most.
        urls: the page of the URL list, for the source `urls`.
        round: of the job.
        stall: seconds without progress after which other jobs come first; None when this page has waited often enough.
        only_source: whether the job has no other source.
    """

    claim: Claim
    chunk: CrawlChunk
    options: CrawlOptions
    quota: int
    urls: tuple[str, ...]
    round: int
    stall: float | None
    only_source: bool


@dataclass(frozen=True, slots=True)
class _Offer:
    """A candidate with its position in the result page and the hash of its URL."""

    position: int
    candidate: Candidate
    url_hash: bytes


@dataclass(slots=True)
class CrawlProgress:
    """The progress of a chunk. Every candidate ends up in exactly one of `images`, `rejected` and `left`.

    Attributes:
        quota: images that the chunk may store, at most.
        images: stored images by their position in the result page.
        rejected: rejection reasons with counts.
        processed: hashes of the URLs of candidates that became images or were rejected.
        digests: SHA-256 of the images.
        downloaded_positions: positions of candidates whose download has finished.
        downloaded: number of complete downloads.
        reserved: images that are being stored.
        left: positions of leftovers.
        more: whether the source may have further result pages.
        bugs: names of the errors whose traceback was logged.
        yielded: whether the chunk stopped early, because its hosts are slow.
    """

    quota: int
    images: dict[int, NewImage] = field(default_factory=dict)
    rejected: Counter[Reason] = field(default_factory=Counter)
    processed: set[bytes] = field(default_factory=set)
    digests: set[bytes] = field(default_factory=set)
    downloaded_positions: set[int] = field(default_factory=set)
    downloaded: int = 0
    reserved: int = 0
    left: tuple[int, ...] = ()
    more: bool = False
    bugs: set[str] = field(default_factory=set)
    yielded: bool = False

    @property
    def missing(self) -> int:
        """Images that the quota still has room for."""
        return self.quota - len(self.images) - self.reserved

    @contextlib.contextmanager
    def reserve(self, digest: bytes) -> Iterator[None]:
        """Reserve room in the quota, and the digest, while the image is stored."""
        self.reserved += 1
        self.digests.add(digest)
        try:
            yield
        except BaseException:
            self.digests.discard(digest)
            raise
        finally:
            self.reserved -= 1


def prepare(runtime: Runtime, session: Session, claim: Claim) -> CrawlWork:
    """Read what the work of a chunk needs, in the transaction of its claim."""
    request = crawls.load(session, claim.job.id)
    options = parse(request.options)
    chunk = CrawlChunk.from_json(claim.payload)
    return CrawlWork(
        claim=claim,
        chunk=chunk,
        options=options,
        quota=min(chunk.quota, request.max_images - request.valid_images),
        urls=crawls.urls(session, claim.job.id, chunk.page) if chunk.source == planner.URLS else (),
        round=request.round,
        stall=_stall(session, claim, chunk),
        only_source=len(planner.sources(runtime, request, options)) == 1,
    )


def _stall(session: Session, claim: Claim, chunk: CrawlChunk) -> float | None:
    """Return for how many seconds the hosts of a chunk may be silent while other jobs wait; None for ever."""
    if chunk.only is None:
        return _STALL_OF_SLOW if crawls.yielded_before(session, claim.job.id, claim.chunk_id) else _STALLS[0]
    yielded = crawls.times_yielded(session, claim.job.id, chunk)
    return _STALLS[yielded] if yielded < len(_STALLS) else None


async def work(runtime: Runtime, work: CrawlWork, limits: JobLimits) -> CrawlProgress:
    """Store as many new images as the quota allows from the candidates of the chunk.

    Candidates for which `limits.chunk_budget` does not last, and those of slow hosts while other jobs wait for the
    process, are left to another chunk.

    Raises:
        TransientError, PermanentError: from the source or the storage.
    """
    page = await _search(runtime, work)
    positions = range(len(page.candidates)) if work.chunk.only is None else work.chunk.only
    progress = CrawlProgress(quota=work.quota, more=page.more)
    if page.invalid and work.chunk.only is None:
        progress.rejected[Reason.INVALID_ENTRY] += page.invalid
    offers: list[_Offer] = []
    for at in positions:
        if at < len(page.candidates):
            try:
                offers.append(_Offer(at, page.candidates[at], storage_keys.url_hash(page.candidates[at].url)))
            except Exception as error:  # noqa: BLE001 - a source of another package may offer anything
                _reject_internally(progress, error, source=work.chunk.source)
    seen = await asyncio.to_thread(_seen, runtime, work.claim.job.id, offers)
    new: list[_Offer] = []
    for offer in offers:
        if offer.url_hash in seen or offer.url_hash in progress.processed:
            progress.rejected[Reason.DUPLICATE_URL] += 1
        else:
            progress.processed.add(offer.url_hash)
            new.append(offer)
    left = await _process_all(runtime, work, progress, new, budget=limits.chunk_budget.total_seconds())
    progress.left = tuple(offer.position for offer in left)
    progress.processed -= {offer.url_hash for offer in left}
    return progress


def write(session: Session, work: CrawlWork, progress: CrawlProgress) -> Report:
    """Write the rows of the images; return the counts of the chunk."""
    job_id = work.claim.job.id
    found = [progress.images[at] for at in sorted(progress.images)]
    request = crawls.load(session, job_id)
    room = max(0, request.max_images - request.valid_images)
    inserted = images.insert_each(session, job_id, found[:room])
    for position, error in inserted.errors.items():
        log.error("image rejected by the database", url=found[position].url, reason=error)
    stored, failed = len(inserted.positions), len(inserted.errors)
    rejected = progress.rejected + Counter(
        {
            Reason.DUPLICATE_BYTES: len(found[:room]) - stored - failed,
            Reason.SURPLUS: len(found[room:]),
            Reason.INTERNAL_ERROR: failed,
        }
    )
    result = CrawlChunkResult(
        chunk=work.chunk,
        offered=stored + rejected.total(),
        stored=stored,
        left=progress.left,
        more=progress.more,
        downloaded=progress.downloaded,
        reasons={str(reason): count for reason, count in rejected.items()},
        yielded=work.round if progress.yielded else 0,
    )
    return Report(
        result=result.to_json(),
        gains={
            "total_images": images.add_candidates(session, job_id, sorted(progress.processed)),
            "downloaded_images": progress.downloaded,
            "valid_images": stored,
        },
    )


async def _search(runtime: Runtime, work: CrawlWork) -> Page:
    chunk, options = work.chunk, work.options
    query = Query(
        text=chunk.query,
        label=chunk.label,
        page=chunk.page,
        page_size=chunk.page_size,
        urls=work.urls,
        licenses=options.licenses,
        min_width=options.min_width,
        min_height=options.min_height,
        safe_search=options.safe_search,
    )
    try:
        with http.translated(chunk.source):
            return await runtime.source(chunk.source).search(query, http.client(runtime.downloader))
    except TransientError as error:
        if work.only_source or error.retry_after is not None or work.claim.counted_attempt < _MAX_SEARCH_ATTEMPTS:
            raise
        raise PermanentError(f"{error}; its part is left to the other sources") from error


def _seen(runtime: Runtime, job_id: int, offers: Sequence[_Offer]) -> frozenset[bytes]:
    hashes = [offer.url_hash for offer in offers]
    return transact(runtime.sessions, lambda session: images.seen(session, job_id, hashes))


async def _process_all(  # noqa: C901 - one loop, four ways to end it
    runtime: Runtime, work: CrawlWork, progress: CrawlProgress, offers: Sequence[_Offer], *, budget: float
) -> list[_Offer]:
    """Process candidates in their order, several at a time, until the quota is met; return the leftovers."""
    begun = ended = time.monotonic()
    waiting = deque(offers)
    running: dict[asyncio.Task[bool], _Offer] = {}
    left: list[_Offer] = []
    try:
        while len(progress.images) < work.quota:
            limit = min(runtime.settings.fetch_concurrency, progress.missing + _SPARE_DOWNLOADS)
            while waiting and len(running) < limit:
                offer = waiting.popleft()
                running[asyncio.ensure_future(_process(runtime, work, progress, offer))] = offer
            if not running:
                break
            done, _ = await asyncio.wait(running, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                offer = running.pop(task)
                if not task.result():
                    left.append(offer)
            now = time.monotonic()
            ended = now if done else ended
            # Without one that ended, a later chunk would get no further.
            if ended > begun and now - begun > budget:
                break
            if not done and await _should_yield(runtime, work, now - ended):
                break
    except BaseException:
        progress.downloaded_positions.clear()
        raise
    finally:
        # The quota is met, or something failed: downloads are cancelled. What the decoder already has is awaited,
        # because cancelling would end the process of the decoder.
        for task, offer in running.items():
            if offer.position not in progress.downloaded_positions:
                task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    late = [offer for task, offer in running.items() if task.cancelled() or not task.result()]
    progress.yielded = len(progress.images) < work.quota and bool(late or waiting)
    return sorted([*left, *late, *waiting], key=lambda offer: offer.position)


async def _should_yield(runtime: Runtime, work: CrawlWork, stalled: float) -> bool:
    """Return whether other jobs wait for the process of a chunk whose hosts have not answered for so many seconds."""
    if work.stall is None or stalled < work.stall:
        return False

    def do_others_wait() -> bool:
        others_wait = functools.partial(fairness.others_wait, ref=work.claim.job)
        return runtime.requests_wait() or transact(runtime.sessions, others_wait, pauses=())

    try:
        return await asyncio.to_thread(do_others_wait)
    except TransientError:
        return False


async def _process(runtime: Runtime, work: CrawlWork, progress: CrawlProgress, offer: _Offer) -> bool:
    """Store or reject one candidate; return False when the quota was met meanwhile, so that it is a leftover.

    A bug that the candidate meets rejects it, and costs the others nothing. Trouble of the storage or of the operator's
    proxy is the chunk's.
    """
    try:
        return await _process_soundly(runtime, work, progress, offer)
    except WorkerError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever one candidate raises is its own
        _reject_internally(progress, error, source=work.chunk.source, url_hash=offer.url_hash.hex())
        return True


def _reject_internally(progress: CrawlProgress, error: Exception, **where: str) -> None:
    """Count a candidate that met a bug; log the traceback of the first of its kind in the chunk."""
    progress.rejected[Reason.INTERNAL_ERROR] += 1
    kind = type(error).__name__
    traceback = None if kind in progress.bugs else error
    progress.bugs.add(kind)
    log.error("candidate rejected: internal error", error=kind, exc_info=traceback, **where)


async def _process_soundly(runtime: Runtime, work: CrawlWork, progress: CrawlProgress, offer: _Offer) -> bool:
    try:
        _check_candidate(offer.candidate, work.options)
        fetched = await _download(runtime, offer.candidate.url, work.options)
        progress.downloaded += 1
        progress.downloaded_positions.add(offer.position)
        runtime.placeholders.check_url(fetched.url)
        facts = await runtime.decoder.inspect(fetched.body)
        runtime.placeholders.check_image(facts)
        _check_facts(facts, work.options)
        _check_digest(facts, progress)
    except RejectedError as error:
        progress.rejected[error.reason] += 1
        log.debug("candidate rejected", reason=error.reason, detail=str(error))
        return True
    if progress.missing <= 0:
        progress.downloaded -= 1
        return False
    with progress.reserve(facts.sha256):
        key = storage_keys.image_key(work.claim.job.id, work.chunk.label, facts)
        await runtime.storage.put(key, fetched.body)
    progress.images[offer.position] = _new_image(work, offer, facts, storage_url=runtime.storage.url(key))
    return True


async def _download(runtime: Runtime, url: str, options: CrawlOptions) -> Fetched:
    runtime.placeholders.check_url(url)
    fetch = functools.partial(
        runtime.downloader.fetch,
        url,
        respect_robots=options.respect_robots,
        respect_opt_outs=options.respect_opt_outs,
    )
    try:
        return await fetch()
    except RejectedError as error:
        if error.reason not in PASSING:
            raise
    await asyncio.sleep(_RETRY_SECONDS)
    return await fetch()


def _check_candidate(candidate: Candidate, options: CrawlOptions) -> None:
    """Reject a candidate whose source says that it does not fit the options, before it is downloaded."""
    if not licenses.is_allowed(candidate.credit.license, options.licenses):
        raise RejectedError(Reason.LICENSE_NOT_WANTED, f"license {candidate.credit.license or 'unknown'}")
    if (candidate.width or options.min_width) < options.min_width:
        raise RejectedError(Reason.TOO_SMALL, f"its source says that it is {candidate.width} pixels wide")
    if (candidate.height or options.min_height) < options.min_height:
        raise RejectedError(Reason.TOO_SMALL, f"its source says that it is {candidate.height} pixels high")


def _check_facts(facts: ImageFacts, options: CrawlOptions) -> None:
    if options.formats is not None and facts.format not in options.formats:
        raise RejectedError(Reason.FORMAT_NOT_WANTED, facts.format)
    if facts.width < options.min_width or facts.height < options.min_height:
        raise RejectedError(Reason.TOO_SMALL, f"{facts.width}x{facts.height}")


def _check_digest(facts: ImageFacts, progress: CrawlProgress) -> None:
    if facts.sha256 in progress.digests:
        raise RejectedError(Reason.DUPLICATE_BYTES, "another URL has the same bytes")


def _new_image(work: CrawlWork, offer: _Offer, facts: ImageFacts, *, storage_url: str) -> NewImage:
    return NewImage(
        url=offer.candidate.url,
        url_hash=offer.url_hash,
        filename=storage_keys.image_filename(facts),
        storage_url=storage_url,
        facts=facts,
        label=work.chunk.label,
        query=work.chunk.query,
        source=work.chunk.source,
        credit=offer.candidate.credit,
    )

"""Running one chunk: ask the source, fetch, inspect, store, and write down what came of it."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.crawl.options import CrawlOptions, parse
from pixcrawler_worker.db import crawls, images
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.planning import CrawlChunk, slug, url_hash
from pixcrawler_worker.domain.reasons import PASSING, Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs.kind import Report
from pixcrawler_worker.jobs.limits import Limits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.web.http import translated

log = structlog.get_logger()

#: Pause before the one second try at an address whose trouble may pass.
_PAUSE = 0.5
#: Downloads under way beyond what the quota still needs: what one of them loses, another one brings without waiting.
_SPARE = 8
#: Searches that are tried at a source in trouble when the job has others: half a minute's patience.
_PATIENT_ATTEMPTS = 3
#: Digits of the digest in a file's name: 128 bits, so that nobody can make two pictures with the same name.
_NAME_DIGITS = 32


@dataclass(frozen=True, slots=True)
class CrawlWork:
    """A claimed chunk with what the job's row and plan say about it; `alone` when its job has no other source."""

    claim: Claim
    chunk: CrawlChunk
    options: CrawlOptions
    quota: int
    urls: tuple[str, ...]
    alone: bool


@dataclass(slots=True)
class Harvest:
    """What a chunk has brought so far. Every candidate ends in exactly one of `good`, `rejected` and `left`."""

    quota: int
    good: dict[int, NewImage] = field(default_factory=dict)
    rejected: Counter[Reason] = field(default_factory=Counter)
    judged: set[bytes] = field(default_factory=set)
    digests: set[bytes] = field(default_factory=set)
    arrived: set[int] = field(default_factory=set)
    downloaded: int = 0
    reserved: int = 0
    left: tuple[int, ...] = ()
    more: bool = False

    @property
    def wanted(self) -> int:
        """Images that the quota still has room for."""
        return self.quota - len(self.good) - self.reserved

    @contextlib.contextmanager
    def reserve(self, digest: bytes) -> Iterator[None]:
        """Keep a place of the quota, and the digest, while the image is stored."""
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
    """Read what a chunk's work needs, in the transaction of its claim."""
    request = crawls.load(session, claim.job.id)
    options = parse(request.options)
    chunk = CrawlChunk.from_json(claim.payload)
    return CrawlWork(
        claim=claim,
        chunk=chunk,
        options=options,
        quota=min(chunk.quota, request.max_images - request.valid_images),
        alone=len(planner.sources(runtime, request, options)) == 1,
        urls=crawls.urls(session, claim.job.id, chunk.page) if chunk.source == planner.URLS else (),
    )


async def work(runtime: Runtime, work: CrawlWork, limits: Limits) -> Harvest:
    """Bring as many new images as the quota allows from the slice's candidates.

    Raises:
        TransientError, PermanentError: from the source or the storage.
    """
    del limits  # the number of a chunk's candidates bounds its time
    part = work.chunk
    page = await _search(runtime, work)
    positions = range(len(page.candidates)) if part.only is None else part.only
    asked = [(at, page.candidates[at]) for at in positions if at < len(page.candidates)]
    harvest = Harvest(quota=work.quota, more=page.more)
    seen = await asyncio.to_thread(_seen, runtime, work.claim.job.id, [candidate for _, candidate in asked])
    fresh: list[tuple[int, Candidate]] = []
    for at, candidate in asked:
        key = url_hash(candidate.url)
        if key in seen or key in harvest.judged:
            harvest.rejected[Reason.DUPLICATE_URL] += 1
        else:
            harvest.judged.add(key)
            fresh.append((at, candidate))
    left = await _fetch_all(runtime, work, harvest, fresh)
    harvest.left = tuple(at for at, _ in left)
    harvest.judged -= {url_hash(candidate.url) for _, candidate in left}
    return harvest


def write(session: Session, work: CrawlWork, harvest: Harvest) -> Report:
    """Write the images; return the counts of the chunk."""
    job_id = work.claim.job.id
    found = [harvest.good[at] for at in sorted(harvest.good)]
    request = crawls.load(session, job_id)
    room = max(0, request.max_images - request.valid_images)
    stored = len(images.insert_new(session, job_id, found[:room]))
    rejected = harvest.rejected + Counter(
        {Reason.DUPLICATE_BYTES: len(found[:room]) - stored, Reason.SURPLUS: len(found[room:])}
    )
    return Report(
        result={
            "offered": stored + rejected.total(),
            "stored": stored,
            "downloaded": harvest.downloaded,
            "reasons": dict(rejected),
            "left": harvest.left,
            "more": harvest.more,
        },
        gains={
            "total_images": images.add_candidates(session, job_id, sorted(harvest.judged)),
            "downloaded_images": harvest.downloaded,
            "valid_images": stored,
        },
    )


async def _search(runtime: Runtime, work: CrawlWork) -> Page:
    part, options = work.chunk, work.options
    query = Query(
        text=part.query,
        label=part.label,
        page=part.page,
        page_size=part.page_size,
        urls=work.urls,
        licenses=options.licenses,
        min_width=options.min_width,
        min_height=options.min_height,
        safe_search=options.safe_search,
    )
    try:
        with translated(part.source):
            return await runtime.source(part.source).search(query, runtime.http)
    except TransientError as error:
        if work.alone or error.retry_after is not None or work.claim.attempt < _PATIENT_ATTEMPTS:
            raise
        raise PermanentError(f"{error}; its part is left to the other sources") from error


def _seen(runtime: Runtime, job_id: int, candidates: Sequence[Candidate]) -> frozenset[bytes]:
    hashes = [url_hash(candidate.url) for candidate in candidates]
    return transact(runtime.sessions, lambda session: images.seen(session, job_id, hashes))


async def _fetch_all(
    runtime: Runtime, work: CrawlWork, harvest: Harvest, candidates: Sequence[tuple[int, Candidate]]
) -> list[tuple[int, Candidate]]:
    """Judge candidates in their order, several at a time, until the quota is met; return those nobody judged."""
    waiting = deque(candidates)
    under_way: dict[asyncio.Task[bool], tuple[int, Candidate]] = {}
    left: list[tuple[int, Candidate]] = []
    try:
        while len(harvest.good) < work.quota:
            while waiting and len(under_way) < min(runtime.settings.fetch_concurrency, harvest.wanted + _SPARE):
                at, candidate = waiting.popleft()
                task = asyncio.ensure_future(_judge(runtime, work, harvest, at, candidate))
                under_way[task] = (at, candidate)
            if not under_way:
                break
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                offered = under_way.pop(task)
                if not task.result():
                    left.append(offered)
    except BaseException:
        harvest.arrived.clear()
        raise
    finally:
        # The quota is met, or something went wrong: whoever still waits for a host brings nothing any more. Who is at
        # the decoder is let through, because giving up there would cost the decoder's process.
        for task, (at, _) in under_way.items():
            if at not in harvest.arrived:
                task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    late = [offered for task, offered in under_way.items() if task.cancelled() or not task.result()]
    return sorted([*left, *late, *waiting], key=lambda offered: offered[0])


async def _judge(runtime: Runtime, work: CrawlWork, harvest: Harvest, at: int, candidate: Candidate) -> bool:
    """Take or refuse one candidate; False when the quota was met meanwhile, so that it is neither."""
    try:
        _check_offer(candidate, work.options)
        body = await _fetch(runtime, candidate.url)
        harvest.downloaded += 1
        harvest.arrived.add(at)
        facts = await runtime.decoder.inspect(body)
        _check_facts(facts, work.options)
        _check_bytes(facts, harvest)
    except RejectedError as error:
        harvest.rejected[error.reason] += 1
        log.debug("candidate refused", reason=error.reason, detail=str(error))
        return True
    if harvest.wanted <= 0:
        harvest.downloaded -= 1
        return False
    with harvest.reserve(facts.sha256):
        image = _describe(runtime, work, candidate, facts)
        await runtime.storage.put(runtime.storage.key(image.storage_url), body)
    harvest.good[at] = image
    return True


async def _fetch(runtime: Runtime, url: str) -> bytes:
    try:
        return (await runtime.downloader.fetch(url)).body
    except RejectedError as error:
        if error.reason not in PASSING:
            raise
    await asyncio.sleep(_PAUSE)
    return (await runtime.downloader.fetch(url)).body


def _check_offer(candidate: Candidate, options: CrawlOptions) -> None:
    """Refuse what the source's own words rule out, before it is downloaded."""
    if not licenses.is_wanted(candidate.credit.license, options.licenses):
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


def _check_bytes(facts: ImageFacts, harvest: Harvest) -> None:
    if facts.sha256 in harvest.digests:
        raise RejectedError(Reason.DUPLICATE_BYTES, "the same bytes came from another address")


def _describe(runtime: Runtime, work: CrawlWork, candidate: Candidate, facts: ImageFacts) -> NewImage:
    filename = f"{facts.sha256.hex()[:_NAME_DIGITS]}.{facts.format}"
    key = f"crawl_jobs/{work.claim.job.id}/{slug(work.chunk.label)}/{filename}"
    return NewImage(
        url=candidate.url,
        filename=filename,
        storage_url=runtime.storage.url(key),
        facts=facts,
        label=work.chunk.label,
        query=work.chunk.query,
        source=work.chunk.source,
        credit=candidate.credit,
    )

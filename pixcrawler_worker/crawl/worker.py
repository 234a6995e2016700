"""Running one chunk of a crawl: search the source, download, inspect and store its candidates."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog

from pixcrawler_worker import metrics
from pixcrawler_worker.crawl import kept_candidates, planner
from pixcrawler_worker.crawl.downloading import Downloading
from pixcrawler_worker.crawl.options import parse
from pixcrawler_worker.crawl.progress import CrawlProgress, CrawlWork, Offer, Pause, Rejection, kept_row
from pixcrawler_worker.db import candidates, crawls, images, known_images
from pixcrawler_worker.db.candidates import Outcome
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import storage_keys
from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.errors import PermanentError, TransientError, WorkerError
from pixcrawler_worker.jobs.kind import Report, Rest, Tally
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.web import http
from pixcrawler_worker.web.hosts import MAX_STRIKES, Cause, HostClosedError

log = structlog.get_logger()

#: Seconds without a candidate that ends, after which a chunk leaves the rest for later if other jobs wait for its
#: process: the first time, the second, ... After that it stays.
_STALLS = (1.0, 4.0, 16.0)
#: The same for the first time of a chunk, when chunks before it did so: its hosts are probably the same.
_STALL_OF_SLOW = 0.25
#: Attempts to search a failing source when the job has other sources: half a minute.
_MAX_SEARCH_ATTEMPTS = 3
#: Characters of what happened to a rejected candidate that are kept.
_MAX_DETAIL = 300
#: A host that is down is waited for as long as a share of the job's time so far, within bounds: a job of hours can wait
#: for one that restarts, a short one does not become much longer.
_PATIENCE_SHARE = 0.1
_MIN_PATIENCE, _MAX_PATIENCE = timedelta(seconds=2), timedelta(minutes=5)


def prepare(runtime: Runtime, session: Session, claim: Claim) -> CrawlWork:
    """Read what the work of a chunk needs, in the transaction of its claim."""
    chunk = CrawlChunk.from_json(claim.payload)
    page = chunk.page if chunk.source == planner.URLS else None
    request = crawls.load_for_chunk(session, claim.job.id, claim.chunk_id, page=page)
    found, stored = (
        count + claim.uncounted.get(column, 0)
        for column, count in (("total_images", request.total_images), ("valid_images", request.valid_images))
    )
    options = parse(request.options)
    return CrawlWork(
        claim=claim,
        chunk=chunk,
        options=options,
        quota=min(chunk.quota, request.max_images - stored),
        rows=request.rows,
        stall=_stall(chunk, is_after_slow=request.is_after_slow),
        patience=min(max(request.age * _PATIENCE_SHARE, _MIN_PATIENCE), _MAX_PATIENCE),
        only_source=len(planner.sources(runtime, options, has_urls=request.has_urls)) == 1,
        keeps_failures=found - stored < runtime.settings.kept_failures,
    )


def _stall(chunk: CrawlChunk, *, is_after_slow: bool) -> float | None:
    """Return for how many seconds the hosts of a chunk may be silent while other jobs wait; None for ever."""
    if not chunk.yields:
        return _STALL_OF_SLOW if is_after_slow else _STALLS[0]
    return _STALLS[chunk.yields] if chunk.yields < len(_STALLS) else None


async def work(runtime: Runtime, work: CrawlWork, limits: JobLimits) -> CrawlProgress:
    """Store as many new images as the quota allows from the candidates of the chunk.

    Candidates for which `limits.chunk_budget` does not last, those of hosts that are to be left alone for a while, and
    those of slow hosts while other jobs wait for the process, are left to another attempt.

    Raises:
        TransientError, PermanentError: from the source or the storage.
    """
    slots, candidates_at_most = runtime.downloader.slots, len(work.rows) or work.chunk.page_size
    slots.note(work.claim.fence, taken=0, wanted=min(work.quota, candidates_at_most))
    try:
        return await _work(runtime, work, limits)
    finally:
        slots.leave(work.claim.fence)


async def _work(runtime: Runtime, work: CrawlWork, limits: JobLimits) -> CrawlProgress:
    is_list = work.chunk.source == planner.URLS
    if kept := _kept(work):
        progress = CrawlProgress(quota=work.quota, more=work.chunk.more)
        offers = _offers(runtime, work, kept, kept, progress)
    else:
        page = await _search(runtime, work)
        # A source of another package may have the URL of the next page there.
        progress = CrawlProgress(quota=work.quota, more=bool(page.more))
        if page.invalid and work.chunk.only is None:
            progress.rejected[Reason.INVALID_ENTRY] += page.invalid
        there = range(len(page.candidates))
        positions = there if work.chunk.only is None else [at for at in work.chunk.only if at in there]
        offers = _offers(runtime, work, page.candidates, positions, progress)
        if work.chunk.only is not None and not is_list:
            offers = await _left_over(runtime, work, page, offers)
    seen, known = await asyncio.to_thread(_seen, runtime, work, offers) if offers else (frozenset(), frozenset())
    new: dict[bytes, Offer] = {}
    for offer in offers:
        if offer.url_hash in seen or offer.url_hash in new:
            progress.rejected[Reason.DUPLICATE_URL] += 1
        else:
            new[offer.url_hash] = offer
            if offer.url_hash in known:
                progress.reject(offer, Reason.KNOWN_URL)
    wanted = [offer for offer in new.values() if offer.url_hash not in known]
    if wanted:
        await Downloading(runtime, work, progress, wanted, budget=limits.chunk_budget.total_seconds()).run()
    if work.options.reproducible:
        _keep_first(progress, new, default_label=work.chunk.label)
    uses = [offer.candidate.use_url for offer in new.values() if offer.position in progress.images]
    await _report_uses(runtime, work.chunk.source, [url for url in uses if url])
    if progress.pause and not is_list:
        progress.pause = replace(progress.pause, kept=_keep(progress.pause.positions, new.values()))
    open_positions = {*progress.left, *(progress.pause.positions if progress.pause else ())}
    progress.processed = {
        url_hash: offer.position for url_hash, offer in new.items() if offer.position not in open_positions
    }
    return progress


def _kept(work: CrawlWork) -> Mapping[int, Candidate]:
    """Return the candidates that are kept with the chunk, by position in their page; none when it has to be searched.

    Raises:
        PermanentError: when one is invalid.
    """
    chunk = work.chunk
    if chunk.only is None or chunk.kept is None or len(chunk.only) != len(chunk.kept):
        return {}
    read = (kept_candidates.read(value, f"payload.kept[{at}]") for at, value in enumerate(chunk.kept))
    return dict(zip(chunk.only, read, strict=True))


def _keep(positions: Iterable[int], offers: Iterable[Offer]) -> tuple[Mapping[str, Any], ...] | None:
    """Return what is kept of the candidates at these positions; None when that is not possible."""
    by_position = {offer.position: offer for offer in offers}
    left = [by_position[at] for at in positions]
    return kept_candidates.written([offer.candidate for offer in left], [offer.row for offer in left])


def _offers(
    runtime: Runtime,
    work: CrawlWork,
    candidates: Sequence[Candidate] | Mapping[int, Candidate],
    positions: Iterable[int],
    progress: CrawlProgress,
) -> list[Offer]:
    """Return the candidates at these positions of a page. Those that cannot be read are rejected."""
    offers: list[Offer] = []
    for at in positions:
        try:
            candidate = candidates[at]
            url_hash = storage_keys.url_hash(candidate.url)
            offer = Offer(at, candidate, url_hash, kept_row(candidate), candidate.credit.bounded())
            offer.host = runtime.downloader.host(candidate.url)
            offers.append(offer)
        except Exception as error:  # noqa: BLE001 - a source of another package may offer anything
            progress.reject_internally(error, source=work.chunk.source)
    return offers


async def _left_over(runtime: Runtime, work: CrawlWork, page: Page, offers: Sequence[Offer]) -> list[Offer]:
    """Return what is left over of a page of a source.

    A process that has not kept the page searches it again, and may get it in another order than the one that has noted
    the positions. So these are the candidates at the positions, unless they are decided, and those elsewhere that the
    job has not processed yet, which after a retry are also those that were rejected for now. In the same order as
    before, there are none elsewhere.
    """
    at_positions = {offer.position for offer in offers}
    elsewhere = [at for at in range(len(page.candidates)) if at not in at_positions]
    # What cannot be read there was rejected when the page was searched first.
    others = _offers(runtime, work, page.candidates, elsewhere, CrawlProgress(quota=0, more=False))
    job_id, hashes = work.claim.job.id, [offer.url_hash for offer in (*offers, *others)]

    def read(session: Session) -> tuple[frozenset[bytes], frozenset[bytes]]:
        decided = candidates.decided(session, job_id, hashes)
        recorded = candidates.recorded(session, job_id, hashes)
        # It reads all chunks of the job, so only where it matters.
        is_in_doubt = not (recorded - decided).isdisjoint(offer.url_hash for offer in others)
        if is_in_doubt and not crawls.has_rejected_for_now(session, job_id, work.chunk):
            return decided, decided
        return decided, recorded

    decided, processed = await asyncio.to_thread(transact, runtime.sessions, read)
    left = [
        *(offer for offer in offers if offer.url_hash not in decided),
        *(offer for offer in others if offer.url_hash not in processed),
    ]
    # A URL that is in the page twice was counted as a duplicate before.
    return list({offer.url_hash: offer for offer in reversed(left)}.values())[::-1]


def _keep_first(progress: CrawlProgress, offers: Mapping[bytes, Offer], *, default_label: str) -> None:
    """Of candidates with the same bytes, keep the first of the page and not the one that arrived first."""
    kept = {image.facts.sha256: at for at, image in progress.images.items()}
    for offer, digest in sorted(progress.same_bytes, key=lambda entry: entry[0].position):
        at = kept.get(digest)
        if at is None or at < offer.position:
            continue
        image = progress.images.pop(at)
        progress.rejected[progress.rejections.pop(offer.url_hash).reason] -= 1
        progress.reject(offers[image.url_hash], Reason.DUPLICATE_BYTES, "another URL has the same bytes")
        progress.images[offer.position] = replace(
            image,
            url=offer.url,
            url_hash=offer.url_hash,
            label=offer.row.label or default_label,
            credit=offer.credit,
            caption=offer.row.caption,
            columns=offer.row.columns or None,
        )
        kept[digest] = offer.position


def write(session: Session, work: CrawlWork, progress: CrawlProgress) -> Report:
    """Write the rows of the images; return the counts of the chunk, and what is left of it."""
    job_id = work.claim.job.id
    if work.skips_known and progress.images:
        known_images.lock(session, job_id)
    outcomes = [
        _outcome(work, url_hash, progress.rejections.get(url_hash), downloaded=position in progress.downloaded)
        for url_hash, position in progress.processed.items()
    ]
    recorded = candidates.record(session, job_id, outcomes)
    # What another chunk has decided meanwhile stays as it is.
    found = {
        at: progress.images[at] for at in sorted(progress.images) if progress.images[at].url_hash in recorded.hashes
    }
    known = _known(session, work, found) if work.skips_known else {}
    stored, left_out = _insert(session, job_id, {at: image for at, image in found.items() if at not in known})
    left_out |= known
    corrections = [_outcome(work, found[at].url_hash, rejection) for at, rejection in left_out.items()]
    candidates.correct(session, job_id, corrections)
    rejected = progress.rejected + Counter(rejection.reason for rejection in left_out.values())
    rejected[Reason.DUPLICATE_URL] += len(progress.images) - len(found)
    retriable = progress.retriable | {at: one.reason for at, one in left_out.items() if one.reason.is_retriable}
    result = CrawlChunkResult(
        chunk=work.chunk,
        offered=stored + rejected.total(),
        stored=stored,
        left=progress.left,
        more=progress.more,
        downloaded=recorded.downloaded,
        reasons={str(reason): count for reason, count in (+rejected).items()},
        retriable={position: str(reason) for position, reason in retriable.items()},
    )
    if work.claim.so_far:
        result = result.after(CrawlChunkResult.from_json(work.chunk, work.claim.so_far))
    return Report(
        result=result.to_json(),
        gains={
            "total_images": recorded.found,
            "downloaded_images": recorded.downloaded,
            "valid_images": stored,
        },
        rest=_rest(work, progress.pause, more=progress.more, stored=stored, ended=len(progress.processed))
        if progress.pause
        else None,
        tally=Tally(
            outcomes={
                "stored": stored,
                "rejected": rejected.total(),
                "left": len(progress.left),
                "put_off": len(progress.pause.positions) if progress.pause else 0,
            },
            rejected={str(reason): count for reason, count in rejected.items()},
            bytes=progress.received,
            hosts=progress.hosts,
            waiting=progress.pause.waiting if progress.pause else {},
        ),
    )


def _known(session: Session, work: CrawlWork, found: Mapping[int, NewImage]) -> Mapping[int, Rejection]:
    """Return why images are left out that another job has got since they were looked up, by position."""
    known = known_images.known(
        session,
        work.claim.job.id,
        urls=[image.url_hash for image in found.values()],
        digests=[image.facts.sha256 for image in found.values()],
        of_project=work.options.skip_known,
    )
    by_url = {at: Reason.KNOWN_URL for at, image in found.items() if image.url_hash in known.urls}
    by_bytes = {at: Reason.KNOWN_BYTES for at, image in found.items() if image.facts.sha256 in known.digests}
    return {at: Rejection(found[at].url, reason, row=_row(found[at])) for at, reason in (by_bytes | by_url).items()}


def _insert(session: Session, job_id: int, found: Mapping[int, NewImage]) -> tuple[int, dict[int, Rejection]]:
    """Insert images, by position; return how many were inserted, and why the others were not."""
    room = crawls.room(session, job_id) if found else 0
    positions = list(found)
    offered = positions[:room]
    inserted = images.insert_each(session, job_id, [found[at] for at in offered])
    left_out = {at: Rejection(found[at].url, Reason.DUPLICATE_BYTES, row=_row(found[at])) for at in offered}
    left_out |= {at: Rejection(found[at].url, Reason.SURPLUS, row=_row(found[at])) for at in positions[room:]}
    for index, error in inserted.errors.items():
        at = offered[index]
        left_out[at] = replace(left_out[at], reason=Reason.INTERNAL_ERROR, detail=f"rejected by the database: {error}")
        log.error("image rejected by the database", url=found[at].url, reason=error)
    for index in inserted.positions:
        del left_out[offered[index]]
    return len(inserted.positions), left_out


def _row(image: NewImage) -> ListRow:
    return ListRow(image.url, image.caption, image.label, image.columns or {})


def _outcome(work: CrawlWork, url_hash: bytes, rejection: Rejection | None, *, downloaded: bool = False) -> Outcome:
    if rejection is None:
        return Outcome(url_hash=url_hash, downloaded=downloaded)
    reason = rejection.reason
    outcome = Outcome(url_hash=url_hash, reason=str(reason), retriable=reason.is_retriable, downloaded=downloaded)
    if not work.keeps_failures:
        return outcome
    return replace(
        outcome,
        url=rejection.url,
        label=rejection.row.label or work.chunk.label,
        detail=rejection.detail[:_MAX_DETAIL] or None,
        http_status=rejection.status,
        list_details=replace(rejection.row, label=None).details(),
    )


def _rest(work: CrawlWork, pause: Pause, *, more: bool, stored: int, ended: int) -> Rest:
    """Return what is left of the chunk. A deferral for connections that other workers use costs no attempt either."""
    chunk = work.chunk
    rest = replace(
        chunk,
        quota=max(1, chunk.quota - stored),
        only=pause.positions,
        kept=pause.kept,
        more=more,
        yields=chunk.yields + pause.yielded,
        waiting=pause.waiting,
    )
    return Rest(rest.to_json(), pause.delay, progressed=ended > 0 or pause.deferred)


async def _search(runtime: Runtime, work: CrawlWork) -> Page:
    chunk, options = work.chunk, work.options
    query = Query(
        text=chunk.query,
        label=chunk.label,
        page=chunk.page,
        page_size=chunk.page_size,
        urls=work.urls,
        rows=work.rows,
        licenses=options.licenses,
        min_width=options.min_width,
        min_height=options.min_height,
        safe_search=options.safe_search,
        target_side=options.target_side,
    )
    try:
        with http.translated(chunk.source):
            source = runtime.source(chunk.source)
            metrics.set_source(chunk.source)
            if chunk.source == planner.URLS:
                return await source.search(query, http.unused_client())
            job_id, recent = work.claim.job.id, runtime.recent_pages
            # What is left over of a page are positions in it.
            if chunk.only is not None and (known := recent.find(job_id, chunk.source, source, query)):
                return known
            page = await source.search(query, http.client(runtime.downloader))
            recent.keep(job_id, chunk.source, source, query, page)
            return page
    except TransientError as error:
        if isinstance(error, HostClosedError) and error.cause is Cause.LIMITED and error.strikes >= MAX_STRIKES:
            raise PermanentError(f"{chunk.source} limits requests: {error}") from error
        if work.only_source or error.retry_after is not None or work.claim.counted_attempt < _MAX_SEARCH_ATTEMPTS:
            raise
        raise PermanentError(f"{error}; its part is left to the other sources") from error


async def _report_uses(runtime: Runtime, name: str, uses: Sequence[str]) -> None:
    """Report images that were stored to a provider whose terms want that. No image is lost by what goes wrong there."""
    for number, use_url in enumerate(uses):
        try:
            with http.translated(name):
                await runtime.source(name).report_use(use_url, http.client(runtime.downloader))
        except Exception as error:
            is_bug = not isinstance(error, WorkerError)
            left = len(uses) - number
            log.warning("use of images not reported", source=name, images=left, reason=str(error), exc_info=is_bug)
            return


def _seen(runtime: Runtime, work: CrawlWork, offers: Sequence[Offer]) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return which URLs the job has decided, and which it leaves out because other jobs have them."""
    job_id, hashes = work.claim.job.id, [offer.url_hash for offer in offers]

    def read(session: Session) -> tuple[frozenset[bytes], frozenset[bytes]]:
        decided = candidates.decided(session, job_id, hashes)
        if not work.skips_known:
            return decided, frozenset()
        of_project = work.options.skip_known
        return decided, known_images.known(session, job_id, urls=hashes, of_project=of_project).urls

    return transact(runtime.sessions, read)

"""Planning, topping up, ending, cancelling and retrying a crawl job.

Every function here may be called twice, late, or at once with itself and the others: each decides under the job's lock,
and returns the chunks to send messages about once its transaction has committed.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import structlog

from pixcrawler_worker.crawl.options import CrawlOptions, kept, parse
from pixcrawler_worker.db import activity, chunks, jobs, plans
from pixcrawler_worker.db.jobs import NotRunningError, Wake
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import planning
from pixcrawler_worker.domain.lifecycle import Counters, JobKind, JobRef, JobStatus, job_status
from pixcrawler_worker.domain.planning import Reach, Slice
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources import protocol

log = structlog.get_logger()

URLS = "urls"

_NEVER_PLANNED = "the row was set running by hand: write it as pending, and send pixcrawler.crawl.start"


class UnknownJobError(PermanentError):
    """There is no crawl job with that id."""

    def __init__(self, job_id: object) -> None:
        super().__init__(f"there is no crawl job {job_id!r}")


def start(runtime: Runtime, job_id: int, raw_options: object) -> list[Wake]:
    """Plan a pending job; do nothing for one that has been started.

    What is wrong with the row or the options fails the job, with the reason in its activity log.

    Raises:
        UnknownJobError: when there is no such job.
    """
    ref = JobRef(JobKind.CRAWL, job_id)
    status = transact(runtime.sessions, lambda session: jobs.status(session, ref))
    if status is None:
        raise UnknownJobError(job_id)
    if status is not JobStatus.PENDING:
        return []
    asked: CrawlOptions | None = None
    try:
        asked = parse(raw_options) if raw_options else None
        return transact(runtime.sessions, lambda session: _begin(runtime, session, ref, asked))
    except PermanentError as error:
        reason = str(error)
    transact(runtime.sessions, lambda session: _refuse(runtime, session, ref, asked, reason))
    return []


def keep(runtime: Runtime, session: Session, job_id: int, options: CrawlOptions) -> None:
    """Keep the options of a job that is not planned yet, in place of those that were kept before."""
    page_size = options.chunk_size or runtime.settings.chunk_size
    plans.keep(
        session,
        job_id,
        options=kept(options) | {"chunk_size": page_size},
        urls=options.urls,
        page_size=page_size,
    )


def conclude(runtime: Runtime, job_id: int) -> list[Wake]:
    """Plan another round for a job whose chunks all ended short of its images, or end the job."""
    ref = JobRef(JobKind.CRAWL, job_id)

    def work(session: Session) -> list[Wake]:
        if jobs.lock(session, ref) is not JobStatus.RUNNING:
            return []
        counters = jobs.counters(session, ref)
        if counters.open:
            return []
        if not plans.is_kept(session, job_id):
            _fail(session, ref, _NEVER_PLANNED)
            return []
        plan = plans.load(session, job_id)
        try:
            options = parse(plan.options)
            slices = _round(runtime, plan, options, plans.outcomes(session, job_id))
        except PermanentError as error:
            # The row or the configuration changed under the job: it ends with what it has.
            _end(session, ref, counters, plan, reason=str(error))
            return []
        if slices and plan.round < options.max_rounds:
            return _queue(runtime, session, ref, slices)
        _end(session, ref, counters, plan)
        return []

    return transact(runtime.sessions, work)


def cancel(runtime: Runtime, job_id: int) -> None:
    """Cancel a job that has not ended; from then on no image of it is inserted. Harmless on any other.

    Raises:
        UnknownJobError: when there is no such job.
    """
    ref = JobRef(JobKind.CRAWL, job_id)

    def stop(session: Session) -> JobStatus | None:
        if jobs.cancel(session, ref):
            activity.record(session, ref, "cancelled")
        return jobs.status(session, ref)

    status = transact(runtime.sessions, stop)
    if status is None:
        raise UnknownJobError(job_id)
    if status is JobStatus.CANCELLED:
        drop_chunks(runtime, ref)


def drop_chunks(runtime: Runtime, ref: JobRef) -> int:
    """Cancel the open chunks of a cancelled job and return how many there were; none when it runs again."""
    try:
        return transact(runtime.sessions, lambda session: jobs.drop_chunks(session, ref))
    except NotRunningError:
        return 0


def retry(runtime: Runtime, job_id: int) -> list[Wake]:
    """Run the failed and cancelled chunks of an ended job again; a job that was never planned is planned anew.

    Raises:
        UnknownJobError: when there is no such job.
    """
    ref = JobRef(JobKind.CRAWL, job_id)
    status = transact(runtime.sessions, lambda session: jobs.status(session, ref))
    if status is None:
        raise UnknownJobError(job_id)
    if status is JobStatus.CANCELLED:
        drop_chunks(runtime, ref)

    def again(session: Session) -> list[Wake] | None:
        if not jobs.counters(session, ref).total:
            return None if jobs.reopen(session, ref) else []
        jobs.retry(session, ref)
        plans.touch(session, job_id)
        activity.record(session, ref, "retried")
        return chunks.wake_next(session, ref, limit=runtime.settings.dispatch_window)

    try:
        wakes = transact(runtime.sessions, again)
    except NotRunningError:
        log.info("nothing to retry", job=job_id)
        return []
    if wakes is None:
        return start(runtime, job_id, {})
    return wakes or conclude(runtime, job_id)


def _begin(runtime: Runtime, session: Session, ref: JobRef, asked: CrawlOptions | None) -> list[Wake]:
    if jobs.lock(session, ref) is not JobStatus.PENDING:
        return []
    if asked or not plans.is_kept(session, ref.id):
        keep(runtime, session, ref.id, asked or parse({}))
    plan = plans.load(session, ref.id)
    options = parse(plan.options)
    slices = _round(runtime, plan, options, [])
    jobs.begin(session, ref)
    activity.record(
        session,
        ref,
        "started",
        {"chunks": len(slices), "max_images": plan.max_images, "sources": sorted({part.source for part in slices})},
    )
    return _queue(runtime, session, ref, slices)


def _round(
    runtime: Runtime, plan: plans.Plan, options: CrawlOptions, history: list[planning.Outcome]
) -> tuple[Slice, ...]:
    """Return the slices of the next round.

    Raises:
        PermanentError: when the row or the options ask for something that cannot be.
    """
    if plan.max_images < 1:
        raise PermanentError(f"max_images must be above 0, not {plan.max_images}")
    keywords = planning.keywords(plan.keywords)
    if plan.url_pages and len(keywords) > 1:
        raise PermanentError(f"a URL list has one label, but the job has {len(keywords)} keywords: give it one")
    return planning.next_round(
        keywords=keywords,
        sources=reaches(runtime, plan, options),
        max_images=plan.max_images,
        history=history,
    )


def _queue(runtime: Runtime, session: Session, ref: JobRef, slices: tuple[Slice, ...]) -> list[Wake]:
    jobs.add_chunks(session, ref, [plans.payload(part) for part in slices])
    plans.next_round(session, ref.id)
    return chunks.wake_next(session, ref, limit=runtime.settings.dispatch_window)


def _end(session: Session, ref: JobRef, counters: Counters, plan: plans.Plan, *, reason: str | None = None) -> None:
    outcome = job_status(counters)
    jobs.end(session, ref, outcome)
    details: dict[str, Any] = {
        "images": plan.valid_images,
        "wanted": plan.max_images,
        "chunks": {"completed": counters.completed, "failed": counters.failed},
        "reasons": dict(reasons(session, ref.id)),
        "errors": chunks.errors(session, ref),
    }
    if reason:
        details["reason"] = reason
    activity.record(session, ref, outcome, details)
    log.info("job ended", job=ref.id, status=outcome, images=plan.valid_images, wanted=plan.max_images)


def sources(runtime: Runtime, plan: plans.Plan, options: CrawlOptions) -> tuple[str, ...]:
    """Return the names of the sources that the job asks: those that it names, or every one that is ready."""
    if options.sources:
        return tuple(dict.fromkeys(options.sources))
    if plan.url_pages:
        return (URLS,)
    return tuple(name for name in protocol.SOURCES.installed() if name != URLS and not runtime.source(name).missing())


def reaches(runtime: Runtime, plan: plans.Plan, options: CrawlOptions) -> Mapping[str, Reach]:
    """Return how far each source that the job asks can be asked.

    Raises:
        PermanentError: when a source is not installed or not configured, or when none is left.
    """
    size = options.chunk_size or runtime.settings.chunk_size

    def reach(name: str) -> Reach:
        if name == URLS:
            return Reach(size, plan.url_pages)
        source = runtime.source(name)
        page_size = min(size, source.page_size or size)
        return Reach(page_size, None if source.depth is None else source.depth // page_size)

    asked = sources(runtime, plan, options)
    if not asked:
        raise PermanentError("no source is configured: give the job a URL list, or configure a source")
    for name in asked:
        if missing := runtime.source(name).missing():
            raise PermanentError(f"source {name!r} cannot be used: {missing}")
    if URLS in asked and not plan.url_pages:
        raise PermanentError("source 'urls' needs a list: give the option urls with at least one address")
    return {name: reach(name) for name in asked}


def reasons(session: Session, job_id: int) -> Counter[str]:
    """Return why candidates of the job did not become images, with counts, the most frequent first."""
    total: Counter[str] = Counter()
    for result in chunks.results(session, JobRef(JobKind.CRAWL, job_id)):
        total.update(result.get("reasons", {}))
    return Counter(dict(total.most_common()))


def _refuse(runtime: Runtime, session: Session, ref: JobRef, asked: CrawlOptions | None, message: str) -> None:
    if jobs.lock(session, ref) is JobStatus.PENDING:
        if asked:
            # A retry, once the row is corrected, brings no message with them.
            keep(runtime, session, ref.id, asked)
        _fail(session, ref, message)


def _fail(session: Session, ref: JobRef, reason: str) -> None:
    jobs.end(session, ref, JobStatus.FAILED)
    activity.record(session, ref, "failed", {"reason": reason})
    log.warning("job failed", job=ref.id, reason=reason)

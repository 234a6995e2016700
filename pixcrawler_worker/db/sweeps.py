"""What the sweep looks for: jobs that stand still, counters that drifted, storage that is to be tidied."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from sqlalchemy import exists, func, or_, select, text, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from pixcrawler_worker.db import jobs, validations
from pixcrawler_worker.db.models import Chunk, CrawlJob, CrawlPlan, ExportPlan, ValidationPlan
from pixcrawler_worker.domain.lifecycle import ChunkState, JobKind, JobRef, JobStatus

_NOW = func.clock_timestamp()
_OPEN = Chunk.state.in_([ChunkState.QUEUED, ChunkState.RUNNING])
#: Rows that one step looks at in one sweep.
_BATCH = 200
#: First half of the keys of our advisory locks: the ASCII of "pixc".
_LOCKS = int.from_bytes(b"pixc")


#: Where jobs of a kind are remembered before they are planned: by which column, and since when.
_PLANS: Mapping[JobKind, tuple[InstrumentedAttribute[int], InstrumentedAttribute[datetime]]] = {
    JobKind.CRAWL: (CrawlPlan.crawl_job_id, CrawlPlan.requested_at),
    JobKind.VALIDATION: (ValidationPlan.validation_job_id, ValidationPlan.requested_at),
    JobKind.EXPORT: (ExportPlan.export_job_id, ExportPlan.requested_at),
}


class Step(IntEnum):
    """Steps of the sweep that only one worker does at a time."""

    ANNOUNCE = 1
    RESEND = 2


@dataclass(frozen=True, slots=True)
class Repair:
    """Counters as they were found, and as the ledger has them."""

    was: dict[str, int]
    now: dict[str, int]


def try_lock(session: Session, step: Step) -> bool:
    """Return whether nobody else is at that step; nobody will be until the transaction ends."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(_LOCKS, int(step)))))


def cancelled_with_chunks(session: Session) -> list[JobRef]:
    """Return cancelled jobs that still have open chunks, or no end, for example because an API wrote the status."""
    cancelled = select(CrawlJob.id).where(CrawlJob.status == JobStatus.CANCELLED)
    still_open = cancelled.join(Chunk, Chunk.crawl_job_id == CrawlJob.id).where(_OPEN)
    query = still_open.union(cancelled.where(CrawlJob.completed_at.is_(None))).limit(_BATCH)
    return [JobRef(JobKind.CRAWL, job_id) for job_id in session.scalars(query)]


def pending(session: Session, kind: JobKind, *, unplanned: bool, patience: timedelta) -> list[JobRef]:
    """Return pending jobs of a kind that were asked for longer ago than `patience`, so that their message is lost.

    Args:
        session: any transaction.
        kind: of the jobs.
        unplanned: take pending rows that nobody asked for, too.
        patience: time that the message gets to arrive.
    """
    model = jobs.MODELS[kind]
    key, requested_at = _PLANS[kind]
    asked = exists().where(key == model.id, requested_at + patience < _NOW)
    nobody = ~exists().where(key == model.id)
    query = select(model.id).where(model.status == JobStatus.PENDING)
    query = query.where(or_(asked, nobody)) if unplanned else query.where(asked)
    return [JobRef(kind, job_id) for job_id in session.scalars(query.order_by(model.id).limit(_BATCH))]


def unconcluded(session: Session, kind: JobKind) -> list[JobRef]:
    """Return running jobs of a kind whose chunks have all ended."""
    model = jobs.MODELS[kind]
    query = (
        select(model.id)
        .where(model.status == JobStatus.RUNNING, ~exists().where(jobs.COLUMNS[kind] == model.id, _OPEN))
        .order_by(model.id)
        .limit(_BATCH)
    )
    return [JobRef(kind, job_id) for job_id in session.scalars(query)]


def drifted(session: Session) -> list[int]:
    """Return running crawl jobs whose counters differ from the ledger, all seen in one snapshot."""
    query = text(
        """
        SELECT job.id
        FROM crawl_jobs AS job
        CROSS JOIN LATERAL (
            SELECT count(*) AS total,
                count(*) FILTER (WHERE state = 'running') AS active,
                count(*) FILTER (WHERE state = 'completed') AS completed,
                count(*) FILTER (WHERE state = 'failed') AS failed
            FROM pixcrawler.chunks WHERE crawl_job_id = job.id
        ) AS ledger
        WHERE job.status = 'running'
        AND (job.total_chunks, job.active_chunks, job.completed_chunks, job.failed_chunks)
            IS DISTINCT FROM (ledger.total, ledger.active, ledger.completed, ledger.failed)
        ORDER BY job.id LIMIT :batch
        """
    )
    return list(session.scalars(query, {"batch": _BATCH}))


def repair(session: Session, ref: JobRef) -> Repair | None:
    """Set a crawl job's counters to what ledger, images and standing verdicts say; None when they were right.

    The caller holds the job's lock: every transition counts in the transaction that makes it, so nothing that has
    changed the ledger is still to be counted.
    """
    counters = jobs.counters(session, ref)
    job = session.execute(
        select(
            CrawlJob.total_chunks,
            CrawlJob.active_chunks,
            CrawlJob.completed_chunks,
            CrawlJob.failed_chunks,
            CrawlJob.valid_images,
        ).where(CrawlJob.id == ref.id)
    ).one_or_none()
    if job is None:
        return None
    now = {
        "total_chunks": counters.total,
        "active_chunks": counters.active,
        "completed_chunks": counters.completed,
        "failed_chunks": counters.failed,
        "valid_images": validations.valid_images(session, ref.id),
    }
    was = {name: getattr(job, name) for name in now}
    if was == now:
        return None
    session.execute(update(CrawlJob).where(CrawlJob.id == ref.id).values(**now, updated_at=_NOW))
    return Repair(was, now)


def untidy(session: Session, *, quiet: timedelta) -> list[int]:
    """Return crawl jobs that ended at least `quiet` ago and whose storage nobody has tidied since."""
    query = (
        select(CrawlJob.id)
        .join(CrawlPlan, CrawlPlan.crawl_job_id == CrawlJob.id)
        .where(
            CrawlJob.status.in_([JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED]),
            CrawlJob.completed_at + quiet <= _NOW,
            CrawlPlan.cleaned_at.is_(None),
        )
        .order_by(CrawlJob.id)
        .limit(_BATCH)
    )
    return list(session.scalars(query))


def is_quiet(session: Session, job_id: int, *, quiet: timedelta) -> bool:
    """Return whether a crawl job ended at least `quiet` ago."""
    over = CrawlJob.status.in_([JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
    ended = select(CrawlJob.id).where(CrawlJob.id == job_id, over, CrawlJob.completed_at + quiet <= _NOW)
    return session.scalar(ended) is not None


def crawl_jobs(session: Session) -> list[int]:
    """Return all crawl jobs, by their ids."""
    return list(session.scalars(select(CrawlJob.id).order_by(CrawlJob.id)))


def tidied(session: Session, job_id: int) -> None:
    """Note that the job's storage holds only what rows name."""
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(cleaned_at=_NOW))

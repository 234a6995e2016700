"""Jobs of every kind: locking, planning, counting, ending, cancelling and retrying them.

Whoever needs several locks takes them in this order: `pin`, chunks (by id), images, the job's row last. A job's row is
never locked `FOR UPDATE`: inserting an image takes `FOR KEY SHARE` on it, and the two would wait for each other.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Row, and_, func, insert, join, literal, null, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.types import BigInteger, Uuid

from pixcrawler_worker.db.models import Chunk, CrawlJob, ExportJob, Profile, Project, ValidationJob
from pixcrawler_worker.domain.lifecycle import (
    MAX_ATTEMPTS,
    ChunkState,
    Counters,
    Delta,
    JobKind,
    JobRef,
    JobStatus,
    delta,
    progress,
)

#: Task ids are derived from the chunk and its generation, so they are known before anything is sent.
_TASKS = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")

#: The table of each kind of job, and the column by which a chunk belongs to one of its rows.
MODELS: Mapping[JobKind, type[CrawlJob | ValidationJob | ExportJob]] = {
    JobKind.CRAWL: CrawlJob,
    JobKind.VALIDATION: ValidationJob,
    JobKind.EXPORT: ExportJob,
}
COLUMNS: Mapping[JobKind, InstrumentedAttribute[int | None]] = {
    JobKind.CRAWL: Chunk.crawl_job_id,
    JobKind.VALIDATION: Chunk.validation_job_id,
    JobKind.EXPORT: Chunk.export_job_id,
}
_NOW = func.clock_timestamp()


class NotRunningError(Exception):
    """The job was cancelled, ended or deleted meanwhile: what was about to be written must be dropped."""


class OvershotError(Exception):
    """The job would have had more images than it may: the same work, read and done again, keeps the limit."""


@dataclass(frozen=True, slots=True)
class Wake:
    """A chunk to send a message about: its id, and the id that the message's task must have."""

    chunk_id: int
    task_id: str


def belongs_to(ref: JobRef) -> ColumnElement[bool]:
    """Return the condition that a chunk is one of the job's."""
    return COLUMNS[ref.kind] == ref.id


def job_of(row: Row[*tuple[Any, ...]]) -> JobRef:
    """Return the job that a chunk's row, or a part of it with the three foreign keys, belongs to."""
    keys = {kind: getattr(row, column.key) for kind, column in COLUMNS.items()}
    return next(JobRef(kind, key) for kind, key in keys.items() if key is not None)


def status(session: Session, ref: JobRef) -> JobStatus | None:
    """Return the job's status as it is now; None when there is no such job."""
    model = MODELS[ref.kind]
    found = session.scalar(select(model.status).where(model.id == ref.id))
    return None if found is None else JobStatus(found)


def rooted(kind: JobKind) -> FromClause:
    """Return the jobs of a kind with everything they belong to, from the top down: owner, project, crawl job, job.

    PostgreSQL locks the rows of a join in the order in which FROM names their tables.
    """
    chain = join(Profile, Project).join(CrawlJob)
    match kind:
        case JobKind.CRAWL:
            return chain
        case JobKind.VALIDATION:
            return chain.join(ValidationJob, ValidationJob.crawl_job_id == CrawlJob.id)
        case JobKind.EXPORT:
            return chain.join(ExportJob, ExportJob.crawl_job_id == CrawlJob.id)


def pin(session: Session, ref: JobRef) -> None:
    """Let nobody delete the job, or what it belongs to, until the transaction ends; nothing for a job that is gone.

    A delete locks from the top down: the owner, the project, the job, its chunks. A transition that has a chunk and
    then waits for its job, or has the job and logs it for its owner, would meet it half-way: a deadlock, of which the
    delete may be the one to fail. So every transition begins with these weakest of locks, from the top down, too.
    """
    owned = select(literal(1)).select_from(rooted(ref.kind)).where(MODELS[ref.kind].id == ref.id)
    session.execute(owned.with_for_update(read=True, key_share=True))


def lock(session: Session, ref: JobRef) -> JobStatus | None:
    """Keep other transitions of the job away until the transaction ends; image inserts go on."""
    pin(session, ref)
    model = MODELS[ref.kind]
    query = select(model.status).where(model.id == ref.id).with_for_update(key_share=True)
    found = session.scalar(query)
    return None if found is None else JobStatus(found)


def counters(session: Session, ref: JobRef) -> Counters:
    """Return the job's chunks by state, counted in the ledger."""
    query = select(Chunk.state, func.count()).where(belongs_to(ref)).group_by(Chunk.state)
    by_state = {ChunkState(state): count for state, count in session.execute(query)}
    return Counters(
        total=sum(by_state.values()),
        active=by_state.get(ChunkState.RUNNING, 0),
        completed=by_state.get(ChunkState.COMPLETED, 0),
        failed=by_state.get(ChunkState.FAILED, 0),
        cancelled=by_state.get(ChunkState.CANCELLED, 0),
    )


def begin(session: Session, ref: JobRef) -> None:
    """Set a pending job running. The caller holds its lock."""
    model = MODELS[ref.kind]
    session.execute(
        update(model)
        .where(model.id == ref.id, model.status == JobStatus.PENDING)
        .values(status=JobStatus.RUNNING, started_at=_NOW, completed_at=None, updated_at=_NOW)
    )


def add_chunks(session: Session, ref: JobRef, payloads: Sequence[Mapping[str, Any]]) -> None:
    """Queue one chunk per payload, behind those the job has already. The caller holds the job's lock."""
    if not payloads:
        return
    last, generation = session.execute(
        select(func.coalesce(func.max(Chunk.seq), -1), func.coalesce(func.max(Chunk.generation), 1)).where(
            belongs_to(ref)
        )
    ).one()
    ids = session.scalars(
        text("SELECT nextval(pg_get_serial_sequence('pixcrawler.chunks', 'id')) FROM generate_series(1, :count)"),
        {"count": len(payloads)},
    ).all()
    task_ids = [_task_id(chunk_id, generation) for chunk_id in ids]
    session.execute(
        insert(Chunk),
        [
            {
                "id": chunk_id,
                COLUMNS[ref.kind].key: ref.id,
                "generation": generation,
                "seq": seq,
                "payload": payload,
                "max_attempts": MAX_ATTEMPTS,
                "task_id": task_id,
            }
            for chunk_id, task_id, payload, seq in zip(
                ids, task_ids, payloads, range(last + 1, last + 1 + len(payloads)), strict=True
            )
        ],
    )
    if ref.kind is JobKind.CRAWL:
        session.execute(
            update(CrawlJob)
            .where(CrawlJob.id == ref.id)
            .values(
                total_chunks=CrawlJob.total_chunks + len(payloads),
                task_ids=CrawlJob.task_ids.op("||")(literal([str(task_id) for task_id in task_ids], JSONB)),
                updated_at=_NOW,
            )
        )


def count(
    session: Session,
    ref: JobRef,
    change: Delta,
    gains: Mapping[str, int] | None = None,
    *,
    expected: JobStatus = JobStatus.RUNNING,
) -> bool:
    """Apply a transition's change to the job's counters; return whether no chunk of it is queued or running any more.

    Args:
        session: the transaction that also writes the chunk's new state.
        ref: the job.
        change: what the transition does to the counters of chunks.
        gains: increments of other counting columns of the job's table, by name.
        expected: the status without which nothing may change.

    Raises:
        NotRunningError: when the job is gone or its status is another one. Roll back.
        OvershotError: when `valid_images` would pass `max_images`. Roll back, and do the work again.
    """
    model = MODELS[ref.kind]
    gains = gains or {}
    values: dict[str, Any] = {name: getattr(model, name) + gain for name, gain in gains.items()}
    values["updated_at"] = _NOW
    query = update(model).where(model.id == ref.id, model.status == expected)
    if ref.kind is JobKind.CRAWL:
        ended = CrawlJob.completed_chunks + CrawlJob.failed_chunks + change.completed + change.failed
        share = func.least(99, 99 * ended // func.greatest(CrawlJob.total_chunks, 1))
        values |= {
            "active_chunks": CrawlJob.active_chunks + change.active,
            "completed_chunks": CrawlJob.completed_chunks + change.completed,
            "failed_chunks": CrawlJob.failed_chunks + change.failed,
            "progress": func.greatest(CrawlJob.progress, share),
        }
        if gain := gains.get("valid_images"):
            query = query.where(CrawlJob.valid_images + gain <= CrawlJob.max_images)
        still_open = CrawlJob.total_chunks - CrawlJob.completed_chunks - CrawlJob.failed_chunks
        left = session.scalar(query.values(values).returning(still_open))
    elif session.scalar(query.values(values).returning(model.id)):
        now = counters(session, ref)
        share = func.greatest(model.progress, progress(now))
        session.execute(update(model).where(model.id == ref.id).values(progress=share))
        left = now.open
    else:
        left = None
    if left is None:
        if gains.get("valid_images") and status(session, ref) is expected:
            raise OvershotError(str(ref))
        raise NotRunningError(str(ref))
    return bool(left == 0)


def end(session: Session, ref: JobRef, outcome: JobStatus, *, error: str | None = None) -> None:
    """Write the last status of a job. The caller holds its lock and has seen that no chunk of it is open."""
    model = MODELS[ref.kind]
    values: dict[str, Any] = {"status": outcome, "completed_at": _NOW, "updated_at": _NOW}
    if outcome is JobStatus.COMPLETED:
        values["progress"] = 100
    if ref.kind is not JobKind.CRAWL:
        values["error_message"] = error
    session.execute(update(model).where(model.id == ref.id).values(values))


def cancel(session: Session, ref: JobRef) -> bool:
    """Set an open job cancelled, so that nothing more is counted or inserted; return whether it was open.

    Its chunks are swept by `drop_chunks` in a transaction of its own, because chunks are locked before jobs.
    """
    pin(session, ref)
    model = MODELS[ref.kind]
    done = session.scalar(
        update(model)
        .where(model.id == ref.id, model.status.in_([JobStatus.PENDING, JobStatus.RUNNING]))
        .values(status=JobStatus.CANCELLED, completed_at=_NOW, updated_at=_NOW)
        .returning(model.id)
    )
    return done is not None


def drop_chunks(session: Session, ref: JobRef) -> int:
    """Cancel what is still open of a cancelled job and return how many chunks that were.

    A job that was cancelled by whoever wrote nothing but its status gets the time of its end here.

    Raises:
        NotRunningError: when the job is not cancelled (any more). Roll back.
    """
    pin(session, ref)
    rows = session.execute(
        select(Chunk.id, Chunk.state)
        .where(belongs_to(ref), Chunk.state.in_([ChunkState.QUEUED, ChunkState.RUNNING]))
        .order_by(Chunk.id)
        .with_for_update(key_share=True)
    ).all()
    if rows:
        session.execute(
            update(Chunk)
            .where(Chunk.id.in_([row.id for row in rows]))
            .values(state=ChunkState.CANCELLED, lease_until=None)
            .execution_options(synchronize_session=False)
        )
        running = sum(row.state == ChunkState.RUNNING for row in rows)
        change = delta(ChunkState.RUNNING, ChunkState.CANCELLED, running)
        count(session, ref, change, expected=JobStatus.CANCELLED)
    model = MODELS[ref.kind]
    session.execute(
        update(model)
        .where(model.id == ref.id, model.status == JobStatus.CANCELLED, model.completed_at.is_(None))
        .values(completed_at=_NOW)
    )
    return len(rows)


def reopen(session: Session, ref: JobRef) -> bool:
    """Set a job that ended before it was planned back to pending; return whether it was one."""
    pin(session, ref)
    model = MODELS[ref.kind]
    reopened = session.scalar(
        update(model)
        .where(model.id == ref.id, model.status.in_([JobStatus.FAILED, JobStatus.CANCELLED]))
        .values(status=JobStatus.PENDING, started_at=None, completed_at=None, updated_at=_NOW)
        .returning(model.id)
    )
    return reopened is not None


def retry(session: Session, ref: JobRef) -> None:
    """Set an ended job running again, with its failed and cancelled chunks queued as a new generation.

    Completed chunks and their images stay. The ids of tasks are new, because workers remember revoked ones.

    Raises:
        NotRunningError: when there is nothing to retry: the job has not ended, not even its chunks if it was
            cancelled just now, or is complete. Roll back.
    """
    pin(session, ref)
    rows = session.execute(
        select(Chunk.id, Chunk.state)
        .where(belongs_to(ref), Chunk.state != ChunkState.COMPLETED)
        .order_by(Chunk.id)
        .with_for_update(key_share=True)
    ).all()
    if any(row.state in {ChunkState.QUEUED, ChunkState.RUNNING} for row in rows):
        raise NotRunningError(f"{ref} has open chunks")
    model = MODELS[ref.kind]
    again = and_(model.id == ref.id, model.status.in_([JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.COMPLETED]))
    if not rows:
        again = and_(again, model.status != JobStatus.COMPLETED)
    values: dict[str, Any] = {
        "status": JobStatus.RUNNING,
        "completed_at": None,
        "updated_at": _NOW,
        "progress": func.least(model.progress, 99),
    }
    if rows:
        latest = session.scalar(select(func.max(Chunk.generation)).where(belongs_to(ref))) or 1
        task_ids = {row.id: _task_id(row.id, latest + 1) for row in rows}
        _requeue(session, task_ids, latest + 1)
        if ref.kind is JobKind.CRAWL:
            failed = sum(row.state == ChunkState.FAILED for row in rows)
            values["failed_chunks"] = CrawlJob.failed_chunks - failed
            values["task_ids"] = [str(task_id) for task_id in task_ids.values()]
    if session.scalar(update(model).where(again).values(values).returning(model.id)) is None:
        raise NotRunningError(f"{ref} has nothing to retry")


def _requeue(session: Session, task_ids: Mapping[int, uuid.UUID], generation: int) -> None:
    pairs = func.unnest(literal(list(task_ids), ARRAY(BigInteger)), literal(list(task_ids.values()), ARRAY(Uuid)))
    new = pairs.table_valued("id", "task_id", name="new").render_derived()
    session.execute(
        update(Chunk)
        .where(Chunk.id == new.c.id)
        .values(
            state=ChunkState.QUEUED,
            generation=generation,
            attempt=0,
            max_attempts=MAX_ATTEMPTS,
            crash_count=0,
            task_id=new.c.task_id,
            available_at=_NOW,
            dispatched_at=None,
            dispatch_count=0,
            result=null(),
            error=None,
        )
        .execution_options(synchronize_session=False)
    )


def _task_id(chunk_id: int, generation: int) -> uuid.UUID:
    return uuid.uuid5(_TASKS, f"pixcrawler chunk {chunk_id} generation {generation}")

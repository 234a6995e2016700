"""Jobs of every kind: locking, planning, counting, ending, cancelling and retrying them.

Several locks are taken in this order: `pin`, chunks (by id), images, the job's row last. A job's row is never locked
`FOR UPDATE`: inserting an image takes `FOR KEY SHARE` on it, and the two would wait for each other.
"""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, any_, case, func, literal, null, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Uuid

from pixcrawler_worker.db.ledger import statements
from pixcrawler_worker.db.ledger.tables import JobRef, LimitExceededError, NotRunningError
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import execute_prepared
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.lifecycle import (
    CANCELLED,
    ENDED,
    ChunkOutcome,
    ChunkState,
    Counters,
    Delta,
    JobStatus,
    delta,
    progress,
)
from pixcrawler_worker.domain.postgres_types import storable
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS

#: Task ids are derived from the chunk and its generation, so they are known before anything is sent.
_TASKS = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
_NOW = func.clock_timestamp()
#: A job is not older than this: beyond it, arithmetic with its age could leave its range.
MAX_AGE = timedelta(days=365)
# The key is a constant of the code, one for each kind of job. As text, so that a kind may bring its own column.
_INSERT = """
INSERT INTO pixcrawler.chunks (id, {key}, generation, seq, payload, max_attempts, task_id)
SELECT id, :job_id, :generation, :last + position, payload, :max_attempts, task_id
FROM unnest(CAST(:ids AS bigint[]), CAST(CAST(:payloads AS text[]) AS jsonb[]), CAST(:task_ids AS uuid[]))
    WITH ORDINALITY AS new (id, payload, task_id, position)
"""
_OPEN = (ChunkState.QUEUED, ChunkState.RUNNING)
#: Key in the result of a chunk that has the sums of chunks of its job which were deleted: `chunks` is their number.
PRUNED = "pruned"


def belongs_to(ref: JobRef) -> ColumnElement[bool]:
    """Return the condition that a chunk is one of the job's."""
    return ref.table.chunk_key == ref.id


def status(session: Session, ref: JobRef) -> JobStatus | None:
    """Return the job's status as it is now; None when there is no such job."""
    model = ref.table.model
    found = session.scalar(select(model.status).where(model.id == ref.id))
    return None if found is None else JobStatus(found)


def pin(session: Session, ref: JobRef) -> None:
    """Prevent that the job, or what it belongs to, is deleted until the transaction ends; a job that is gone is fine.

    A delete locks from the top down: the owner, the project, the job, its chunks. A transition that has a chunk and
    then waits for its job, or has the job and logs it for its owner, would meet it half-way: a deadlock, of which the
    delete may be the one to fail. So every transition begins with these weakest of locks, from the top down, too.
    """
    owners = select(literal(1)).select_from(ref.table.owners).where(ref.table.model.id == ref.id)
    session.execute(owners.with_for_update(read=True, key_share=True))


def lock(session: Session, ref: JobRef) -> JobStatus | None:
    """Keep other transitions of the job away until the transaction ends, and return its status; image inserts go on."""
    pin(session, ref)
    model = ref.table.model
    found = session.scalar(select(model.status).where(model.id == ref.id).with_for_update(key_share=True))
    return None if found is None else JobStatus(found)


def counters(session: Session, ref: JobRef) -> Counters:
    """Return the job's chunks by state, counted in the ledger, with those that were completed and are deleted."""
    query = select(Chunk.state, func.count()).where(belongs_to(ref)).group_by(Chunk.state)
    by_state = {ChunkState(state): count for state, count in session.execute(query)}
    if deleted := pruned(session, ref):
        by_state[ChunkState.COMPLETED] = by_state.get(ChunkState.COMPLETED, 0) + deleted
    return Counters(
        total=sum(by_state.values()),
        active=by_state.get(ChunkState.RUNNING, 0),
        completed=by_state.get(ChunkState.COMPLETED, 0),
        failed=by_state.get(ChunkState.FAILED, 0),
        cancelled=by_state.get(ChunkState.CANCELLED, 0),
    )


def pruned(session: Session, ref: JobRef) -> int:
    """Return how many completed chunks of a job were deleted; their sums are in the chunk that is left."""
    sums = session.scalars(select(Chunk.result[PRUNED]).where(belongs_to(ref), Chunk.result.has_key(PRUNED)))
    return sum(stored_json.counts(one).get("chunks", 0) for one in sums)


def begin(session: Session, ref: JobRef) -> None:
    """Set a pending job running. The caller holds its lock."""
    model = ref.table.model
    session.execute(
        update(model)
        .where(model.id == ref.id, model.status == JobStatus.PENDING)
        .values(status=JobStatus.RUNNING, started_at=_NOW, completed_at=None, updated_at=_NOW)
    )


def add_chunks(session: Session, ref: JobRef, payloads: Sequence[Mapping[str, Any]]) -> None:
    """Queue one chunk per payload, after those the job has already. The caller holds the job's lock."""
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
        text(_INSERT.format(key=ref.table.id_name)),
        {
            "job_id": ref.id,
            "generation": generation,
            "last": last,
            "max_attempts": MAX_ATTEMPTS,
            "ids": list(ids),
            "payloads": [json.dumps(payload) for payload in payloads],
            "task_ids": [str(task_id) for task_id in task_ids],
        },
    )
    if ref.table.has("total_chunks"):
        model: Any = ref.table.model
        session.execute(
            update(model)
            .where(model.id == ref.id)
            .values(
                total_chunks=model.total_chunks + len(payloads),
                task_ids=_list_of(model.task_ids).op("||")(literal([str(task_id) for task_id in task_ids], JSONB)),
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
) -> ChunkOutcome:
    """Apply a transition's change to the job's counters; return whether the job has open chunks left.

    Args:
        session: the transaction that also writes the chunk's new state.
        ref: the job.
        change: of the counters of chunks.
        gains: increments of other counting columns of the job's table, by name.
        expected: the status without which nothing may change.

    Raises:
        NotRunningError: when the job is gone or has another status.
        LimitExceededError: when a gain would bring a column above its limit.
    """
    gains = gains or {}
    with_limits = limited(ref, gains)
    if ref.table.has("active_chunks"):
        values = {"job": ref.id, "expected": str(expected), **gain_values(gains)}
        values |= {"active": change.active, "completed": change.completed, "failed": change.failed}
        row = execute_prepared(session, statements.count(ref.table, tuple(gains), with_limits), values).fetchone()
        left = None if row is None else row[0]
    else:
        left = _count_chunks(session, ref, gains, with_limits, expected)
    return outcome(session, ref, left, with_limits, expected=expected)


def limited(ref: JobRef, gains: Mapping[str, int]) -> tuple[str, ...]:
    """Return the gains whose columns have limits."""
    return tuple(name for name in ref.table.limits if gains.get(name))


def gain_values(gains: Mapping[str, int]) -> dict[str, Any]:
    """Return gains as the statements of `statements` name them."""
    return {f"gain_{name}": gain for name, gain in gains.items()}


def outcome(
    session: Session,
    ref: JobRef,
    left: int | None,
    with_limits: Collection[str],
    *,
    expected: JobStatus = JobStatus.RUNNING,
) -> ChunkOutcome:
    """Return whether a job has open chunks left, after a statement that has counted something in its row.

    Args:
        session: the transaction of the statement.
        ref: the job.
        left: the number of open chunks that the statement returned, None when it counted nothing.
        with_limits: the gains whose columns have limits.
        expected: the status without which it counts nothing.

    Raises:
        NotRunningError: when the job is gone or has another status.
        LimitExceededError: when a gain would bring a column above its limit.
    """
    if left is None:
        if with_limits and status(session, ref) is expected:
            raise LimitExceededError(str(ref))
        raise NotRunningError(str(ref))
    return ChunkOutcome.CONTINUES if left else ChunkOutcome.JOB_FINISHED


def _count_chunks(
    session: Session, ref: JobRef, gains: Mapping[str, int], limited: Collection[str], expected: JobStatus
) -> int | None:
    """Do what `count` does for a kind whose rows do not count chunks; return the number of open ones."""
    model: Any = ref.table.model
    values: dict[str, Any] = {name: getattr(model, name) + gain for name, gain in gains.items()}
    query = update(model).where(model.id == ref.id, model.status == expected)
    for name in limited:
        query = query.where(getattr(model, name) + gains[name] <= getattr(model, ref.table.limits[name]))
    if session.scalar(query.values(**values, updated_at=_NOW).returning(model.id)) is None:
        return None
    now = counters(session, ref)
    share = func.greatest(model.progress, progress(now))
    session.execute(update(model).where(model.id == ref.id).values(progress=share))
    return now.open


def end(session: Session, ref: JobRef, outcome: JobStatus, *, error: str | None = None) -> None:
    """Write the last status of a job. The caller holds its lock and has seen that no chunk of it is open."""
    model = ref.table.model
    values: dict[str, Any] = {"status": outcome, "completed_at": _NOW, "updated_at": _NOW}
    # Only a completed job has 100, also when it turns out to have been completed wrongly.
    values["progress"] = 100 if outcome is JobStatus.COMPLETED else func.least(model.progress, 99)
    if ref.table.has("error_message"):
        values["error_message"] = None if error is None else storable(error)
    session.execute(update(model).where(model.id == ref.id).values(values))


def cancel(session: Session, ref: JobRef) -> bool:
    """End a job that has not ended, so that nothing more is counted or inserted; return whether it had not.

    A crawl job becomes `cancelled`; kinds whose documented statuses do not have that become `failed`, with
    "cancelled" as their error. The chunks are cancelled by `drop_chunks` in a transaction of its own, because chunks
    are locked before jobs.
    """
    pin(session, ref)
    model = ref.table.model
    values: dict[str, Any] = {"status": JobStatus.CANCELLED}
    if ref.table.has("error_message"):
        values = {"status": JobStatus.FAILED, "error_message": CANCELLED}
    done = session.scalar(
        update(model)
        .where(model.id == ref.id, model.status.in_([JobStatus.PENDING, JobStatus.RUNNING]))
        .values(**values, completed_at=_NOW, updated_at=_NOW)
        .returning(model.id)
    )
    return done is not None


def drop_chunks(session: Session, ref: JobRef) -> int:
    """Cancel the open chunks of a job that has ended, and return how many there were.

    A job whose status was written by another program gets the time of its end here and, where the table has that
    column, an error: it was cancelled.

    Raises:
        NotRunningError: when the job has not ended.
    """
    pin(session, ref)
    rows = session.execute(
        select(Chunk.id, Chunk.state)
        .where(belongs_to(ref), Chunk.state.in_(_OPEN))
        .order_by(Chunk.id)
        .with_for_update(key_share=True)
    ).all()
    if rows:
        found = lock(session, ref)
        if found not in ENDED:
            raise NotRunningError(f"{ref} has not ended")
        session.execute(
            update(Chunk)
            # As one parameter: a statement has up to 65,535 of them.
            .where(Chunk.id == any_(literal([row.id for row in rows], ARRAY(BigInteger))))
            .values(state=ChunkState.CANCELLED, lease_until=None)
            .execution_options(synchronize_session=False)
        )
        running = sum(row.state == ChunkState.RUNNING for row in rows)
        count(session, ref, delta(ChunkState.RUNNING, ChunkState.CANCELLED, running), expected=found)
    _complete_end(session, ref)
    return len(rows)


def lock_open_chunks(session: Session, ref: JobRef) -> None:
    """Lock the open chunks of a job, before the job itself is locked."""
    pin(session, ref)
    open_chunks = select(Chunk.id).where(belongs_to(ref), Chunk.state.in_(_OPEN)).order_by(Chunk.id)
    session.execute(open_chunks.with_for_update(key_share=True))


def fail_open_chunks(session: Session, ref: JobRef, *, error: str) -> None:
    """Fail the open chunks of a running job. The caller holds the locks of both."""
    failed = update(Chunk).where(belongs_to(ref), Chunk.state.in_(_OPEN))
    running = session.scalar(select(func.count()).where(belongs_to(ref), Chunk.state == ChunkState.RUNNING)) or 0
    ids = session.scalars(
        failed.values(state=ChunkState.FAILED, lease_until=None, error=storable(error))
        .returning(Chunk.id)
        .execution_options(synchronize_session=False)
    ).all()
    if ids:
        count(session, ref, Delta(active=-running, failed=len(ids)))


def _complete_end(session: Session, ref: JobRef) -> None:
    """Write what a job lacks that another program has ended."""
    model: Any = ref.table.model
    values: dict[str, Any] = {"completed_at": func.coalesce(model.completed_at, _NOW)}
    lacks = model.completed_at.is_(None)
    if ref.table.has("error_message"):
        lacks |= (model.status != JobStatus.COMPLETED) & model.error_message.is_(None)
        cancelled = func.coalesce(model.error_message, CANCELLED)
        values["error_message"] = case((model.status != JobStatus.COMPLETED, cancelled), else_=model.error_message)
    session.execute(update(model).where(model.id == ref.id, model.status.in_(ENDED), lacks).values(**values))


def reopen(session: Session, ref: JobRef) -> bool:
    """Set a job that ended before it was planned back to pending; return whether it was one."""
    pin(session, ref)
    model = ref.table.model
    values: dict[str, Any] = {"error_message": None} if ref.table.has("error_message") else {}
    reopened = session.scalar(
        update(model)
        .where(model.id == ref.id, model.status.in_([JobStatus.FAILED, JobStatus.CANCELLED]))
        .values(**values, status=JobStatus.PENDING, started_at=None, completed_at=None, updated_at=_NOW)
        .returning(model.id)
    )
    return reopened is not None


def retry(session: Session, ref: JobRef, *, has_more: bool = False) -> None:
    """Set an ended job running again, with its failed and cancelled chunks queued as a new generation.

    Completed chunks and their results stay. The ids of tasks are new, because workers remember revoked ones. With
    `has_more`, a completed job without such chunks runs again as well: there is more to do than they say.

    Raises:
        NotRunningError: when there is nothing to retry: the job has not ended, has open chunks, or is complete.
    """
    pin(session, ref)
    rows = session.execute(
        select(Chunk.id, Chunk.state)
        .where(belongs_to(ref), Chunk.state != ChunkState.COMPLETED)
        .order_by(Chunk.id)
        .with_for_update(key_share=True)
    ).all()
    if any(row.state in _OPEN for row in rows):
        raise NotRunningError(f"{ref} has open chunks")
    model: Any = ref.table.model
    again = and_(model.id == ref.id, model.status.in_(ENDED))
    if not rows and not has_more:
        again = and_(again, model.status != JobStatus.COMPLETED)
    values: dict[str, Any] = {
        "status": JobStatus.RUNNING,
        "completed_at": None,
        "updated_at": _NOW,
        "progress": func.least(model.progress, 99),
    }
    if ref.table.has("error_message"):
        values["error_message"] = None
    if rows:
        latest = session.scalar(select(func.max(Chunk.generation)).where(belongs_to(ref))) or 1
        task_ids = {row.id: _task_id(row.id, latest + 1) for row in rows}
        _requeue(session, task_ids, latest + 1)
        if ref.table.has("failed_chunks"):
            failed = sum(row.state == ChunkState.FAILED for row in rows)
            values["failed_chunks"] = model.failed_chunks - failed
            values["task_ids"] = [str(task_id) for task_id in task_ids.values()]
    if session.scalar(update(model).where(again).values(values).returning(model.id)) is None:
        raise NotRunningError(f"{ref} has nothing to retry")


def requeue_completed(session: Session, ref: JobRef, *, available_at: datetime | None = None) -> None:
    """Queue the completed chunks of a job that was just set running again, because their results are of no use.

    Only for kinds whose rows do not count chunks. The caller holds the job's lock.

    Args:
        session: the transaction of `retry`.
        ref: the job.
        available_at: when its open chunks are due at the earliest; None for now.
    """
    assert not ref.table.has("total_chunks")
    completed = select(Chunk.id).where(belongs_to(ref), Chunk.state == ChunkState.COMPLETED).order_by(Chunk.id)
    ids = session.scalars(completed.with_for_update(key_share=True)).all()
    generation = (session.scalar(select(func.max(Chunk.generation)).where(belongs_to(ref))) or 1) + 1
    _requeue(session, {chunk_id: _task_id(chunk_id, generation) for chunk_id in ids}, generation)
    session.execute(
        update(Chunk)
        .where(belongs_to(ref), Chunk.state == ChunkState.QUEUED)
        .values(available_at=func.greatest(_NOW, available_at))
        .execution_options(synchronize_session=False)
    )


def _requeue(session: Session, task_ids: Mapping[int, uuid.UUID], generation: int) -> None:
    if not task_ids:
        return
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
            # What an attempt of the generation before brings late is no part of this one.
            fence=null(),
            task_id=new.c.task_id,
            available_at=_NOW,
            dispatched_at=None,
            dispatch_count=0,
            # The parts of a chunk that failed or was cancelled are done, and its payload has the rest.
            result=case((Chunk.state == ChunkState.COMPLETED, null()), else_=Chunk.result),
            error=None,
        )
        .execution_options(synchronize_session=False)
    )


def _list_of(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a JSON column; an empty array in place of anything but an array that another program wrote there."""
    return case((func.jsonb_typeof(column) == "array", column), else_=literal([], JSONB))


def _task_id(chunk_id: int, generation: int) -> uuid.UUID:
    return uuid.uuid5(_TASKS, f"pixcrawler chunk {chunk_id} generation {generation}")

"""The transitions of one chunk. Each is a guarded UPDATE and its change of the job's counters, in one transaction.

The fence makes them safe to repeat: a claim takes a number nobody had before, and only who shows that number may end
the claim. What a zombie brings late carries an old number and is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy import Row, Text, cast, func, select, update
from sqlalchemy.orm import Session

from pixcrawler_worker.db import jobs
from pixcrawler_worker.db.jobs import Wake
from pixcrawler_worker.db.models import FENCE, Chunk
from pixcrawler_worker.domain.lifecycle import (
    LONGEST_WISH,
    ChunkState,
    JobKind,
    JobRef,
    JobStatus,
    after_crash,
    allowed_attempts,
    delta,
    retry_delay,
)

#: Error texts are for people; a driver's page-long message is cut.
_LONGEST_ERROR = 2000
#: Rest of a chunk whose provider wishes to be left alone for no time at all.
_SHORTEST_REST = timedelta(seconds=1)

_NOW = func.clock_timestamp()
_KEYS = (Chunk.crawl_job_id, Chunk.validation_job_id, Chunk.export_job_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at a chunk: who holds the fence may end it."""

    chunk_id: int
    job: JobRef
    fence: int
    attempt: int
    max_attempts: int
    payload: dict[str, Any]


class Hold(Enum):
    """What a worker finds when it comes to end its claim."""

    OURS = "the claim stands"
    DONE = "an earlier try of ours committed, only its answer was lost"
    LOST = "the chunk was reaped, cancelled or deleted"


@dataclass(frozen=True, slots=True)
class Reaped:
    """A chunk whose worker fell silent, and whether it was the last open one of its job."""

    chunk_id: int
    job: JobRef
    state: ChunkState
    job_ended: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A chunk that has been completed or given up: what it was to do, and what became of it."""

    payload: dict[str, Any]
    state: ChunkState
    result: dict[str, Any]
    error: str | None


def claim(session: Session, chunk_id: int, *, owner: str, lease: timedelta) -> Claim | None:
    """Take a queued, due chunk for one attempt; None for a duplicate, early or stale message.

    Args:
        session: a transaction of its own.
        chunk_id: from the message.
        owner: unique to this delivery, so that a claim whose COMMIT lost its answer is found again.
        lease: how long the claim stands without a heartbeat.

    Raises:
        jobs.NotRunningError: when the job is not running. Roll back: the chunk stays as it was.
    """
    keys = session.execute(select(*_KEYS).where(Chunk.id == chunk_id)).one_or_none()
    if keys is None:
        return None
    job = jobs.job_of(keys)
    jobs.pin(session, job)
    columns = (Chunk.id, Chunk.fence, Chunk.attempt, Chunk.max_attempts, Chunk.payload)
    row = session.execute(
        update(Chunk)
        .where(
            Chunk.id == chunk_id,
            Chunk.state == ChunkState.QUEUED,
            Chunk.available_at <= _NOW,
            Chunk.attempt < Chunk.max_attempts,
        )
        .values(
            state=ChunkState.RUNNING,
            attempt=Chunk.attempt + 1,
            fence=FENCE.next_value(),
            owner=owner,
            lease_until=_NOW + lease,
        )
        .returning(*columns)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is not None:
        jobs.count(session, job, delta(ChunkState.QUEUED, ChunkState.RUNNING))
    else:
        row = session.execute(
            select(*columns).where(Chunk.id == chunk_id, Chunk.state == ChunkState.RUNNING, Chunk.owner == owner)
        ).one_or_none()
    if row is None:
        return None
    return Claim(row.id, job, row.fence, row.attempt, row.max_attempts, row.payload)


def heartbeat(session: Session, held: Claim, *, lease: timedelta) -> bool:
    """Extend the claim's lease; False when the work should stop: the claim is lost or the job no longer runs."""
    extended = session.scalar(
        update(Chunk)
        .where(Chunk.id == held.chunk_id, Chunk.state == ChunkState.RUNNING, Chunk.fence == held.fence)
        .values(lease_until=_NOW + lease)
        .returning(Chunk.id)
        .execution_options(synchronize_session=False)
    )
    return extended is not None and jobs.status(session, held.job) is JobStatus.RUNNING


def hold(session: Session, held: Claim) -> Hold:
    """Lock the claimed chunk for the transaction that ends it, and tell whether the claim still stands."""
    jobs.pin(session, held.job)
    row = session.execute(
        select(Chunk.state, Chunk.fence).where(Chunk.id == held.chunk_id).with_for_update(key_share=True)
    ).one_or_none()
    if row is None or row.fence != held.fence:
        return Hold.LOST
    if row.state == ChunkState.RUNNING:
        return Hold.OURS
    return Hold.DONE if row.state == ChunkState.COMPLETED else Hold.LOST


def finish(session: Session, held: Claim, *, result: Mapping[str, Any], gains: Mapping[str, int]) -> bool:
    """Complete a chunk that `hold` found to be ours; return whether it was the last open one of its job.

    Raises:
        jobs.NotRunningError, jobs.OvershotError: see `jobs.count`. Roll back.
    """
    _write(session, held.chunk_id, state=ChunkState.COMPLETED, result=dict(result), lease_until=None, error=None)
    return jobs.count(session, held.job, delta(ChunkState.RUNNING, ChunkState.COMPLETED), gains)


def give_back(session: Session, held: Claim, *, error: str, wish: timedelta | None = None) -> bool:
    """Queue a chunk that met passing trouble for a later attempt, or fail it when its attempts are used up.

    Args:
        session: a transaction of its own.
        held: the claim.
        error: what went wrong, for people.
        wish: how long the other side asked to be left alone. That is no failed attempt, and the chunk gets another one.

    Returns:
        Whether the chunk failed and was the last open one of its job.

    Raises:
        jobs.NotRunningError: when the job is not running. Roll back.
    """
    allowed = held.max_attempts if wish is None else allowed_attempts(max_attempts=held.max_attempts)
    delay = retry_delay(attempt=held.attempt, max_attempts=allowed)
    if delay is None:
        return give_up(session, held, error=error)
    if wish is not None and wish > LONGEST_WISH:
        return give_up(session, held, error=f"{error}, which is too long to wait for")
    if hold(session, held) is not Hold.OURS:
        return False
    # Chunks that met the same trouble do not come back in step: up to a quarter later; up to twice as late where
    # somebody had too many of them at once.
    rest = delay * (1 + func.random() / 4) if wish is None else max(wish, _SHORTEST_REST) * (1 + func.random())
    _write(
        session,
        held.chunk_id,
        state=ChunkState.QUEUED,
        max_attempts=allowed,
        available_at=_NOW + rest,
        lease_until=None,
        dispatched_at=None,
        error=_readable(error),
    )
    return jobs.count(session, held.job, delta(ChunkState.RUNNING, ChunkState.QUEUED))


def give_up(session: Session, held: Claim, *, error: str) -> bool:
    """Fail a chunk for good; return whether it was the last open one of its job.

    Raises:
        jobs.NotRunningError: when the job is not running. Roll back.
    """
    if hold(session, held) is not Hold.OURS:
        return False
    _write(session, held.chunk_id, state=ChunkState.FAILED, lease_until=None, error=_readable(error))
    return jobs.count(session, held.job, delta(ChunkState.RUNNING, ChunkState.FAILED))


def reap(session: Session) -> Reaped | None:
    """Take a chunk with an expired lease from its silent worker; None when every worker is heard of.

    Two silent workers on one chunk make it fail as poison, so that it cannot take the whole service down.

    Raises:
        jobs.NotRunningError: when its job was cancelled in this very moment. Roll back.
    """
    row = next(filter(None, (_silent(session, kind) for kind in JobKind)), None)
    if row is None:
        return None
    crashes = row.crash_count + 1
    state = after_crash(crashes=crashes, attempt=row.attempt, max_attempts=row.max_attempts)
    job = jobs.job_of(row)
    _write(
        session,
        row.id,
        state=state,
        crash_count=crashes,
        lease_until=None,
        dispatched_at=None,
        available_at=_NOW,
        error=f"the worker fell silent ({crashes} of this chunk so far)",
    )
    return Reaped(row.id, job, state, jobs.count(session, job, delta(ChunkState.RUNNING, state)))


def holder(session: Session, task_id: str) -> str | None:
    """Return the owner who runs the task's chunk at the moment; None when nobody does, or the task is no chunk's."""
    # Compared as text: tasks that run no chunk may have ids that are no UUIDs.
    return session.scalar(
        select(Chunk.owner).where(cast(Chunk.task_id, Text) == task_id, Chunk.state == ChunkState.RUNNING)
    )


def expire(session: Session, owner: str) -> bool:
    """End the lease of a running chunk whose owner is known to be dead; the next sweep reaps it."""
    expired = session.scalar(
        update(Chunk)
        .where(Chunk.owner == owner, Chunk.state == ChunkState.RUNNING)
        .values(lease_until=_NOW)
        .returning(Chunk.id)
        .execution_options(synchronize_session=False)
    )
    return expired is not None


def wake_next(session: Session, ref: JobRef, *, limit: int) -> list[Wake]:
    """Choose due chunks of the job that nobody was told of, in their order, and note that they are sent now."""
    chosen = (
        select(Chunk.id)
        .where(
            jobs.belongs_to(ref),
            Chunk.state == ChunkState.QUEUED,
            Chunk.dispatched_at.is_(None),
            Chunk.available_at <= _NOW,
        )
        .order_by(Chunk.seq)
        .limit(limit)
        # Skipping instead of waiting is what allows this after the job's row was locked.
        .with_for_update(key_share=True, skip_locked=True)
    )
    return _dispatch(session, list(session.scalars(chosen)))


def wake_lost(session: Session, *, after: timedelta, limit: int) -> list[tuple[JobKind, Wake]]:
    """Choose due chunks whose message must have got lost, and note that they are sent again.

    A message is taken for lost after the given time, twice that after a second one, and so on up to 16 times: a queue
    that is merely long is not flooded.
    """
    patience = after * func.least(16, func.power(2, Chunk.dispatch_count - 1))
    rows = session.execute(
        select(Chunk.id, *_KEYS)
        .where(
            Chunk.state == ChunkState.QUEUED,
            Chunk.available_at <= _NOW,
            Chunk.dispatched_at.is_not(None),
            Chunk.dispatched_at + patience < _NOW,
        )
        .order_by(Chunk.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    kinds = {row.id: jobs.job_of(row).kind for row in rows}
    return [(kinds[wake.chunk_id], wake) for wake in _dispatch(session, list(kinds))]


def short_of_messages(session: Session, *, window: int) -> list[tuple[JobRef, int]]:
    """Return running jobs that have due chunks nobody was told of, with how many may be told of now.

    Args:
        session: any transaction.
        window: chunks of one job that may be running or announced at a time.
    """
    unannounced = (Chunk.state == ChunkState.QUEUED) & Chunk.dispatched_at.is_(None)
    waiting = func.count().filter(unannounced & (Chunk.available_at <= _NOW))
    announced = func.count().filter(~unannounced)
    rows = session.execute(
        select(*_KEYS, announced.label("announced"))
        .where(Chunk.state.in_([ChunkState.QUEUED, ChunkState.RUNNING]))
        .group_by(*_KEYS)
        .having(waiting > 0, announced < window)
    )
    return [(jobs.job_of(row), window - row.announced) for row in rows]


def results(session: Session, ref: JobRef) -> list[dict[str, Any]]:
    """Return what the job's completed chunks reported, in their order."""
    rows = session.scalars(
        select(Chunk.result).where(jobs.belongs_to(ref), Chunk.state == ChunkState.COMPLETED).order_by(Chunk.seq)
    )
    return [row for row in rows if row is not None]


def errors(session: Session, ref: JobRef, *, limit: int = 5) -> dict[str, int]:
    """Return why the job's failed chunks failed, with counts, the most frequent first."""
    failed = (
        select(Chunk.error, func.count())
        .where(jobs.belongs_to(ref), Chunk.state == ChunkState.FAILED, Chunk.error.is_not(None))
        .group_by(Chunk.error)
        .order_by(func.count().desc())
        .limit(limit)
    )
    return {error: count for error, count in session.execute(failed) if error is not None}


def _silent(session: Session, kind: JobKind) -> Row[*tuple[Any, ...]] | None:
    """Lock the first chunk of a running job of that kind whose lease has ended, and its job; None when there is none.

    Jobs that do not run are left to `jobs.drop_chunks`. A job that somebody holds is passed over until the next sweep:
    the chunks of the others must not wait behind it.
    """
    return session.execute(
        select(Chunk.id, Chunk.attempt, Chunk.max_attempts, Chunk.crash_count, *_KEYS)
        .select_from(jobs.rooted(kind))
        .join(Chunk, jobs.COLUMNS[kind] == jobs.MODELS[kind].id)
        .where(
            Chunk.state == ChunkState.RUNNING,
            Chunk.lease_until < _NOW,
            jobs.MODELS[kind].status == JobStatus.RUNNING,
        )
        .order_by(Chunk.id)
        .limit(1)
        # Everything that is locked later on is locked here, so that nobody is waited for with something in hand.
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()


def _dispatch(session: Session, ids: list[int]) -> list[Wake]:
    if not ids:
        return []
    rows = session.execute(
        update(Chunk)
        .where(Chunk.id.in_(ids))
        .values(dispatched_at=_NOW, dispatch_count=Chunk.dispatch_count + 1)
        .returning(Chunk.id, Chunk.task_id)
        .execution_options(synchronize_session=False)
    )
    return sorted((Wake(row.id, str(row.task_id)) for row in rows), key=lambda wake: wake.chunk_id)


def _readable(error: str) -> str:
    """Return an error's text without what PostgreSQL cannot store: it may quote what a stranger sent."""
    return error[:_LONGEST_ERROR].replace("\x00", "").encode("utf-8", "replace").decode()


def _write(session: Session, chunk_id: int, **values: object) -> None:
    session.execute(
        update(Chunk).where(Chunk.id == chunk_id).values(**values).execution_options(synchronize_session=False)
    )


def ended(session: Session, job: JobRef) -> list[Ended]:
    """Return the chunks of a job that were completed or given up, in their order."""
    rows = session.execute(
        select(Chunk.payload, Chunk.state, Chunk.result, Chunk.error)
        .where(jobs.belongs_to(job), Chunk.state.in_([ChunkState.COMPLETED, ChunkState.FAILED]))
        .order_by(Chunk.seq)
    )
    return [Ended(row.payload, ChunkState(row.state), row.result or {}, row.error) for row in rows]

"""Leases that have expired, and those that are ended because their owner is known to be dead."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, Select, Text, cast, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from pixcrawler_worker.db.ledger import chunks, jobs, looks
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus, after_crash, delta

_MAX_SMALLINT = 2**15 - 1

_NOW = func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class Reaped:
    """A chunk whose lease expired, and the state that it has now."""

    chunk_id: int
    job: JobRef
    state: ChunkState


def expired(session: Session, table: JobTable, *, skip: Collection[int] = (), limit: int) -> list[int]:
    """Return chunks of running jobs of a kind whose lease expired, without those in `skip`."""
    return looks.ids(session, _expired_ones, table, limit, skip=skip)


def _expired_ones(table: JobTable, limit: int) -> Select[int]:
    query = (
        select(Chunk.id)
        .join(table.model, table.chunk_key == table.model.id)
        .where(Chunk.state == ChunkState.RUNNING, Chunk.lease_until < _NOW, table.model.status == JobStatus.RUNNING)
    )
    return query.where(looks.not_skipped(Chunk.id)).order_by(Chunk.id).limit(limit)


def reap(session: Session, table: JobTable, chunk_id: int | None = None) -> Reaped | None:
    """Queue a chunk of a kind of job whose lease expired, or the first of all; None when there is none.

    A chunk whose lease expires twice fails, so that one that kills its workers cannot stop the whole service.

    Raises:
        NotRunningError: when its job was cancelled at this moment. Roll back.
    """
    row = _expired(session, table, chunk_id)
    if row is None:
        return None
    # Whatever was written there by hand: the number must fit into its column.
    crashes = min(max(row.crash_count, 0), _MAX_SMALLINT - 1) + 1
    state = after_crash(crashes=crashes, attempt=row.attempt, max_attempts=row.max_attempts)
    job = table.ref(row.job_id)
    chunks.write(
        session,
        row.id,
        state=state,
        crash_count=crashes,
        lease_until=None,
        dispatched_at=None,
        available_at=_NOW,
        error=f"the lease expired ({crashes} of this chunk so far)",
    )
    jobs.count(session, job, delta(ChunkState.RUNNING, state))
    return Reaped(row.id, job, state)


def spare(session: Session, table: JobTable, chunk_id: int, grace: timedelta) -> None:
    """Extend a lease that has expired by `grace` from now on, for an owner that may not have reached the database."""
    row = _expired(session, table, chunk_id)
    if row is not None:
        chunks.write(session, row.id, lease_until=_NOW + grace)


def owners_of(session: Session, task_id: str) -> list[str]:
    """Return the owners of the running chunks that a task may have claimed: its own chunk, or one of another job."""
    named = aliased(Chunk)
    own = Chunk.id == named.id
    # Compared as text: tasks that run no chunk may have ids that are not UUIDs.
    named_by_owner = Chunk.owner.contains(func.concat(":", named.id, "."))
    query = (
        select(Chunk.owner)
        .join(named, or_(own, named_by_owner))
        .where(cast(named.task_id, Text) == task_id, Chunk.state == ChunkState.RUNNING)
    )
    return [owner for owner in session.scalars(query) if owner is not None]


def expire_lease(session: Session, owner: str) -> bool:
    """End the lease of a running chunk whose owner is known to be dead; the next sweep reaps it."""
    expired = session.scalar(
        update(Chunk)
        .where(Chunk.owner == owner, Chunk.state == ChunkState.RUNNING)
        .values(lease_until=_NOW)
        .returning(Chunk.id)
        .execution_options(synchronize_session=False)
    )
    return expired is not None


def _expired(session: Session, table: JobTable, chunk_id: int | None) -> Row[*tuple[Any, ...]] | None:
    """Lock the first chunk of a running job of the kind whose lease has expired, and its job; None when there is none.

    Jobs that do not run are left to `jobs.drop_chunks`. A job that is locked is skipped until the next sweep: the
    chunks of the others must not wait for it.
    """
    return session.execute(
        select(Chunk.id, Chunk.attempt, Chunk.max_attempts, Chunk.crash_count, table.chunk_key.label("job_id"))
        .select_from(table.owners)
        .join(Chunk, table.chunk_key == table.model.id)
        .where(Chunk.state == ChunkState.RUNNING, Chunk.lease_until < _NOW, table.model.status == JobStatus.RUNNING)
        .where(*([] if chunk_id is None else [Chunk.id == chunk_id]))
        .order_by(Chunk.id)
        .limit(1)
        # Everything that is locked later on is locked here, so that nothing is waited for while locks are held.
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()

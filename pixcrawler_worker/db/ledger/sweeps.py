"""What a sweep looks for: jobs that were not started, concluded or cleaned up, and counters that drifted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, true, tuple_, update
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.models import Chunk
from pixcrawler_worker.domain.lifecycle import ENDED, ChunkState, JobStatus

_NOW = func.clock_timestamp()
_OPEN = Chunk.state.in_([ChunkState.QUEUED, ChunkState.RUNNING])
#: Rows that one step looks at in one sweep.
_BATCH = 200
#: First half of the keys of the advisory locks: the ASCII codes of "pixc".
_LOCKS = int.from_bytes(b"pixc")


class Step(IntEnum):
    """Steps of the sweep that only one worker does at a time."""

    DISPATCH = 1
    REDISPATCH = 2


@dataclass(frozen=True, slots=True)
class Repair:
    """Counters as they were found, and as the ledger has them."""

    before: dict[str, int]
    after: dict[str, int]


def try_lock(session: Session, step: Step) -> bool:
    """Return whether no other worker is at that step; none will be until the transaction ends."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(_LOCKS, int(step)))))


def ended_with_open_chunks(session: Session, table: JobTable) -> list[JobRef]:
    """Return jobs whose status says that they ended, but which have open chunks or no end time.

    For example because an API wrote only the status.
    """
    model = table.model
    ended = select(model.id).where(model.status.in_(ENDED))
    still_open = ended.join(Chunk, table.chunk_key == model.id).where(_OPEN)
    query = still_open.union(ended.where(model.completed_at.is_(None))).limit(_BATCH)
    return [table.ref(job_id) for job_id in session.scalars(query)]


def pending(
    session: Session, table: JobTable, *, patience: timedelta, unrecorded_after: timedelta | None
) -> list[JobRef]:
    """Return pending jobs of a kind that were requested longer ago than `patience`, so that their message is lost.

    Args:
        session: any transaction.
        table: of the kind.
        patience: time that the message gets to arrive.
        unrecorded_after: age of pending rows that nothing was recorded for; None to leave them out. Only their message
            has their options, so that it gets more time.
    """
    model = table.model
    requested = exists().where(table.plan_key == model.id, table.requested_at + patience < _NOW)
    due: ColumnElement[bool] = requested
    if unrecorded_after is not None:
        unrecorded = ~exists().where(table.plan_key == model.id)
        due = or_(requested, unrecorded & (model.created_at + unrecorded_after < _NOW))
    query = select(model.id).where(model.status == JobStatus.PENDING, due)
    return [table.ref(job_id) for job_id in session.scalars(query.order_by(model.id).limit(_BATCH))]


def unconcluded(session: Session, table: JobTable) -> list[JobRef]:
    """Return running jobs of a kind whose chunks have all ended."""
    model = table.model
    query = (
        select(model.id)
        .where(model.status == JobStatus.RUNNING, ~exists().where(table.chunk_key == model.id, _OPEN))
        .order_by(model.id)
        .limit(_BATCH)
    )
    return [table.ref(job_id) for job_id in session.scalars(query)]


def drifted(session: Session, table: JobTable) -> list[JobRef]:
    """Return running jobs whose chunk counters differ from the ledger, all seen in one snapshot.

    Kinds whose rows have no such counters never drift.
    """
    if not table.has("active_chunks"):
        return []
    model: Any = table.model
    ledger = (
        select(
            func.count().label("total"),
            *(func.count().filter(Chunk.state == state).label(state.value) for state in _COUNTED),
        )
        .where(table.chunk_key == model.id)
        .lateral("ledger")
    )
    row = tuple_(model.total_chunks, model.active_chunks, model.completed_chunks, model.failed_chunks)
    counted = tuple_(ledger.c.total, *(ledger.c[state.value] for state in _COUNTED))
    query = (
        select(model.id)
        .select_from(model)
        .join(ledger, onclause=true())
        .where(model.status == JobStatus.RUNNING, row.is_distinct_from(counted))
        .order_by(model.id)
        .limit(_BATCH)
    )
    return [table.ref(job_id) for job_id in session.scalars(query)]


_COUNTED = (ChunkState.RUNNING, ChunkState.COMPLETED, ChunkState.FAILED)


def repair(session: Session, ref: JobRef, recounted: Mapping[str, int]) -> Repair | None:
    """Set a job's counters to what the ledger says; None when they were right.

    The caller holds the job's lock: every transition counts in the transaction that makes it, so nothing that has
    changed the ledger is still to be counted.

    Args:
        session: the transaction that holds the lock.
        ref: the job.
        recounted: other counters of the row as they should be, by column.
    """
    counters = jobs.counters(session, ref)
    after: dict[str, int] = dict(recounted)
    if ref.table.has("active_chunks"):
        after = {
            "total_chunks": counters.total,
            "active_chunks": counters.active,
            "completed_chunks": counters.completed,
            "failed_chunks": counters.failed,
        } | after
    if not after:
        return None
    model = ref.table.model
    row = session.execute(select(*(getattr(model, name) for name in after)).where(model.id == ref.id)).one_or_none()
    if row is None:
        return None
    before = dict(zip(after, row, strict=True))
    if before == after:
        return None
    session.execute(update(model).where(model.id == ref.id).values(**after, updated_at=_NOW))
    return Repair(before, after)


def is_past_grace_period(session: Session, ref: JobRef, *, grace_period: timedelta) -> bool:
    """Return whether a job ended at least `grace_period` ago."""
    model = ref.table.model
    ended = model.status.in_(ENDED) & (model.completed_at + grace_period <= _NOW)
    return session.scalar(select(model.id).where(model.id == ref.id, ended)) is not None

"""What a sweep looks for: jobs that were not started, concluded or cleaned up, and numbers that cannot be right.

A time is compared with a time that is computed from the clock, never the other way round: a column may have any value
that its type has, and the sum of an interval and the year 294276 is an error.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    SQLColumnExpression,
    and_,
    case,
    exists,
    func,
    or_,
    select,
    text,
    true,
    tuple_,
    union,
    update,
)
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger import jobs, looks
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.private_models import IMPOSSIBLE_NUMBERS, Chunk
from pixcrawler_worker.domain.lifecycle import ENDED, ChunkState, JobStatus, delta
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS_WITH_DEFERRALS

_NOW = func.clock_timestamp()
_OPEN = Chunk.state.in_([ChunkState.QUEUED, ChunkState.RUNNING])
#: Rows that one query of a step returns at most.
BATCH = 200
#: Longer than any lease, pause or clock error: a time that is further ahead was not written by a transition.
_LONG = timedelta(days=1)
_QUEUED, _RUNNING = Chunk.state == ChunkState.QUEUED, Chunk.state == ChunkState.RUNNING
#: Numbers that no transition writes. An index has only such rows, which are none: the text is its predicate.
_IMPOSSIBLE_NUMBERS = text(IMPOSSIBLE_NUMBERS)
#: Likewise times, by state. Each is a range of an index.
_IMPOSSIBLE_TIMES = (
    _RUNNING & (Chunk.lease_until > _NOW + _LONG),
    _QUEUED & (Chunk.available_at > _NOW + _LONG),
    _QUEUED & (Chunk.dispatched_at > _NOW + _LONG),
)
_IMPOSSIBLE = or_(_IMPOSSIBLE_NUMBERS, *_IMPOSSIBLE_TIMES)
#: Chunks of a job that every sweep counts. A job with more is recounted in as many sweeps as that takes on average.
_MAX_COUNTED = 10_000
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


def ended_with_open_chunks(session: Session, table: JobTable, *, skip: Collection[int] = ()) -> list[JobRef]:
    """Return jobs whose status says that they ended, but which have open chunks or no end time.

    For example because an API wrote only the status.
    """
    return _found(session, table, _ended_with_open_chunks, skip=skip)


def _ended_with_open_chunks(table: JobTable) -> Select[int]:
    model = table.model
    left = or_(_has_open(table), model.completed_at.is_(None))
    return _unlocked(table, select(model.id).where(model.status.in_(ENDED), left))


def pending(  # noqa: PLR0913 - an age for each way in which a job may have been requested
    session: Session,
    table: JobTable,
    *,
    patience: timedelta,
    unrecorded_after: timedelta | None,
    complete_after: timedelta | None = None,
    skip: Collection[int] = (),
) -> list[JobRef]:
    """Return pending jobs of a kind that were requested longer ago than `patience`, so that their message is lost.

    Args:
        session: any transaction.
        table: of the kind.
        patience: time that the message gets to arrive.
        unrecorded_after: age of pending rows that nothing was recorded for, which come after the others; None to leave
            them out. Only their message has their options, so that it gets more time.
        complete_after: age of those among them that have their options with them (`JobTable.carries_options`).
        skip: ids of jobs to leave out.
    """
    found = _found(session, table, _requested, patience, skip=skip)
    if unrecorded_after is not None and len(found) < BATCH:
        found += _found(session, table, _unrecorded, unrecorded_after, complete_after, skip=skip)
    return found


def _requested(table: JobTable, patience: timedelta) -> Select[int]:
    model = table.model
    requested = exists().where(table.plan_key == model.id, _is_older(table.requested_at, patience))
    return _unlocked(table, select(model.id).where(model.status == JobStatus.PENDING, requested))


def _unrecorded(table: JobTable, after: timedelta, complete_after: timedelta | None) -> Select[int]:
    model = table.model
    late = _is_older(model.created_at, after)
    if complete_after is not None and table.carries_options is not None:
        late = or_(late, and_(table.carries_options, _is_older(model.created_at, complete_after)))
    unrecorded = ~exists().where(table.plan_key == model.id)
    return _unlocked(table, select(model.id).where(model.status == JobStatus.PENDING, unrecorded, late))


def _is_older(time: SQLColumnExpression[datetime], age: timedelta) -> ColumnElement[bool]:
    """Return the condition that a time is long enough ago; one far ahead was written by hand, or with another clock."""
    return or_(time < _NOW - age, time > _NOW + _LONG)


def unconcluded(session: Session, table: JobTable, *, skip: Collection[int] = ()) -> list[JobRef]:
    """Return running jobs of a kind whose chunks have all ended."""
    return _found(session, table, _unconcluded, skip=skip)


def _unconcluded(table: JobTable) -> Select[int]:
    model = table.model
    return _unlocked(table, select(model.id).where(model.status == JobStatus.RUNNING, ~_has_open(table)))


def _has_open(table: JobTable) -> ColumnElement[bool]:
    """Return the condition that a job has open chunks, of which each state has a partial index of its own."""
    of_job = table.chunk_key == table.model.id
    return or_(exists().where(of_job, _QUEUED), exists().where(of_job, _RUNNING))


def drifted(session: Session, table: JobTable, *, skip: Collection[int] = ()) -> list[JobRef]:
    """Return running jobs whose chunk counters differ from the ledger, all seen in one snapshot.

    Of a job with more than `_MAX_COUNTED` chunks only the open ones are counted, up to that number, and all of them at
    random: what a sweep costs does not grow with the size of its jobs. Jobs that are returned may be right then. Kinds
    whose rows have no such counters never drift.
    """
    if not table.has("active_chunks"):
        return []
    found = _found(session, table, _drifted_small, skip=skip)
    return found if len(found) == BATCH else found + _found(session, table, _drifted_large, skip=skip)


def _is_large(table: JobTable) -> ColumnElement[bool]:
    model: Any = table.model
    large: ColumnElement[bool] = model.total_chunks > _MAX_COUNTED
    return large


def _drifted_small(table: JobTable) -> Select[int]:
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
        .where(model.status == JobStatus.RUNNING, ~_is_large(table), row.is_distinct_from(counted))
    )
    return _unlocked(table, query)


def _drifted_large(table: JobTable) -> Select[int]:
    model: Any = table.model
    running, queued = (_count_few(table, state) for state in (_RUNNING, _QUEUED))
    ended = model.completed_chunks + model.failed_chunks
    differs = or_(
        and_(running <= _MAX_COUNTED, model.active_chunks != running),
        and_(queued <= _MAX_COUNTED, running <= _MAX_COUNTED, model.total_chunks - ended != queued + running),
        func.random() * model.total_chunks < _MAX_COUNTED,
    )
    return _unlocked(table, select(model.id).where(model.status == JobStatus.RUNNING, _is_large(table), differs))


def _count_few(table: JobTable, condition: ColumnElement[bool]) -> ScalarSelect[int]:
    """Return the number of chunks of a job with a condition, as far as `_MAX_COUNTED` and one more."""
    few = select(Chunk.id).where(table.chunk_key == table.model.id, condition).limit(_MAX_COUNTED + 1)
    return select(func.count()).select_from(few.correlate(table.model).lateral()).scalar_subquery()


def _found(
    session: Session,
    table: JobTable,
    query: Callable[..., Select[int]],
    *arguments: Hashable,
    skip: Collection[int],
) -> list[JobRef]:
    return [table.ref(job_id) for job_id in looks.ids(session, query, table, *arguments, skip=skip)]


def _unlocked(table: JobTable, query: Select[int]) -> Select[int]:
    """Return a query for the first of the jobs, without those whose rows are locked: the others must not wait."""
    model = table.model
    query = query.where(looks.not_skipped(model.id)).order_by(model.id).limit(BATCH)
    return query.with_for_update(of=model, key_share=True, skip_locked=True)


def impossible(session: Session, table: JobTable, *, skip: Collection[int] = ()) -> list[int]:
    """Return open chunks of running jobs with times and numbers that no transition writes: they would wait for ever."""
    return looks.ids(session, _impossible, table, skip=skip)


def _impossible(table: JobTable) -> Select[int]:
    # One query for each index that has such chunks.
    parts = [
        select(Chunk.id)
        .join(table.model, table.chunk_key == table.model.id)
        .where(table.model.status == JobStatus.RUNNING, condition)
        for condition in (_IMPOSSIBLE_NUMBERS, *_IMPOSSIBLE_TIMES)
    ]
    found = union(*parts).subquery()
    return select(found.c.id).where(looks.not_skipped(found.c.id)).order_by(found.c.id).limit(BATCH)


def correct(session: Session, table: JobTable, chunk_id: int) -> bool:
    """Set such times and numbers of a chunk to what a transition could have written; return whether there were any.

    A chunk without an attempt left fails.

    Raises:
        NotRunningError: when its job does not run any more. Roll back.
    """
    job_id = session.scalar(select(table.chunk_key).where(Chunk.id == chunk_id))
    if job_id is None:
        return False
    ref = table.ref(job_id)
    jobs.pin(session, ref)
    row = session.execute(
        select(Chunk.state, Chunk.attempt, Chunk.max_attempts)
        .where(Chunk.id == chunk_id, _OPEN, _IMPOSSIBLE)
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()
    if row is None:
        return False
    values: dict[str, Any] = {
        "attempt": func.greatest(Chunk.attempt, 0),
        "max_attempts": func.least(Chunk.max_attempts, MAX_ATTEMPTS_WITH_DEFERRALS),
        "available_at": func.least(Chunk.available_at, _NOW),
        "dispatched_at": case((Chunk.dispatched_at > _NOW + _LONG, None), else_=Chunk.dispatched_at),
        "lease_until": case((Chunk.lease_until > _NOW + _LONG, _NOW), else_=Chunk.lease_until),
    }
    exhausted = row.state == ChunkState.QUEUED and max(row.attempt, 0) >= min(
        row.max_attempts, MAX_ATTEMPTS_WITH_DEFERRALS
    )
    if exhausted:
        error = f"no attempt is left: attempt is {row.attempt}, max_attempts is {row.max_attempts}"
        values |= {"state": ChunkState.FAILED, "error": error}
    session.execute(
        update(Chunk).where(Chunk.id == chunk_id).values(values).execution_options(synchronize_session=False)
    )
    if exhausted:
        jobs.count(session, ref, delta(ChunkState.QUEUED, ChunkState.FAILED))
    return True


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
    ended = model.status.in_(ENDED) & (model.completed_at <= _NOW - grace_period)
    return session.scalar(select(model.id).where(model.id == ref.id, ended)) is not None

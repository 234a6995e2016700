"""The transitions of one chunk. Each is a guarded UPDATE and its change of the job's counters, in one transaction.

The fence makes them safe to repeat: a claim takes a number that no claim had before, and only the claim with that
number may end the attempt. What a worker that lost its claim brings late carries an old number and is rejected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from typing import Any

from psycopg.errors import DivisionByZero
from psycopg.types.json import Jsonb
from sqlalchemy import ColumnElement, and_, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger import jobs, statements
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable, NotCountedError, NotRunningError
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import execute_and_commit, execute_prepared
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.lifecycle import ChunkOutcome, ChunkState, JobStatus, delta
from pixcrawler_worker.domain.postgres_types import storable
from pixcrawler_worker.domain.retry import (
    GiveUp,
    after_outage,
    after_part,
    after_transient_error,
    counted_attempt,
)

#: Characters of an error that are kept.
_MAX_ERROR_LENGTH = 2000

_NOW = func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at a chunk: only the claim with the fence may end it.

    `so_far` is the result of the parts that earlier attempts have done, empty without any; see `put_back`. `uncounted`
    is what the transaction of the claim will add to columns of the job's row before it ends; see `claim_next`.
    """

    chunk_id: int
    job: JobRef
    fence: int
    attempt: int
    max_attempts: int
    payload: dict[str, Any]
    so_far: dict[str, Any] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)

    @property
    def counted_attempt(self) -> int:
        """Number of the attempt, from 1, without those that ended with a deferral."""
        return counted_attempt(attempt=self.attempt, max_attempts=self.max_attempts)


class ClaimState(Enum):
    """What has become of a claim when its attempt comes to an end."""

    VALID = "the claim is valid"
    FINISHED = "an earlier try of this attempt committed, and its answer was lost"
    LOST = "the chunk was reaped, cancelled or deleted"


def claimable() -> ColumnElement[bool]:
    """Return the condition that a chunk is queued and due, and has attempts left."""
    return and_(Chunk.state == ChunkState.QUEUED, Chunk.available_at <= _NOW, Chunk.attempt < Chunk.max_attempts)


def claim(session: Session, table: JobTable, chunk_id: int, *, owner: str, lease: timedelta) -> Claim | None:
    """Take a queued, due chunk for one attempt; None for a duplicate, early or stale message.

    Args:
        session: a transaction of its own.
        table: of the kind of job that the message is about; a chunk of another kind is left alone.
        chunk_id: from the message.
        owner: unique to this delivery, so that a claim whose COMMIT lost its answer is found again.
        lease: how long the claim is valid without a heartbeat.

    Raises:
        NotRunningError: when the job is not running. Roll back: the chunk stays as it was.
    """
    values = {"chunk": chunk_id, "owner": owner, "lease": lease}
    if row := execute_prepared(session, statements.claim(table), values).fetchone():
        *columns, job_id = row
        return _claim(table.ref(job_id), columns)
    found = session.execute(
        select(
            table.chunk_key.label("job_id"),
            claimable().label("claimable"),
            ((Chunk.state == ChunkState.RUNNING) & (Chunk.owner == owner)).label("mine"),
            *(Chunk.id, Chunk.fence, Chunk.attempt, Chunk.max_attempts, Chunk.payload, Chunk.result),
        ).where(Chunk.id == chunk_id, table.chunk_key.is_not(None))
    ).one_or_none()
    if found is None:
        return None
    job_id, is_claimable, is_mine, *columns = found
    if is_claimable:
        raise NotRunningError(str(table.ref(job_id)))
    return _claim(table.ref(job_id), columns) if is_mine else None


def _claim(ref: JobRef, columns: Sequence[Any]) -> Claim:
    chunk_id, fence, attempt, max_attempts, payload, so_far = columns
    return Claim(
        chunk_id,
        ref,
        fence,
        attempt,
        max_attempts,
        stored_json.as_object(payload),
        so_far=stored_json.as_object(so_far),
    )


def heartbeat(session: Session, claim: Claim, *, lease: timedelta) -> bool:
    """Extend the claim's lease; False when the work should stop: the claim is lost or the job no longer runs."""
    extended = session.scalar(
        update(Chunk)
        .where(Chunk.id == claim.chunk_id, Chunk.state == ChunkState.RUNNING, Chunk.fence == claim.fence)
        .values(lease_until=_NOW + lease)
        .returning(Chunk.id)
        .execution_options(synchronize_session=False)
    )
    return extended is not None and jobs.status(session, claim.job) is JobStatus.RUNNING


def show_progress(session: Session, claim: Claim, *, images: int) -> None:
    """Show how many images a running chunk has; they count when it has ended. It never waits for a lock.

    No index has the column, so that the update is cheap.
    """
    claimed = (
        select(Chunk.id)
        .where(Chunk.id == claim.chunk_id, Chunk.fence == claim.fence, Chunk.state == ChunkState.RUNNING)
        .with_for_update(key_share=True, skip_locked=True)
    )
    session.execute(
        update(Chunk)
        .where(Chunk.id.in_(claimed))
        .values(live_images=images, live_fence=claim.fence)
        .execution_options(synchronize_session=False)
    )


def lock_claim(session: Session, claim: Claim) -> ClaimState:
    """Lock the claimed chunk for the transaction that ends the attempt, and return whether the claim is valid."""
    values = {"job": claim.job.id, "chunk": claim.chunk_id}
    row = execute_prepared(session, statements.lock_chunk(claim.job.table), values).fetchone()
    if row is None:
        return ClaimState.LOST
    state, fence, error = row
    if fence != claim.fence:
        return ClaimState.LOST
    if state == ChunkState.RUNNING:
        return ClaimState.VALID
    # What was released or reaped has an error; what was put back has none.
    was_put_back = state == ChunkState.QUEUED and error is None
    return ClaimState.FINISHED if was_put_back or state == ChunkState.COMPLETED else ClaimState.LOST


def claim_next(  # noqa: PLR0913 - what one claim depends on
    session: Session,
    job: JobRef,
    *,
    served: Sequence[JobTable],
    owner: str,
    lease: timedelta,
    gains: Mapping[str, int],
) -> Claim | None:
    """Take the first due chunk of a job that no message was sent for, when another one is about to end.

    None is taken while other jobs run. Chunks that another transaction has locked are skipped, so that locks of this
    one may be held. It is counted in the job by `finish`.

    Args:
        session: a transaction that ends with `finish`.
        job: the job of both.
        served: the kinds whose jobs are the other ones.
        owner: unique to this claim.
        lease: how long the claim is valid without a heartbeat.
        gains: of the chunk that is about to end.
    """
    values = {"job": job.id, "owner": owner, "lease": lease}
    row = execute_prepared(session, statements.claim_undispatched(job.table, tuple(served)), values).fetchone()
    return None if row is None else replace(_claim(job, row), uncounted=gains)


def finish(session: Session, claim: Claim, *, result: Mapping[str, Any], gains: Mapping[str, int]) -> ChunkOutcome:
    """Complete a chunk whose claim `lock_claim` found valid.

    Args:
        session: a transaction of its own.
        claim: of the attempt.
        result: of the chunk.
        gains: see `jobs.count`.

    Raises:
        NotRunningError, LimitExceededError: see `jobs.count`. Roll back.
    """
    return _finish(session, claim, result, gains, with_next=False)


def finish_with_next(
    session: Session, claim: Claim, *, result: Mapping[str, Any], gains: Mapping[str, int], commits: bool
) -> None:
    """Complete a chunk as `finish` does when `claim_next` took another one, which is counted as well: the job goes on.

    The row of the job, for which other processes wait, is locked last. With `commits`, the transaction is committed in
    the same request where that is possible.

    Raises:
        NotCountedError: with `commits`, in place of the others, which say what is wrong. Roll back.
        NotRunningError, LimitExceededError: see `jobs.count`. Roll back.
    """
    job, limited = claim.job, jobs.limited(claim.job, gains)
    if not commits or not job.table.has("active_chunks"):
        _finish(session, claim, result, gains, with_next=True)
        return
    statement = statements.finish(job.table, tuple(gains), limited, or_error=True)
    try:
        execute_and_commit(session, statement, _values(claim, result, gains, with_next=True))
    except DBAPIError as error:
        if isinstance(error.orig, DivisionByZero):
            raise NotCountedError(str(job)) from error
        raise


def _finish(
    session: Session, claim: Claim, result: Mapping[str, Any], gains: Mapping[str, int], *, with_next: bool
) -> ChunkOutcome:
    job, limited = claim.job, jobs.limited(claim.job, gains)
    values = _values(claim, result, gains, with_next=with_next)
    if not job.table.has("active_chunks"):
        _assert_completed(claim, execute_prepared(session, statements.COMPLETE, values).fetchone())
        return jobs.count(session, job, delta(ChunkState.RUNNING, ChunkState.COMPLETED), gains)
    row = execute_prepared(session, statements.finish(job.table, tuple(gains), limited), values).fetchone()
    assert row is not None
    completed, open_chunks = row
    _assert_completed(claim, completed)
    return jobs.outcome(session, job, open_chunks, limited)


def _values(claim: Claim, result: Mapping[str, Any], gains: Mapping[str, int], *, with_next: bool) -> dict[str, object]:
    """Return the values of the statement `finish`."""
    chunk = {"chunk": claim.chunk_id, "fence": claim.fence, "result": Jsonb(dict(result))}
    return {**chunk, "job": claim.job.id, "active": 0 if with_next else -1, **jobs.gain_values(gains)}


def _assert_completed(claim: Claim, completed: object) -> None:
    if not completed:
        raise NotRunningError(f"chunk {claim.chunk_id} is not running with fence {claim.fence}")


def put_back(  # noqa: PLR0913 - what `finish` needs, and what is left to do
    session: Session,
    claim: Claim,
    *,
    result: Mapping[str, Any],
    gains: Mapping[str, int],
    payload: Mapping[str, Any],
    delay: timedelta,
    progressed: bool,
) -> ChunkOutcome:
    """Queue a chunk whose claim `lock_claim` found valid for the rest of its work; what it has brought so far is kept.

    Args:
        session: a transaction of its own.
        claim: of the attempt.
        result: of all parts so far.
        gains: of this part; see `jobs.count`.
        payload: of the chunk from now on: what is left to do.
        delay: time until the chunk is due.
        progressed: whether the attempt has brought the chunk further: then attempts and crashes count from 0.

    Raises:
        NotRunningError, LimitExceededError: see `jobs.count`. Roll back.
    """
    attempt, max_attempts = after_part(attempt=claim.attempt, max_attempts=claim.max_attempts, progressed=progressed)
    write(
        session,
        claim.chunk_id,
        state=ChunkState.QUEUED,
        payload=dict(payload),
        result=dict(result),
        attempt=attempt,
        max_attempts=max_attempts,
        crash_count=0 if progressed else Chunk.crash_count,
        available_at=_NOW + delay,
        lease_until=None,
        dispatched_at=None,
        dispatch_count=0,
        error=None,
    )
    return jobs.count(session, claim.job, delta(ChunkState.RUNNING, ChunkState.QUEUED), gains)


def release(  # noqa: PLR0913 - what went wrong, and what decides about the delay
    session: Session,
    claim: Claim,
    *,
    error: str,
    retry_after: timedelta | None = None,
    outage: bool = False,
    jitter: float,
) -> ChunkOutcome:
    """Queue a chunk that met a transient error for a later attempt, or fail it when its attempts are used up.

    Args:
        session: a transaction of its own.
        claim: of the attempt.
        error: what went wrong.
        retry_after: the other side's Retry-After, None when it sent none; see `domain/retry.py`.
        outage: the database or the storage was unavailable, which costs no attempt.
        jitter: random, from 0 up to 1.

    Raises:
        NotRunningError: when the job is not running. Roll back.
    """
    attempt, max_attempts = claim.attempt, claim.max_attempts
    if outage:
        decision = after_outage(attempt=attempt, max_attempts=max_attempts, jitter=jitter)
    else:
        decision = after_transient_error(
            attempt=attempt, max_attempts=max_attempts, retry_after=retry_after, jitter=jitter
        )
    if isinstance(decision, GiveUp):
        return fail(session, claim, error=f"{error}: {decision.reason}" if decision.reason else error)
    if lock_claim(session, claim) is not ClaimState.VALID:
        return ChunkOutcome.LOST
    write(
        session,
        claim.chunk_id,
        state=ChunkState.QUEUED,
        max_attempts=decision.max_attempts,
        available_at=_NOW + decision.delay,
        lease_until=None,
        dispatched_at=None,
        error=_storable(error),
    )
    return jobs.count(session, claim.job, delta(ChunkState.RUNNING, ChunkState.QUEUED))


def fail(session: Session, claim: Claim, *, error: str) -> ChunkOutcome:
    """Fail a chunk for good.

    Raises:
        NotRunningError: when the job is not running. Roll back.
    """
    if lock_claim(session, claim) is not ClaimState.VALID:
        return ChunkOutcome.LOST
    write(session, claim.chunk_id, state=ChunkState.FAILED, lease_until=None, error=_storable(error))
    return jobs.count(session, claim.job, delta(ChunkState.RUNNING, ChunkState.FAILED))


def undo_claim(session: Session, claim: Claim) -> ChunkOutcome:
    """Queue a chunk again as if it had not been claimed, because its worker was stopped on purpose.

    Raises:
        NotRunningError: when the job is not running. Roll back.
    """
    if lock_claim(session, claim) is not ClaimState.VALID:
        return ChunkOutcome.LOST
    write(
        session,
        claim.chunk_id,
        state=ChunkState.QUEUED,
        attempt=max(claim.attempt - 1, 0),
        available_at=_NOW,
        lease_until=None,
        dispatched_at=None,
        error="its worker was stopped",
    )
    return jobs.count(session, claim.job, delta(ChunkState.RUNNING, ChunkState.QUEUED))


def claims(session: Session, table: JobTable) -> list[tuple[str, Claim]]:
    """Return the claims of all running chunks of a kind of job, each with its owner."""
    rows = session.execute(
        select(
            table.chunk_key.label("job_id"),
            *(Chunk.id, Chunk.fence, Chunk.attempt, Chunk.max_attempts, Chunk.payload, Chunk.owner),
        ).where(table.chunk_key.is_not(None), Chunk.state == ChunkState.RUNNING)
    )
    return [
        (
            row.owner,
            Claim(
                row.id,
                table.ref(row.job_id),
                row.fence,
                row.attempt,
                row.max_attempts,
                stored_json.as_object(row.payload),
            ),
        )
        for row in rows
        if row.owner is not None and row.fence is not None
    ]


def count_attempt(session: Session, table: JobTable, chunk_id: int, *, error: str, jitter: float) -> None:
    """Count an attempt at a queued chunk that could not be claimed because of an unexpected error.

    Without that, the message would be sent again for ever. It uses nothing that a claim needs besides: neither a fence
    token nor what the work is made from.

    Args:
        session: a transaction of its own.
        table: of the kind of job that the message is about.
        chunk_id: from the message.
        error: what went wrong.
        jitter: random, from 0 up to 1.

    Raises:
        NotRunningError: when the job is not running. Roll back.
    """
    job_id = session.scalar(select(table.chunk_key).where(Chunk.id == chunk_id))
    if job_id is None:
        return
    job = table.ref(job_id)
    jobs.pin(session, job)
    row = session.execute(
        select(Chunk.attempt, Chunk.max_attempts)
        .where(Chunk.id == chunk_id, Chunk.state == ChunkState.QUEUED, Chunk.available_at <= _NOW)
        .with_for_update(key_share=True)
    ).one_or_none()
    if row is None:
        return
    attempt = min(row.attempt + 1, row.max_attempts)
    decision = after_transient_error(attempt=attempt, max_attempts=row.max_attempts, retry_after=None, jitter=jitter)
    values = {"attempt": attempt, "error": _storable(error)}
    if isinstance(decision, GiveUp):
        write(session, chunk_id, **values, state=ChunkState.FAILED)
        jobs.count(session, job, delta(ChunkState.QUEUED, ChunkState.FAILED))
    else:
        write(session, chunk_id, **values, available_at=_NOW + decision.delay, dispatched_at=None)


def discard(session: Session, ref: JobRef, payload: Mapping[str, Any]) -> None:
    """Delete the chunks of a job with this payload, so that they are planned again.

    Only for kinds whose rows do not count chunks. The caller holds the job's lock and has queued what comes before.
    """
    assert not ref.table.has("total_chunks")
    session.execute(
        delete(Chunk)
        .where(jobs.belongs_to(ref), Chunk.payload == literal(dict(payload), JSONB))
        .execution_options(synchronize_session=False)
    )


def _storable(error: str) -> str:
    """Return the text of an error as it is kept: it may be long, and quote an untrusted host."""
    return storable(error[:_MAX_ERROR_LENGTH])


def write(session: Session, chunk_id: int, **values: object) -> None:
    """Write columns of a chunk that the transaction has locked."""
    session.execute(
        update(Chunk).where(Chunk.id == chunk_id).values(**values).execution_options(synchronize_session=False)
    )

"""One attempt at a chunk, of whatever kind its job is: claim, work with heartbeats and a deadline, finish.

Two short transactions with the work between them: the claim before, the result after. Between them nothing is locked,
and a heartbeat on a connection of its own extends the lease.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from pixcrawler_worker.db.ledger import chunks, fairness, jobs
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.tables import ChunkMessage, LimitExceededError, NotRunningError
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import ChunkOutcome
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.jobs.kind import AnyJobKind, JobKind, Result, Work
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.runtime import Runtime, owner

log = structlog.get_logger()
T = TypeVar("T")

#: Share of the claims in which the job that ends soonest may be ahead of the others. The rest keeps the others going.
_FAVORED = 0.75


@dataclass(frozen=True, slots=True)
class Turns:
    """How a message may serve another job than the one that it was sent for; see `db/ledger/fairness.py`.

    Attributes:
        kinds: whose chunks the process may run.
        postpone: sends the message again, to the end of its queue. It is called before the work begins.
    """

    kinds: Sequence[AnyJobKind]
    postpone: Callable[[ChunkMessage], None]


class _ClaimLostError(Exception):
    """The claim is no longer valid: the work stops and its result is dropped."""


def run(  # noqa: PLR0913 - what production passes, and the seams of tests
    runtime: Runtime,
    kind: AnyJobKind,
    chunk_id: int,
    *,
    turns: Turns | None = None,
    limits: JobLimits = LIMITS,
    jitter: Callable[[], float] = random.random,
) -> list[ChunkMessage]:
    """Run a chunk if it is queued and due, or one of a job whose turn it is; return the messages to send next.

    A duplicate, early or stale message changes nothing, nor does one about a chunk of another kind. A transient error
    releases the chunk, a permanent one fails it. Anything else is a bug and is raised; the attempt was counted, and the
    sweep takes the chunk back.

    Args:
        runtime: connects to everything.
        kind: of the chunk's job.
        chunk_id: from the message.
        turns: how other jobs get their turns; None to run the chunk of the message and no other.
        limits: how long the work may take.
        jitter: returns a random number from 0 up to 1.
    """
    claimed = _claim(runtime, kind, chunk_id, turns, jitter)
    if claimed is None:
        return []
    kind, claim, work = claimed
    job = claim.job
    with structlog.contextvars.bound_contextvars(job=job.id, chunk=claim.chunk_id, attempt=claim.attempt):
        match _attempt(runtime, kind, claim, work, limits, jitter):
            case ChunkOutcome.LOST:
                log.info("result dropped: the claim is lost, or the job does not run")
                return []
            case ChunkOutcome.JOB_FINISHED:
                return submission.conclude(runtime, kind, job.id)
            case ChunkOutcome.CONTINUES:
                return transact(runtime.sessions, lambda session: chunks.dispatch_next(session, job, limit=1))


def _claim(
    runtime: Runtime, kind: AnyJobKind, chunk_id: int, turns: Turns | None, jitter: Callable[[], float]
) -> tuple[AnyJobKind, Claim, Any] | None:
    """Claim a chunk, and return it with its kind and with what its work needs; None when there is nothing to do."""
    kinds = {one.table: one for one in (kind, *(turns.kinds if turns else ()))}
    tables = [one.table for one in turns.kinds] if turns else []
    claimant = owner(chunk_id)
    favor_short = jitter() < _FAVORED

    def work(session: Session) -> tuple[fairness.Taken, Any]:
        taken = fairness.claim(
            session,
            kind.table,
            chunk_id,
            tables=tables,
            owner=claimant,
            lease=runtime.settings.lease,
            favor_short=favor_short,
        )
        claim = taken.claim
        if claim is None:
            return taken, None
        try:
            return taken, kinds[claim.job.table].prepare(runtime, session, claim)
        except PermanentError as error:
            # Another version planned it; the sweep concludes the job. Raised, this would be tried for ever.
            chunks.fail(session, claim, error=str(error))
            return replace(taken, claim=None), None

    try:
        taken, prepared = transact(runtime.sessions, work)
    except NotRunningError as error:
        if turns:
            # It may be the other job that was cancelled just now.
            return _claim(runtime, kind, chunk_id, None, jitter)
        log.info("message dropped", chunk=chunk_id, reason=str(error))
        return None
    except Exception as error:
        if turns is None or isinstance(error, TransientError):
            raise
        # Whatever is wrong with the job whose turn it is, it must not stop the others.
        log.exception("the turns were not kept", chunk=chunk_id)
        return _claim(runtime, kind, chunk_id, None, jitter)
    if turns and taken.postponed:
        turns.postpone(taken.postponed)
    return (kinds[taken.claim.job.table], taken.claim, prepared) if taken.claim else None


def _attempt(  # noqa: PLR0913, PLR0917 - everything that one attempt depends on
    runtime: Runtime,
    kind: JobKind[Work, Result],
    claim: Claim,
    work: Work,
    limits: JobLimits,
    jitter: Callable[[], float],
) -> ChunkOutcome:
    """Do the work and end the attempt one way or the other."""
    try:
        result = runtime.run(_supervise(runtime, claim, kind.work(runtime, work, limits), limits))
        return _finish(runtime, kind, claim, work, result, limits)
    except (_ClaimLostError, NotRunningError):
        return ChunkOutcome.LOST
    except (TransientError, PermanentError) as error:
        log.warning("chunk failed" if isinstance(error, PermanentError) else "chunk released", reason=str(error))
        return _close(runtime, claim, error, limits, jitter())


async def _supervise(runtime: Runtime, claim: Claim, work: Coroutine[Any, Any, T], limits: JobLimits) -> T:
    """Run the work while the claim is valid; stop it when the claim is lost or at the deadline.

    Raises:
        _ClaimLostError: when the claim was lost.
        TransientError: when the chunk took too long.
    """
    deadline = limits.chunk_deadline.total_seconds()
    task = asyncio.ensure_future(work)
    heartbeat = asyncio.ensure_future(_heartbeat(runtime, claim, limits))
    try:
        await asyncio.wait({task, heartbeat}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if heartbeat.done():
            heartbeat.result()
            raise _ClaimLostError
        raise TransientError(f"the chunk took longer than {deadline:.0f} s")
    finally:
        for running in (task, heartbeat):
            running.cancel()
        await asyncio.gather(task, heartbeat, return_exceptions=True)


async def _heartbeat(runtime: Runtime, claim: Claim, limits: JobLimits) -> None:
    """Extend the lease until the claim is lost. A database that is away for a moment does not end the work."""
    lease = runtime.settings.lease
    while True:
        await asyncio.sleep(limits.heartbeat_interval(lease).total_seconds())
        with contextlib.suppress(TransientError):
            if not await asyncio.to_thread(
                transact, runtime.sessions, lambda session: chunks.heartbeat(session, claim, lease=lease)
            ):
                return


def _finish(  # noqa: PLR0913, PLR0917 - everything that one attempt depends on
    runtime: Runtime, kind: JobKind[Work, Result], claim: Claim, work: Work, result: Result, limits: JobLimits
) -> ChunkOutcome:
    """Write the result and the chunk's end in one transaction.

    Raises:
        NotRunningError: when the result comes too late and is dropped.
    """

    def finish(session: Session) -> ChunkOutcome:
        match chunks.lock_claim(session, claim):
            case ClaimState.LOST:
                return ChunkOutcome.LOST
            case ClaimState.FINISHED:
                open_chunks = jobs.counters(session, claim.job).open
                return ChunkOutcome.CONTINUES if open_chunks else ChunkOutcome.JOB_FINISHED
            case ClaimState.VALID:
                report = kind.write(session, work, result)
                return chunks.finish(session, claim, result=report.result, gains=report.gains)

    while True:
        # Only a limit that is lowered at this very moment makes a second turn necessary.
        with contextlib.suppress(LimitExceededError):
            return transact(runtime.sessions, finish, pauses=limits.finish_retries)


def _close(
    runtime: Runtime, claim: Claim, error: TransientError | PermanentError, limits: JobLimits, jitter: float
) -> ChunkOutcome:
    """Release the chunk, or fail it."""

    def close(session: Session) -> ChunkOutcome:
        if isinstance(error, TransientError):
            return chunks.release(session, claim, error=str(error), retry_after=error.retry_after, jitter=jitter)
        return chunks.fail(session, claim, error=str(error))

    try:
        return transact(runtime.sessions, close, pauses=limits.finish_retries)
    except NotRunningError:
        return ChunkOutcome.LOST

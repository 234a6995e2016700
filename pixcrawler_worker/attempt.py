"""One attempt at a chunk, of whatever kind its job is: claimed, kept while it works, ended one way or the other.

Two short transactions with the work between them: the claim before, the result after. Between them nothing is locked,
and a heartbeat on a connection of its own tells the sweep that somebody is at it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from pixcrawler_worker.db import chunks, jobs
from pixcrawler_worker.db.chunks import Claim, Hold
from pixcrawler_worker.db.jobs import NotRunningError, OvershotError, Wake
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import JobKind
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.runtime import Runtime, owner

log = structlog.get_logger()
T = TypeVar("T")
Task = TypeVar("Task")
Result = TypeVar("Result")

#: A chunk that takes longer is given back: well below the task's own time limit, which would kill the process.
_DEADLINE = 600.0
#: Seconds between tries to write a result down: work that is done is worth waiting for a database that restarts. With
#: a dead one the lease ends, and the chunk is taken for crashed, which happens to it only twice.
_PATIENCE = (0.05, 0.2, 0.5, 1.0, 2.0, *[5.0] * 8)


class _LostError(Exception):
    """The claim does not stand any more: whatever was done is dropped."""


@dataclass(frozen=True, slots=True)
class Steps(Generic[Task, Result]):
    """What a kind of job does with its chunks.

    Attributes:
        kind: jobs that these steps are for.
        prepare: reads what the work needs, in the transaction of the claim. PermanentError gives the chunk up.
        work: does it; no transaction is open. TransientError gives the chunk back, PermanentError gives it up.
        write: writes the result and ends the chunk with `chunks.finish`, in a transaction in which the claim stands;
            returns whether it was the last open chunk of its job. May be called again with the same result.
        conclude: what follows when the last open chunk of a job has ended, by the job's id; returns what to wake.
    """

    kind: JobKind
    prepare: Callable[[Session, Claim], Task]
    work: Callable[[Task], Coroutine[Any, Any, Result]]
    write: Callable[[Session, Task, Result], bool]
    conclude: Callable[[int], list[Wake]]


def run(runtime: Runtime, chunk_id: int, steps: Steps[Task, Result]) -> list[Wake]:
    """Run a chunk if it is queued and due, and return which chunks to send messages about next.

    A duplicate, early or stale message changes nothing, nor does one about a chunk of another kind. Trouble that may
    pass gives the chunk back, trouble that will not fails it. Anything else is a bug and is raised; the attempt was
    counted, and the sweep takes the chunk back.
    """
    claimed = _claim(runtime, chunk_id, steps)
    if claimed is None:
        return []
    claim, task = claimed
    job = claim.job
    with structlog.contextvars.bound_contextvars(job=job.id, chunk=chunk_id, attempt=claim.attempt):
        try:
            ended = _attempt(runtime, claim, task, steps)
        except (_LostError, NotRunningError):
            log.info("result dropped: the chunk is not ours any more, or its job does not run")
            return []
        if ended:
            return steps.conclude(job.id)
        return transact(runtime.sessions, lambda session: chunks.wake_next(session, job, limit=1))


def _claim(runtime: Runtime, chunk_id: int, steps: Steps[Task, Result]) -> tuple[Claim, Task] | None:
    me = owner()

    def work(session: Session) -> tuple[Claim, Task] | None:
        claim = chunks.claim(session, chunk_id, owner=me, lease=runtime.settings.lease)
        if claim is None:
            return None
        if claim.job.kind is not steps.kind:
            # Rolled back: the chunk waits for a message that means it.
            raise NotRunningError(f"chunk {chunk_id} belongs to {claim.job}")
        try:
            return claim, steps.prepare(session, claim)
        except PermanentError as error:
            # Another version planned it; the sweep concludes the job. Raised, this would be tried for ever.
            chunks.give_up(session, claim, error=str(error))
            return None

    try:
        return transact(runtime.sessions, work)
    except NotRunningError as error:
        log.info("message dropped", chunk=chunk_id, reason=str(error))
        return None


def _attempt(runtime: Runtime, claim: Claim, task: Task, steps: Steps[Task, Result]) -> bool:
    """Do the work and end the chunk one way or the other; return whether it was the last open one of its job."""
    try:
        result = runtime.run(_guarded(runtime, claim, steps.work(task)))
        return _finish(runtime, claim, lambda session: steps.write(session, task, result))
    except TransientError as error:
        log.warning("chunk given back", reason=str(error))
        return _close(runtime, claim, error)
    except PermanentError as error:
        log.warning("chunk failed", reason=str(error))
        return _close(runtime, claim, error)


async def _guarded(runtime: Runtime, claim: Claim, work: Coroutine[Any, Any, T]) -> T:
    """Run the work while the claim stands; stop it when the claim is lost or the deadline has come.

    Raises:
        _LostError: when the claim was lost meanwhile.
        TransientError: when the chunk took too long.
    """
    task = asyncio.ensure_future(work)
    heart = asyncio.ensure_future(_beat(runtime, claim))
    try:
        await asyncio.wait({task, heart}, timeout=_DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if heart.done():
            heart.result()
            raise _LostError
        raise TransientError(f"the chunk took longer than {_DEADLINE:.0f} s")
    finally:
        for running in (task, heart):
            running.cancel()
        await asyncio.gather(task, heart, return_exceptions=True)


async def _beat(runtime: Runtime, claim: Claim) -> None:
    """Extend the lease until it is lost. A database that is away for a moment does not end the work."""
    lease = runtime.settings.lease
    while True:
        await asyncio.sleep(lease.total_seconds() / 4)
        with contextlib.suppress(TransientError):
            if not await asyncio.to_thread(
                transact, runtime.sessions, lambda session: chunks.heartbeat(session, claim, lease=lease)
            ):
                return


def _finish(runtime: Runtime, claim: Claim, write: Callable[[Session], bool]) -> bool:
    """Write the result and the chunk's end in one transaction; return whether the job's last one ended.

    Raises:
        _LostError, NotRunningError: when the result comes too late and is dropped.
    """

    def finish(session: Session) -> bool:
        match chunks.hold(session, claim):
            case Hold.LOST:
                raise _LostError
            case Hold.DONE:
                return not jobs.counters(session, claim.job).open
        return write(session)

    while True:
        # Only somebody who lowers `max_images` in this very moment makes a second turn necessary.
        with contextlib.suppress(OvershotError):
            return transact(runtime.sessions, finish, pauses=_PATIENCE)


def _close(runtime: Runtime, claim: Claim, error: TransientError | PermanentError) -> bool:
    """Give the chunk back or up; return whether the job's last one ended."""

    def close(session: Session) -> bool:
        if isinstance(error, TransientError):
            return chunks.give_back(session, claim, error=str(error), wish=error.retry_after)
        return chunks.give_up(session, claim, error=str(error))

    try:
        return transact(runtime.sessions, close, pauses=_PATIENCE)
    except NotRunningError:
        return False

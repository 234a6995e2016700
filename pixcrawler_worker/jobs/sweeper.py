"""The sweep: what keeps jobs of all kinds moving when messages, workers and answers get lost.

Every worker sweeps; an advisory lock lets one at a time send messages. All that a step decides is decided by rows, so a
sweep that is killed half-way leaves nothing half done, and the next one continues.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.ledger import chunks, jobs, sweeps
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, NotRunningError
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.errors import TransientError, UnknownJobError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.runtime import Runtime, local_pid

log = structlog.get_logger()


@dataclass(slots=True)
class Swept:
    """What one sweep did, and the messages to send."""

    messages: list[ChunkMessage] = field(default_factory=list)
    reaped: int = 0
    dropped: int = 0
    started: int = 0
    redispatched: int = 0
    concluded: int = 0
    repaired: int = 0

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.messages or self.reaped or self.dropped or self.started or self.concluded or self.repaired)


def sweep(runtime: Runtime, kinds: Iterable[AnyJobKind], *, limits: JobLimits = LIMITS) -> Swept:
    """Do one sweep and return what it did. Talks to the database only, so it is safe in a process that forks."""
    swept = Swept()
    served = list(kinds)
    # First, since counters that were written over would go below zero with the next chunk that is counted off.
    for kind in served:
        _repair(runtime, kind, swept)
    for kind in served:
        _reap(runtime, kind, swept, limits)
        _drop_chunks_of_ended(runtime, kind, swept)
        _start(runtime, kind, swept)
    _dispatch(runtime, served, swept)
    _redispatch(runtime, served, swept, limits)
    for kind in served:
        _conclude(runtime, kind, swept)
    if not swept.idle:
        log.info(
            "swept",
            reaped=swept.reaped,
            dropped=swept.dropped,
            started=swept.started,
            redispatched=swept.redispatched,
            concluded=swept.concluded,
            repaired=swept.repaired,
            messages=len(swept.messages),
        )
    return swept


def expire_lease(runtime: Runtime, task_id: str, *, ended: Callable[[int], bool]) -> bool:
    """End the lease of the chunk that a task was running when it ended badly; return whether it held one.

    Args:
        runtime: connects to the database.
        task_id: the task. Another process may be at another attempt of it by now, which is left alone.
        ended: whether the process of this machine that runs the chunk has ended, or has ended the task.
    """

    def work(session: Session) -> bool:
        owner = chunks.owner_of(session, task_id)
        pid = None if owner is None else local_pid(owner)
        return owner is not None and pid is not None and ended(pid) and chunks.expire_lease(session, owner)

    return transact(runtime.sessions, work)


def _reap(runtime: Runtime, kind: AnyJobKind, swept: Swept, limits: JobLimits) -> None:
    for _ in range(limits.max_reaped):
        try:
            reaped = transact(runtime.sessions, functools.partial(chunks.reap, table=kind.table))
        except NotRunningError:
            continue
        except TransientError as error:
            log.warning("expired leases are left to the next sweep", reason=str(error))
            return
        if reaped is None:
            return
        swept.reaped += 1
        log.warning("chunk reaped: its lease expired", chunk=reaped.chunk_id, job=reaped.job.id)
        if reaped.state is ChunkState.FAILED:
            log.error("chunk failed: its lease expired twice", chunk=reaped.chunk_id, job=reaped.job.id)


def _drop_chunks_of_ended(runtime: Runtime, kind: AnyJobKind, swept: Swept) -> None:
    for ref in transact(runtime.sessions, functools.partial(sweeps.ended_with_open_chunks, table=kind.table)):
        with _left_to_next_sweep(ref):
            # What wrote the status past the worker may have written the counters as well.
            _repair_job(runtime, kind, ref, swept)
            swept.dropped += submission.drop_chunks(runtime, ref)


def _start(runtime: Runtime, kind: AnyJobKind, swept: Swept) -> None:
    def work(session: Session) -> list[JobRef]:
        lease = runtime.settings.lease
        return sweeps.pending(
            session,
            kind.table,
            patience=lease / 4,
            unrecorded_after=lease if runtime.settings.start_pending else None,
        )

    for ref in transact(runtime.sessions, work):
        # A job that is unknown was deleted at this moment.
        with _left_to_next_sweep(ref), contextlib.suppress(UnknownJobError):
            swept.messages += submission.start(runtime, kind, ref.id)
            swept.started += 1


def _dispatch(runtime: Runtime, kinds: list[AnyJobKind], swept: Swept) -> None:
    window = runtime.settings.dispatch_window

    def work(session: Session) -> list[ChunkMessage]:
        if not sweeps.try_lock(session, sweeps.Step.DISPATCH):
            return []
        return [
            message
            for kind in kinds
            for ref, room in chunks.short_of_messages(session, kind.table, window=window)
            for message in chunks.dispatch_next(session, ref, limit=room)
        ]

    swept.messages += transact(runtime.sessions, work)


def _redispatch(runtime: Runtime, kinds: list[AnyJobKind], swept: Swept, limits: JobLimits) -> None:
    def work(session: Session) -> list[ChunkMessage]:
        if not sweeps.try_lock(session, sweeps.Step.REDISPATCH):
            return []
        found: list[ChunkMessage] = []
        for kind in kinds:
            room = limits.max_redispatched - len(found)
            found += chunks.redispatch_lost(session, kind.table, after=runtime.settings.lease, limit=room)
        return found

    messages = transact(runtime.sessions, work)
    swept.redispatched += len(messages)
    swept.messages += messages


def _conclude(runtime: Runtime, kind: AnyJobKind, swept: Swept) -> None:
    for ref in transact(runtime.sessions, functools.partial(sweeps.unconcluded, table=kind.table)):
        with _left_to_next_sweep(ref):
            swept.messages += submission.conclude(runtime, kind, ref.id)
            swept.concluded += 1


def _repair(runtime: Runtime, kind: AnyJobKind, swept: Swept) -> None:
    def work(session: Session) -> list[JobRef]:
        drifted = sweeps.drifted(session, kind.table)
        return [
            *drifted,
            *(kind.table.ref(job_id) for job_id in kind.marked(session) if kind.table.ref(job_id) not in drifted),
        ]

    for ref in transact(runtime.sessions, work):
        with _left_to_next_sweep(ref):
            _repair_job(runtime, kind, ref, swept)


@contextlib.contextmanager
def _left_to_next_sweep(ref: JobRef) -> Iterator[None]:
    """Leave a job to the next sweep when its row is locked: the other jobs do not wait for it."""
    try:
        yield
    except TransientError as error:
        log.warning("job left to the next sweep", job=ref.id, kind=ref.table.name, reason=str(error))


def _repair_job(runtime: Runtime, kind: AnyJobKind, ref: JobRef, swept: Swept) -> None:
    def work(session: Session) -> sweeps.Repair | None:
        jobs.lock(session, ref)
        repair = sweeps.repair(session, ref, kind.recount(session, ref))
        if repair:
            activity_log.record(session, ref, "repaired", {"was": repair.before, "is": repair.after})
        return repair

    if repair := transact(runtime.sessions, work):
        swept.repaired += 1
        log.error(
            "counters differed from the ledger and were repaired", job=ref.id, was=repair.before, now=repair.after
        )

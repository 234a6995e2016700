"""The sweep: what keeps jobs of all kinds moving when messages, workers and answers get lost.

Every worker sweeps; an advisory lock lets one at a time send messages. All that a step decides is decided by rows, so a
sweep that is killed half-way leaves nothing half done, and the next one continues.

Nothing that one row holds stops a step, and no step stops another: each row has a transaction of its own, and whatever
it raises is logged, counted and put off (`setbacks.py`). What goes on failing while a job is planned or concluded ends
that job, with the error as its reason.
"""

import functools
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

import structlog

from pixcrawler_worker import metrics
from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.ledger import broker, dispatch, jobs, leases, sweeps
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, NotRunningError
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.errors import TransientError, UnknownJobError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.jobs.heartbeat import HEARTBEAT_RETRY
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.jobs.setbacks import Setbacks
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()
T = TypeVar("T")

#: Characters of an error that a job's reason quotes.
_MAX_REASON = 300
#: Rows of one sweep whose error is logged with its traceback; that of the others is logged in one line.
_MAX_TRACEBACKS = 5


@dataclass(slots=True)
class Swept:
    """What one sweep did, and the messages to send.

    Attributes:
        failed: rows and queries that raised an error.
        unfinished: whether a step had more rows than time: the next sweep need not wait.
    """

    messages: list[ChunkMessage] = field(default_factory=list)
    reaped: int = 0
    dropped: int = 0
    started: int = 0
    redispatched: int = 0
    concluded: int = 0
    repaired: int = 0
    failed: int = 0
    unfinished: bool = False

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.messages or self.reaped or self.dropped or self.started or self.concluded or self.repaired)


class _Step(StrEnum):
    """The steps, as logs and metrics name them."""

    REPAIR = "repair"
    CORRECT = "correct"
    REAP = "reap"
    DROP = "drop"
    DISPATCH = "dispatch"
    REDISPATCH = "redispatch"
    CONCLUDE = "conclude"
    START = "start"


STEPS = tuple(step.value for step in _Step)
#: Leases that the message of a row without options gets: its options would come too late.
_GRACE_LEASES = 5
#: Steps that bring a job further, by its id: not one that the settings hold.
_ADVANCING = frozenset({_Step.START, _Step.CONCLUDE})
#: Parts of a lease that are one grace, and the least: twice what a heartbeat that failed waits until it is tried again.
_GRACES_PER_LEASE, _LEAST_GRACE = 6, timedelta(seconds=2 * HEARTBEAT_RETRY)
#: What is said of a job that a step gives up.
_HOPELESS = {_Step.START: "the job could not be planned", _Step.CONCLUDE: "the job could not be concluded"}


def sweep(
    runtime: Runtime, kinds: Iterable[AnyJobKind], *, limits: JobLimits = LIMITS, setbacks: Setbacks | None = None
) -> Swept:
    """Do one sweep and return what it did. Talks to the database only, so it is safe in a process that forks.

    Args:
        runtime: connects to the database.
        kinds: of jobs.
        limits: how much one sweep does.
        setbacks: what earlier sweeps of this process failed at.
    """
    served = list(kinds)
    one = _Sweep(runtime, limits, Setbacks() if setbacks is None else setbacks)
    one.setbacks.begin()
    # First, since counters that were written over would go below zero with the next chunk that is counted off.
    for kind in served:
        one.repair(kind)
        one.correct(kind)
    for kind in served:
        one.reap(kind)
        one.drop_chunks_of_ended(kind)
    for kind in served:
        one.dispatch(kind)
    for kind in served:
        one.redispatch(kind)
    for kind in served:
        one.conclude(kind)
    # Last, since any number of rows may wait to be planned.
    for kind in served:
        one.start(kind)
    swept = one.swept
    metrics.SWEEPS.add()
    metrics.LAST_SWEEP.set_to_current_time()
    if not swept.idle or swept.failed:
        log.info(
            "swept",
            reaped=swept.reaped,
            dropped=swept.dropped,
            started=swept.started,
            redispatched=swept.redispatched,
            concluded=swept.concluded,
            repaired=swept.repaired,
            failed=swept.failed,
            messages=len(swept.messages),
        )
    return swept


def unsent(runtime: Runtime, messages: Iterable[ChunkMessage]) -> None:
    """Note that messages were not sent, so that the next sweep sends them without waiting for them to count as lost.

    Raises:
        TransientError: when the database does not answer. They count as lost later then.
    """
    chunk_ids = [message.chunk_id for message in messages]
    transact(runtime.sessions, lambda session: broker.unsent(session, chunk_ids))


def note_broker(runtime: Runtime, identity: str) -> None:
    """Have all messages sent again that were sent to a broker with another identity: it has lost its data."""
    gap = runtime.settings.lease / 4
    if transact(runtime.sessions, lambda session: broker.note_identity(session, identity, gap=gap)):
        log.warning("the broker has lost its messages, they are sent again")


def suspect_broker(runtime: Runtime, *, seconds: float) -> bool:
    """Have all messages sent again that a broken connection may have lost; return whether that is settled.

    Args:
        runtime: connects to the database.
        seconds: how long ago the connection came back.
    """
    age, gap = timedelta(seconds=seconds), runtime.settings.lease
    return transact(runtime.sessions, lambda session: broker.suspect_loss(session, age=age, gap=gap))


@dataclass(slots=True)
class _Sweep:
    """The steps of one sweep."""

    runtime: Runtime
    limits: JobLimits
    setbacks: Setbacks
    swept: Swept = field(default_factory=Swept)

    def repair(self, kind: AnyJobKind) -> None:
        """Set counters that differ from the ledger."""

        def find(session: Session, skip: Collection[int]) -> list[int]:
            drifted = _ids(sweeps.drifted(session, kind.table, skip=skip))
            return [*drifted, *kind.marked(session, {*drifted, *skip})]

        self._each(_Step.REPAIR, kind, find, functools.partial(self._repair_job, kind))

    def correct(self, kind: AnyJobKind) -> None:
        """Correct times and numbers of chunks with which they would wait for ever."""

        def find(session: Session, skip: Collection[int]) -> list[int]:
            return sweeps.impossible(session, kind.table, skip=skip)

        def act(chunk_id: int) -> None:
            if transact(self.runtime.sessions, lambda session: sweeps.correct(session, kind.table, chunk_id)):
                self.swept.repaired += 1
                log.error("impossible numbers of a chunk were corrected", chunk=chunk_id, kind=kind.table.name)

        self._each(_Step.CORRECT, kind, find, act)

    def reap(self, kind: AnyJobKind) -> None:
        """Take back the chunks of workers that fell silent."""

        def find(session: Session, skip: Collection[int]) -> list[int]:
            left = min(sweeps.BATCH, self.limits.max_reaped - self.swept.reaped)
            return leases.expired(session, kind.table, skip=skip, limit=left) if left > 0 else []

        def act(chunk_id: int) -> None:
            # Without pauses: what the database refuses now, it may have refused the owner as well.
            transaction = functools.partial(transact, self.runtime.sessions, pauses=())
            if self.setbacks.spares(chunk_id):
                transaction(lambda session: leases.spare(session, kind.table, chunk_id, self._grace))
                self.setbacks.spared(chunk_id)
                return
            reaped = transaction(lambda session: leases.reap(session, kind.table, chunk_id))
            if reaped is None:
                return
            self.swept.reaped += 1
            metrics.CHUNKS_REAPED.add(kind.table.name)
            log.warning(
                "chunk reaped: its lease expired", chunk=reaped.chunk_id, kind=kind.table.name, job=reaped.job.id
            )
            if reaped.state is ChunkState.FAILED:
                log.error(
                    "chunk failed: its lease expired twice",
                    chunk=reaped.chunk_id,
                    kind=kind.table.name,
                    job=reaped.job.id,
                )

        self._each(_Step.REAP, kind, find, act)

    @property
    def _grace(self) -> timedelta:
        """How long owners have to extend their leases after an outage of the database."""
        return max(self.runtime.settings.lease / _GRACES_PER_LEASE, _LEAST_GRACE)

    def drop_chunks_of_ended(self, kind: AnyJobKind) -> None:
        """Cancel the open chunks of jobs that were ended past the worker."""

        def find(session: Session, skip: Collection[int]) -> list[int]:
            return _ids(sweeps.ended_with_open_chunks(session, kind.table, skip=skip))

        def act(job_id: int) -> None:
            # What wrote the status past the worker may have written the counters as well.
            self._repair_job(kind, job_id)
            self.swept.dropped += submission.drop_chunks(self.runtime, kind.table.ref(job_id))

        self._each(_Step.DROP, kind, find, act)

    def dispatch(self, kind: AnyJobKind) -> None:
        """Send messages for jobs that have fewer under way than they may."""
        window = self.runtime.settings.dispatch_window

        def work(session: Session) -> None:
            # As a rule there is none, and nothing to keep others from.
            if not dispatch.short_of_messages(session, kind.table, window=window):
                return
            if not sweeps.try_lock(session, sweeps.Step.DISPATCH):
                return
            waiting = self.setbacks.waiting(_Step.DISPATCH, kind.table.name) | self._held(kind)
            for ref, room in dispatch.short_of_messages(session, kind.table, window=window):
                if ref.id not in waiting:
                    self._row(_Step.DISPATCH, kind, ref.id, functools.partial(self._dispatch_job, ref, room))

        self._query(_Step.DISPATCH, kind, work)

    def _dispatch_job(self, ref: JobRef, room: int) -> None:
        # In a transaction of its own, while the one that found the job has the lock.
        self.swept.messages += transact(
            self.runtime.sessions, lambda session: dispatch.next_due(session, ref, limit=room)
        )

    def redispatch(self, kind: AnyJobKind) -> None:
        """Send lost messages again."""
        sessions, after = self.runtime.sessions, self.runtime.settings.lease
        room = self.limits.max_redispatched - self.swept.redispatched
        skip = self.setbacks.waiting(_Step.REDISPATCH, kind.table.name)

        def send(ids: Collection[int]) -> None:
            messages = transact(
                sessions,
                lambda session: dispatch.resend_lost(session, kind.table, after=after, limit=room, among=ids),
            )
            self.swept.redispatched += len(messages)
            self.swept.messages += messages

        def work(session: Session) -> None:
            if room <= 0 or not dispatch.lost(session, kind.table, after=after, limit=1, skip=skip):
                return
            if not sweeps.try_lock(session, sweeps.Step.REDISPATCH):
                return
            ids = dispatch.lost(session, kind.table, after=after, limit=room, skip=skip)
            if not ids:
                return
            try:
                send(ids)
            except Exception:  # noqa: BLE001 - one of the chunks; below it meets its error alone, and is named
                for chunk_id in ids:
                    self._row(_Step.REDISPATCH, kind, chunk_id, functools.partial(send, [chunk_id]))

        self._query(_Step.REDISPATCH, kind, work)

    def conclude(self, kind: AnyJobKind) -> None:
        """Conclude jobs whose chunks have all ended."""

        def find(session: Session, skip: Collection[int]) -> list[int]:
            return _ids(sweeps.unconcluded(session, kind.table, skip=skip))

        def act(job_id: int) -> None:
            self.swept.messages += submission.conclude(self.runtime, kind, job_id)
            self.swept.concluded += 1

        self._each(_Step.CONCLUDE, kind, find, act)

    def start(self, kind: AnyJobKind) -> None:
        """Start pending jobs whose message must be lost."""
        lease = self.runtime.settings.lease
        grace = lease if kind.table.carries_options is None else _GRACE_LEASES * lease
        unrecorded_after = grace if self.runtime.settings.start_pending else None

        def find(session: Session, skip: Collection[int]) -> list[int]:
            found = sweeps.pending(
                session,
                kind.table,
                patience=lease / 4,
                unrecorded_after=unrecorded_after,
                complete_after=lease,
                skip=skip,
            )
            return _ids(found)

        def act(job_id: int) -> None:
            self.swept.messages += submission.start(self.runtime, kind, job_id)
            self.swept.started += 1

        self._each(_Step.START, kind, find, act)

    def _repair_job(self, kind: AnyJobKind, job_id: int) -> None:
        ref = kind.table.ref(job_id)

        def work(session: Session) -> sweeps.Repair | None:
            jobs.lock(session, ref)
            repair = sweeps.repair(session, ref, kind.recount(session, ref))
            if repair:
                activity_log.record(session, ref, "repaired", {"was": repair.before, "is": repair.after})
            return repair

        if repair := transact(self.runtime.sessions, work):
            self.swept.repaired += 1
            metrics.COUNTERS_REPAIRED.add(kind.table.name)
            log.error(
                "counters differed from the ledger and were repaired",
                kind=kind.table.name,
                job=ref.id,
                was=repair.before,
                now=repair.after,
            )

    def _held(self, kind: AnyJobKind) -> frozenset[int]:
        """Return the jobs of a kind that this worker leaves alone."""
        return self.runtime.settings.held(kind.table.name)

    def _each(
        self,
        step: _Step,
        kind: AnyJobKind,
        find: Callable[[Session, Collection[int]], list[int]],
        act: Callable[[int], None],
    ) -> None:
        """Process all rows that a step finds, batch by batch, within the time that it has.

        Args:
            step: for logs and metrics.
            kind: of the jobs.
            find: returns a batch of rows, without those that it is given.
            act: processes one row, in transactions of its own.
        """
        ends_at = time.monotonic() + self.limits.sweep_step.total_seconds()
        skip = self.setbacks.waiting(step, kind.table.name)
        if step in _ADVANCING:
            skip |= self._held(kind)
        while found := self._query(step, kind, lambda session: find(session, skip)):
            for row_id in found:
                if time.monotonic() > ends_at:
                    self.swept.unfinished = True
                    return
                self._row(step, kind, row_id, functools.partial(act, row_id))
                # Whatever became of it, no row is looked at twice in one sweep.
                skip.add(row_id)

    def _query(self, step: _Step, kind: AnyJobKind, work: Callable[[Session], T]) -> T | None:
        """Run the query of a step; None when it fails: the other steps and kinds go on."""
        try:
            return transact(self.runtime.sessions, work, pauses=())
        except TransientError as error:
            self.setbacks.interrupt()
            log.warning("step of the sweep put off", step=step, kind=kind.table.name, reason=str(error))
        except Exception:
            log.exception("step of the sweep failed", step=step, kind=kind.table.name)
        self._count(step, kind)
        return None

    def _row(self, step: _Step, kind: AnyJobKind, row_id: int, act: Callable[[], object]) -> None:
        """Process one row; whatever it raises is logged, counted, and a reason to try the row later."""
        name = kind.table.name
        try:
            act()
        except (NotRunningError, UnknownJobError):
            # It was cancelled, ended or deleted at this moment.
            pass
        except TransientError as error:
            if step is _Step.REAP:
                self.setbacks.interrupt()
            self.setbacks.note(step, name, row_id, passing=True)
            self._count(step, kind)
            log.warning("row left to a later sweep", step=step, kind=name, row=row_id, reason=str(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever a row holds must not stop the sweep
            attempts = self.setbacks.note(step, name, row_id, passing=False)
            self._count(step, kind)
            reason = f"{type(error).__name__}: {_first_line(error)}"
            # A traceback takes longer than the work on a row: hundreds of them would be all that a sweep does.
            traced = attempts == 1 and self.swept.failed <= _MAX_TRACEBACKS
            write = log.exception if traced else log.error
            write("row left to a later sweep", step=step, kind=name, row=row_id, attempts=attempts, reason=reason)
            if step in _HOPELESS and attempts >= self.limits.max_setbacks:
                self._give_up(step, kind, row_id, f"{_HOPELESS[step]}: {reason}")
            return
        self.setbacks.forget(step, name, row_id)

    def _give_up(self, step: _Step, kind: AnyJobKind, job_id: int, reason: str) -> None:
        try:
            submission.give_up(self.runtime, kind, job_id, reason)
        except Exception:
            log.exception("job could not be ended", step=step, kind=kind.table.name, row=job_id)

    def _count(self, step: _Step, kind: AnyJobKind) -> None:
        self.swept.failed += 1
        metrics.SWEEP_ERRORS.add(kind.table.name, step)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:_MAX_REASON]


def _ids(refs: Iterable[JobRef]) -> list[int]:
    return [ref.id for ref in refs]

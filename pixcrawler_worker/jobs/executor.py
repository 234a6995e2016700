"""One attempt at a chunk, of whatever kind its job is: claim, work with heartbeats and a deadline, finish.

Two short transactions with the work between them: the claim before, the result after. Between them nothing is locked.
From the claim to the end, a heartbeat in a thread of its own extends the lease: also while the result, kept in memory,
waits for a database that says "not now".

The work of some kinds mostly waits for others. A process that has room then claims further chunks beside the one that
its message names, see `docs/decisions/0050-chunks-overlap.md`. Each has its own claim, heartbeat, deadline and result.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Self, TypeVar

import structlog

from pixcrawler_worker import tracing
from pixcrawler_worker.db.ledger import chunks, dispatch, fairness, jobs
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, JobTable, LimitExceededError, NotRunningError
from pixcrawler_worker.db.session import Session, describe, may_pass, transact
from pixcrawler_worker.domain.lifecycle import ChunkOutcome
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
from pixcrawler_worker.jobs import attempt_log, submission
from pixcrawler_worker.jobs.attempt_log import End
from pixcrawler_worker.jobs.kind import AnyJobKind, Report
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.runtime import Runtime, owner

log = structlog.get_logger()
T = TypeVar("T")

#: Seconds between two looks at the progress of a chunk, which is shown to users.
_PROGRESS_SECONDS = 1.0
#: Seconds between two tries to write a transition: they double from the first to the longest.
_FIRST_PAUSE, _MAX_PAUSE = 0.05, 5.0
#: Seconds until a heartbeat that failed is tried again, when the next one is due later.
_HEARTBEAT_RETRY = 0.5


#: Chunks that a process runs at a time.
_MAX_OVERLAPPING = 8
#: Seconds until a process that found no further chunk looks for one again.
_LOOK_SECONDS = 1.0
#: Share of the claims in which the job that ends soonest may be ahead of the others. The rest keeps the others going.
_FAVORED = 0.8


@dataclass(frozen=True, slots=True)
class Turns:
    """How a message may serve another job than the one that it was sent for; see `db/ledger/fairness.py`.

    Attributes:
        kinds: whose chunks the process may run.
        postpone: sends the message again, to the end of its queue. It is called before the work begins.
        send: sends what follows a chunk that ends while others run; None to run no chunk beside another.
    """

    kinds: Sequence[AnyJobKind]
    postpone: Callable[[ChunkMessage], None]
    send: Callable[[Sequence[ChunkMessage]], None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Claimed:
    """A chunk that this process has claimed.

    Attributes:
        kind: of its job.
        claim: of the chunk.
        work: what its work needs.
        limits: of this attempt.
        has_message: whether a message of its job was used up for it, or will be, so that the next one may be sent.
        began: when it was claimed, by the monotonic clock.
    """

    kind: AnyJobKind
    claim: Claim
    work: Any
    limits: JobLimits
    has_message: bool = True
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class _Following:
    """When a process that has ended a chunk takes another one of the job, in the same transaction.

    That saves the way of a message through the broker and back, which costs more than a chunk with little to do.

    Attributes:
        chunk_id: of the message.
        served: the kinds that the process serves: it follows only while no other job of them runs.
        until: by the monotonic clock. After that a message is sent as well: others may have come.
    """

    chunk_id: int
    served: Sequence[JobTable]
    until: float


@dataclass(frozen=True, slots=True)
class _Ended:
    """The end of an attempt.

    Attributes:
        outcome: for the job.
        messages: to send next; None when they were not chosen yet.
        follower: the next chunk, claimed in the transaction that has ended the attempt.
    """

    outcome: ChunkOutcome
    messages: list[ChunkMessage] | None = None
    follower: _Claimed | None = None


class _NotFollowedError(Exception):
    """What follows an attempt could not be read or written: the attempt is ended without it."""


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

    A duplicate, early or stale message changes nothing, nor does one about a chunk of another kind. A permanent error
    fails the chunk, and a transient error releases it: one of the database or the storage costs no attempt. Anything
    else is a bug: it is logged with its traceback, and the chunk is released with its name until its attempts are used
    up. Whatever happens, nothing but the end of the process is raised.

    Args:
        runtime: connects to everything.
        kind: of the chunk's job.
        chunk_id: from the message.
        turns: how other jobs get their turns; None to run the chunk of the message and no other.
        limits: how long the work may take.
        jitter: returns a random number from 0 up to 1.
    """
    claimed = _claim(runtime, kind, chunk_id, turns, limits, jitter)
    if claimed is None:
        return []
    beside = _Overlap(runtime, turns, chunk_id, limits, jitter)
    try:
        return runtime.run(beside.run(claimed))
    except Exception as error:  # noqa: BLE001 - Celery's time limit; `_interrupted` logs it
        return [message for open_one in beside.running for message in beside.interrupted(open_one, error)]


class _Overlap:
    """The chunks that one task runs: that of its message and, while it has room, further ones beside it.

    Args:
        runtime: connects to everything.
        turns: how further chunks are claimed.
        named: the chunk of the message.
        limits: how long the work may take.
        jitter: returns a random number from 0 up to 1.

    Attributes:
        running: the chunks whose attempts have not ended.
    """

    def __init__(
        self, runtime: Runtime, turns: Turns | None, named: int, limits: JobLimits, jitter: Callable[[], float]
    ) -> None:
        self.running: list[_Claimed] = []
        self._runtime, self._turns, self._named, self._limits, self._jitter = runtime, turns, named, limits, jitter
        self._began = time.monotonic()
        self._following = (
            _Following(named, [kind.table for kind in turns.kinds], self._began + limits.following.total_seconds())
            if turns
            else None
        )
        self._look_at = self._began
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[None] | None = None
        self._is_over = False
        self._messages: list[ChunkMessage] = []

    async def run(self, first: _Claimed) -> list[ChunkMessage]:
        """Run a chunk, and further ones; return the messages that follow the last of them."""
        self._start(first)
        try:
            while self._tasks:
                done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                self._tasks -= done
                for task in done:
                    task.result()
        finally:
            self._is_over = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._messages

    def take_more(self) -> None:
        """Begin to claim a further chunk, if that is possible and was not tried just now."""
        now = time.monotonic()
        may_begin = (
            self._turns is not None
            and self._turns.send is not None
            and self._claiming is None
            and now >= self._look_at
            and now - self._began < self._limits.overlap_period.total_seconds()
            and len(self.running) < _MAX_OVERLAPPING
            and not self._runtime.is_stopping()
        )
        if may_begin:
            self._claiming = self._in_background(self._claim_further())

    def _start(self, claimed: _Claimed) -> None:
        self.running.append(claimed)
        self._in_background(self._run(claimed))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        return task

    async def _run(self, claimed: _Claimed) -> None:
        """Run a chunk to its end, and those that follow it at once."""
        async with _Heartbeat(self._runtime, self._limits) as heartbeat:
            following: _Claimed | None = claimed
            while following is not None and not self._is_over:
                following = await self._run_one(following, heartbeat)

    async def _run_one(self, claimed: _Claimed, heartbeat: "_Heartbeat") -> _Claimed | None:
        """Run one chunk to its end, and send the messages that follow or leave that to the end of all.

        Return the chunk that was claimed for the time after it.
        """
        with _named(claimed):
            heartbeat.extend(claimed.claim)
            ended = await self._attempt(claimed, heartbeat)
            heartbeat.extend(None)
            self.running.remove(claimed)
            if ended.follower is not None:
                self.running.append(ended.follower)
            messages = ended.messages
            if messages is None or ended.outcome is not ChunkOutcome.CONTINUES:
                messages = await self._runtime.in_thread(
                    lambda: _next_messages(self._runtime, claimed.kind, claimed.claim, ended)
                )
            if self._turns is None or self._turns.send is None or not (self.running or self._claiming):
                self._messages += messages
            elif messages:
                await self._runtime.in_thread(functools.partial(self._turns.send, messages))
        return ended.follower

    async def _attempt(self, claimed: _Claimed, heartbeat: "_Heartbeat") -> _Ended:
        """Do the work and end the attempt one way or the other."""
        kind, limits = claimed.kind, claimed.limits
        ended = functools.partial(attempt_log.ended, kind.table.name, began=claimed.began)
        working = replace(
            self._runtime,
            show_progress=heartbeat.show_progress,
            take_more=self.take_more if kind.overlaps else lambda: None,
        )
        try:
            result = await _supervise(heartbeat, kind.work(working, claimed.work, limits), limits)
            follow = self._following if self._is_alone() else None
            sends_next = self._sends_next(claimed)
            end, report = await self._runtime.in_thread(
                lambda: _finish(self._runtime, claimed, result, self._jitter, follow, sends_next=sends_next)
            )
        except (_ClaimLostError, NotRunningError):
            ended(End.LOST)
            return _Ended(ChunkOutcome.LOST)
        except Exception as raised:  # noqa: BLE001 - `_released` logs it
            error = raised
            return await self._runtime.in_thread(lambda: self._released(claimed, error))
        ended(End.LOST if report is None else End.CONTINUED if report.rest else End.COMPLETED, report=report)
        return end

    def _is_alone(self) -> bool:
        """Return whether no chunk runs besides one that ends, and none is about to."""
        return len(self.running) == 1 and self._claiming is None

    def _sends_next(self, claimed: _Claimed) -> bool:
        """Return whether the next message of the job is sent when a chunk ends.

        One without a message leaves their number as it is: the other chunks of the process see to the next ones.
        """
        return claimed.has_message or self._is_alone()

    def interrupted(self, claimed: _Claimed, error: Exception) -> list[ChunkMessage]:
        """End an attempt that was interrupted together with the whole task; return the messages that follow."""
        with _named(claimed):
            ended = self._released(claimed, error)
            return _next_messages(self._runtime, claimed.kind, claimed.claim, ended)

    def _released(self, claimed: _Claimed, raised: Exception) -> _Ended:
        error = _cause(raised)
        end = End.FAILED if isinstance(error, PermanentError) else End.RELEASED
        attempt_log.ended(claimed.kind.table.name, end, began=claimed.began, error=error)
        messages: list[ChunkMessage] | None = None if self._sends_next(claimed) else []
        return _Ended(_close(self._runtime, claimed.claim, error, claimed.limits, self._jitter), messages)

    async def _claim_further(self) -> None:
        try:
            further = await self._runtime.in_thread(self._further)
        finally:
            self._claiming = None
        if further is None:
            self._look_at = max(self._look_at, time.monotonic() + _LOOK_SECONDS)
        elif self._is_over:
            self.running.append(further)
        else:
            self._start(further)

    def _further(self) -> _Claimed | None:
        """Claim a chunk that may run beside those that run; None when there is none, or other work is more urgent."""
        assert self._turns is not None
        kinds = {kind.table: kind for kind in self._turns.kinds}
        claimant = owner(self._named)
        favor_short = self._jitter() < _FAVORED
        beside = [claimed.claim for claimed in self.running]
        if not beside or self._runtime.requests_wait():
            return None

        def work(session: Session) -> _Claimed | None:
            further = fairness.claim_further(
                session,
                tables=list(kinds),
                overlapping=[table for table, kind in kinds.items() if kind.overlaps],
                beside=beside,
                owner=claimant,
                lease=self._runtime.settings.lease,
                favor_short=favor_short,
                held=_held(self._runtime, kinds),
            )
            if further is None:
                return None
            kind = kinds[further.claim.job.table]
            prepared = _prepare(self._runtime, session, kind, further.claim)
            elapsed = timedelta(seconds=time.monotonic() - self._began)
            limits = self._limits.begun_after(elapsed)
            if prepared is None:
                return None
            return _Claimed(kind, further.claim, prepared.work, limits, further.has_message)

        try:
            return transact(self._runtime.sessions, work)
        except (NotRunningError, OutageError) as error:
            log.info("no further chunk was claimed", reason=str(error))
        except Exception:
            # Its message counts it as an attempt. Until then, whatever is wrong with it must not be met all the time.
            log.exception("no further chunk could be claimed")
            self._look_at = float("inf")
        return None


def _claim(  # noqa: PLR0913, PLR0917 - everything that one claim depends on
    runtime: Runtime,
    kind: AnyJobKind,
    chunk_id: int,
    turns: Turns | None,
    limits: JobLimits,
    jitter: Callable[[], float],
) -> _Claimed | None:
    """Claim a chunk; None when there is nothing to do."""
    kinds = {one.table: one for one in (kind, *(turns.kinds if turns else ()))}
    tables = [one.table for one in turns.kinds] if turns else []
    claimant = owner(chunk_id)
    favor_short = jitter() < _FAVORED
    held = _held(runtime, kinds)

    def work(session: Session) -> tuple[fairness.Taken, Any]:
        taken = fairness.claim(
            session,
            kind.table,
            chunk_id,
            tables=tables,
            owner=claimant,
            lease=runtime.settings.lease,
            favor_short=favor_short,
            held=held,
        )
        claim = taken.claim
        if claim is None:
            return taken, None
        prepared = _prepare(runtime, session, kinds[claim.job.table], claim)
        return (taken, prepared.work) if prepared else (replace(taken, claim=None), None)

    if turns:
        try:
            taken, prepared = transact(runtime.sessions, work)
        except (NotRunningError, OutageError) as error:
            # The job whose turn it is may have been cancelled just now, or its rows are locked.
            log.info("the turns were not kept", kind=kind.table.name, chunk=chunk_id, reason=str(error))
            return _claim(runtime, kind, chunk_id, None, limits, jitter)
        except Exception:
            # Whatever is wrong with it, it must not stop the others.
            log.exception("the turns were not kept", kind=kind.table.name, chunk=chunk_id)
            return _claim(runtime, kind, chunk_id, None, limits, jitter)
        if taken.postponed:
            turns.postpone(taken.postponed)
        return _Claimed(kinds[taken.claim.job.table], taken.claim, prepared, limits) if taken.claim else None
    try:
        taken, prepared = transact(runtime.sessions, work, pauses=_pauses(limits, jitter))
    except Exception as error:
        if not _is_dropped(error, kind, chunk_id):
            # With no claim there is no lease to expire: uncounted, this would be tried for ever.
            log.exception("chunk could not be claimed", kind=kind.table.name, chunk=chunk_id)
            _count_attempt(runtime, kind, chunk_id, error, limits, jitter)
        return None
    return _Claimed(kind, taken.claim, prepared, limits) if taken.claim else None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the work of a chunk needs."""

    work: Any


def _prepare(runtime: Runtime, session: Session, kind: AnyJobKind, claim: Claim) -> _Prepared | None:
    """Return what the work of a chunk needs; None when that says that the chunk fails."""
    try:
        return _Prepared(kind.prepare(runtime, session, claim))
    except PermanentError as error:
        # Another version planned it; the sweep concludes the job. Raised, this would be tried for ever.
        chunks.fail(session, claim, error=str(error))
        return None


def _held(runtime: Runtime, tables: Iterable[JobTable]) -> set[JobRef]:
    """Return the jobs that the settings leave alone."""
    return {table.ref(job_id) for table in tables for job_id in runtime.settings.held(table.name)}


@contextlib.contextmanager
def _named(claimed: _Claimed) -> Iterator[None]:
    """Name the chunk in log lines and in a span of its own while the context is open."""
    claim, kind = claimed.claim, claimed.kind.table.name
    with (
        structlog.contextvars.bound_contextvars(
            kind=kind, job=claim.job.id, chunk=claim.chunk_id, attempt=claim.attempt
        ),
        tracing.job_span("chunk", kind, claim.job.id) as span,
    ):
        span.set("pixcrawler.chunk.id", claim.chunk_id)
        span.set("pixcrawler.chunk.attempt", claim.attempt)
        yield


def _is_dropped(error: Exception, kind: AnyJobKind, chunk_id: int) -> bool:
    """Return whether an error means that nothing is to be done about a message now, and log it then."""
    if isinstance(error, OutageError):
        log.warning(
            "message dropped: the sweep sends it again", kind=kind.table.name, chunk=chunk_id, reason=str(error)
        )
    elif isinstance(error, NotRunningError):
        log.info("message dropped", kind=kind.table.name, chunk=chunk_id, reason=str(error))
    else:
        return False
    return True


def _count_attempt(  # noqa: PLR0913, PLR0917 - everything that one attempt depends on
    runtime: Runtime,
    kind: AnyJobKind,
    chunk_id: int,
    error: Exception,
    limits: JobLimits,
    jitter: Callable[[], float],
) -> None:
    def work(session: Session) -> None:
        chunks.count_attempt(session, kind.table, chunk_id, error=describe(error), jitter=jitter())

    try:
        transact(runtime.sessions, work, pauses=_pauses(limits, jitter))
    except Exception as raised:
        if not _is_dropped(raised, kind, chunk_id):
            log.exception(
                "the attempt could not be counted: the sweep sends the message again",
                kind=kind.table.name,
                chunk=chunk_id,
            )


def _cause(error: Exception) -> Exception:
    """Return the error that decides: of those that concurrent work met, the one that asks for the most patience."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause(one) for one in error.exceptions]
    for wanted in (OutageError, TransientError, PermanentError):
        for cause in causes:
            if isinstance(cause, wanted):
                return cause
    return causes[0]


async def _supervise(heartbeat: "_Heartbeat", work: Coroutine[Any, Any, T], limits: JobLimits) -> T:
    """Run the work while the claim is valid; stop it when the claim is lost or at the deadline.

    Raises:
        _ClaimLostError: when the claim was lost.
        TransientError: when the chunk took too long.
    """
    deadline = limits.chunk_deadline.total_seconds()
    task: asyncio.Future[T] = asyncio.ensure_future(work)
    lost: asyncio.Future[Any] = asyncio.wrap_future(heartbeat.lost)
    either: set[asyncio.Future[Any]] = {task, lost}
    try:
        await asyncio.wait(either, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if lost.done():
            raise _ClaimLostError
        raise TransientError(f"the chunk took longer than {deadline:.0f} s")
    finally:
        task.cancel()
        lost.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Extended:
    """A claim whose lease is extended.

    Attributes:
        claim: of the attempt.
        lost: done when the claim is lost. The work stops then; a transition finds out by itself.
        due: when it is extended next, by the monotonic clock.
        images: that the chunk has so far.
        shown: those of them that users see.
    """

    def __init__(self, claim: Claim, due: float) -> None:
        self.claim = claim
        self.lost: concurrent.futures.Future[None] = concurrent.futures.Future()
        # What waits for it cannot cancel it.
        self.lost.set_running_or_notify_cancel()
        self.due = due
        self.images = self.shown = 0
        self.logged = False


class _Heartbeat:
    """Extends the lease of a claim, one after the other, and shows its progress, in a thread of its own.

    Neither an event loop that is busy nor a thread pool whose threads all wait for a storage that hangs delays it. A
    database that is unavailable for a moment does not end the work.
    """

    def __init__(self, runtime: Runtime, limits: JobLimits) -> None:
        self._runtime = runtime
        self._lease = runtime.settings.lease
        self._interval = limits.heartbeat_interval(self._lease).total_seconds()
        self._extended: _Extended | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._extend_until_ended, name="heartbeat", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        # Others run in the event loop, while it may wait for the database.
        await self._runtime.in_thread(self._thread.join)

    def extend(self, claim: Claim | None) -> None:
        """Extend the lease of this claim from now on, or of none."""
        self._extended = None if claim is None else _Extended(claim, time.monotonic() + self._interval)

    @property
    def lost(self) -> concurrent.futures.Future[None]:
        """Done when the claim is lost."""
        assert self._extended is not None
        return self._extended.lost

    def show_progress(self, images: int) -> None:
        """Have it shown how many images the chunk has so far."""
        if self._extended is not None:
            self._extended.images = images

    def _extend_until_ended(self) -> None:
        # The thread does not wait longer for the claim that follows than for the one that it knows.
        longest = min(self._interval, _PROGRESS_SECONDS)
        wait = longest
        while not self._ended.wait(wait):
            wait = longest
            if (extended := self._extended) is None or extended.lost.done():
                continue
            if time.monotonic() < extended.due:
                self._show(extended)
            else:
                self._extend(extended)
            wait = min(max(0.0, extended.due - time.monotonic()), longest)

    def _show(self, extended: _Extended) -> None:
        images = extended.images
        if images == extended.shown:
            return
        # Only shown, and soon shown again: whatever is wrong is not worth more than that.
        with contextlib.suppress(Exception):
            transact(
                self._runtime.sessions,
                lambda session: chunks.show_progress(session, extended.claim, images=images),
                pauses=(),
            )
        extended.shown = images

    def _extend(self, extended: _Extended) -> None:
        pause = self._interval
        try:
            extends = transact(
                self._runtime.sessions,
                lambda session: chunks.heartbeat(session, extended.claim, lease=self._lease),
                # The context does not end before this does, so there are no pauses in it.
                pauses=(),
            )
            if not extends:
                extended.lost.set_result(None)
        except OutageError:
            pause = min(_HEARTBEAT_RETRY, self._interval)
        except Exception:
            if not extended.logged:
                log.exception("the lease could not be extended", chunk=extended.claim.chunk_id)
            extended.logged = True
        extended.due = time.monotonic() + pause


def _finish(  # noqa: PLR0913 - everything that the end of an attempt depends on
    runtime: Runtime,
    claimed: _Claimed,
    result: Any,  # noqa: ANN401 - what the kind's work returns
    jitter: Callable[[], float],
    follow: _Following | None,
    *,
    sends_next: bool,
) -> tuple[_Ended, Report | None]:
    """Write the result, the chunk's end, and what follows, in one transaction.

    Return the end, and the report that was written, if one was.

    Raises:
        NotRunningError: when the result comes too late and is dropped.
    """
    claim = claimed.claim
    ended: _Ended | None = None
    report: Report | None = None
    with_next = True

    def finish(session: Session) -> tuple[_Ended, Report | None]:
        nonlocal ended, report
        match chunks.lock_claim(session, claim):
            case ClaimState.LOST:
                return _Ended(ChunkOutcome.LOST), None
            case ClaimState.FINISHED:
                # By the transaction before, whose answer was lost.
                if ended is None:
                    open_chunks = jobs.counters(session, claim.job).open
                    ended = _Ended(ChunkOutcome.CONTINUES if open_chunks else ChunkOutcome.JOB_FINISHED)
                return ended, report
            case ClaimState.VALID:
                report = claimed.kind.write(session, claimed.work, result)
                if with_next:
                    ended = _end_with_next(runtime, session, claimed, report, follow, sends_next=sends_next)
                else:
                    ended = _Ended(_complete(session, claim, report), messages=[])
                return ended, report

    while True:
        try:
            return transact(runtime.sessions, finish, pauses=_pauses(claimed.limits, jitter))
        except LimitExceededError:
            # Only a limit that is lowered at this very moment makes a second turn necessary.
            continue
        except _NotFollowedError as error:
            log.exception("what follows is left to the sweep", exc_info=error.__cause__)
            with_next = False


def _end_with_next(  # noqa: PLR0913 - the attempt, and what may follow
    runtime: Runtime,
    session: Session,
    claimed: _Claimed,
    report: Report,
    follow: _Following | None,
    *,
    sends_next: bool,
) -> _Ended:
    """End the attempt, and claim the chunk that follows or choose the message for it."""
    claim, kind = claimed.claim, claimed.kind
    follower: Claim | None = None
    if follow and report.rest is None and time.monotonic() < follow.until:
        with _following():
            follower = chunks.claim_undispatched(
                session, claim.job, served=follow.served, owner=owner(follow.chunk_id), lease=runtime.settings.lease
            )
    outcome = _complete(session, claim, report, follower)
    with _following():
        if follower is not None:
            try:
                work = kind.prepare(runtime, session, follower)
                return _Ended(outcome, [], _Claimed(kind, follower, work, claimed.limits))
            except PermanentError as error:
                # Another version planned it.
                outcome = chunks.fail(session, follower, error=str(error))
        if outcome is ChunkOutcome.CONTINUES:
            return _Ended(outcome, dispatch.next_due(session, claim.job, limit=1) if sends_next else [])
    return _Ended(outcome)


@contextlib.contextmanager
def _following() -> Iterator[None]:
    """Raise `_NotFollowedError` for what is wrong with the next chunk: this one has nothing to do with it."""
    try:
        yield
    except Exception as error:
        if may_pass(error):
            raise
        raise _NotFollowedError from error


def _complete(session: Session, claim: Claim, report: Report, follower: Claim | None = None) -> ChunkOutcome:
    """Complete the chunk, or queue it again for the rest of its work."""
    if report.rest is None:
        return chunks.finish(session, claim, result=report.result, gains=report.gains, follower=follower)
    rest = report.rest
    return chunks.put_back(
        session,
        claim,
        result=report.result,
        gains=report.gains,
        payload=rest.payload,
        delay=rest.delay,
        progressed=rest.progressed,
    )


def _close(
    runtime: Runtime, claim: Claim, error: Exception, limits: JobLimits, jitter: Callable[[], float]
) -> ChunkOutcome:
    """Release the chunk, or fail it; when even that cannot be written, its lease expires."""

    def close(session: Session) -> ChunkOutcome:
        match error:
            case PermanentError():
                return chunks.fail(session, claim, error=str(error))
            case OutageError():
                return chunks.release(session, claim, error=str(error), outage=True, jitter=jitter())
            case TransientError():
                return chunks.release(session, claim, error=str(error), retry_after=error.retry_after, jitter=jitter())
            case _:
                return chunks.release(session, claim, error=describe(error), jitter=jitter())

    try:
        return transact(runtime.sessions, close, pauses=_pauses(limits, jitter))
    except NotRunningError:
        pass
    except OutageError as outage:
        log.warning("the chunk could not be released: the sweep does it", reason=str(outage))
    except Exception:
        log.exception("the chunk could not be released: the sweep does it")
    return ChunkOutcome.LOST


def _next_messages(runtime: Runtime, kind: AnyJobKind, claim: Claim, ended: _Ended) -> list[ChunkMessage]:
    """Return what follows for the job. What cannot be done now is left to the sweep."""
    job = claim.job
    try:
        match ended.outcome:
            case ChunkOutcome.LOST:
                log.info("result dropped: the claim is lost, or the job does not run")
                return []
            case ChunkOutcome.JOB_FINISHED:
                return submission.conclude(runtime, kind, job.id)
            case ChunkOutcome.CONTINUES if ended.messages is not None:
                return ended.messages
            case ChunkOutcome.CONTINUES:
                return transact(runtime.sessions, lambda session: dispatch.next_due(session, job, limit=1))
    except TransientError as error:
        log.warning("what follows is left to the sweep", reason=str(error))
    except Exception:
        log.exception("what follows is left to the sweep")
    return []


def _pauses(limits: JobLimits, jitter: Callable[[], float]) -> Iterator[float]:
    """Yield the seconds between two tries at a transition, until its time is over.

    They are random, because all workers wait for the same database.
    """
    end = time.monotonic() + limits.transition_time.total_seconds()
    for doublings in itertools.count():
        pause = min(_FIRST_PAUSE * 2**doublings, _MAX_PAUSE) * (1 + jitter()) / 2
        if time.monotonic() + pause > end:
            return
        yield pause

"""One attempt at a chunk, of whatever kind its job is: claim, work with heartbeats and a deadline, finish.

Two short transactions with the work between them: the claim before, the result after. Between them nothing is locked.
From the claim to the end, a heartbeat in a thread of its own extends the lease: also while the result, kept in memory,
waits for a database that says "not now".

The work of some kinds mostly waits for others. A process that has room then claims further chunks beside the one that
its message names, see `docs/decisions/0050-chunks-overlap.md`. Each has its own claim, heartbeat, deadline and result.
"""

import asyncio
import functools
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog

from pixcrawler_worker.db.ledger.tables import ChunkMessage, NotRunningError
from pixcrawler_worker.domain.lifecycle import ChunkOutcome
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
from pixcrawler_worker.jobs import attempt_log, claiming, ending
from pixcrawler_worker.jobs.attempt_log import End
from pixcrawler_worker.jobs.claiming import Claimed, Turns
from pixcrawler_worker.jobs.ending import Ended, Following
from pixcrawler_worker.jobs.heartbeat import ClaimLostError, Heartbeat, supervise
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.runtime import Runtime

__all__ = ["Turns", "run"]

log = structlog.get_logger()

#: Chunks that a process runs at a time.
_MAX_OVERLAPPING = 8
#: Seconds until a process that found no further chunk looks for one again.
_LOOK_SECONDS = 1.0


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
    claimed = claiming.claim(runtime, kind, chunk_id, turns, limits, jitter)
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
        self.running: list[Claimed] = []
        self._runtime, self._turns, self._named, self._limits, self._jitter = runtime, turns, named, limits, jitter
        self._began = time.monotonic()
        self._following = (
            Following(named, [kind.table for kind in turns.kinds], self._began + limits.following.total_seconds())
            if turns
            else None
        )
        self._look_at = self._began
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[None] | None = None
        self._is_over = False
        self._messages: list[ChunkMessage] = []

    async def run(self, first: Claimed) -> list[ChunkMessage]:
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

    def _start(self, claimed: Claimed) -> None:
        self.running.append(claimed)
        self._in_background(self._run(claimed))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        return task

    async def _run(self, claimed: Claimed) -> None:
        """Run a chunk to its end, and those that follow it at once."""
        async with Heartbeat(self._runtime, self._limits) as heartbeat:
            working = replace(
                self._runtime,
                show_progress=heartbeat.show_progress,
                take_more=self.take_more if claimed.kind.overlaps else lambda: None,
            )
            following: Claimed | None = claimed
            while following is not None and not self._is_over:
                following = await self._run_one(following, heartbeat, working)

    async def _run_one(self, claimed: Claimed, heartbeat: "Heartbeat", working: Runtime) -> Claimed | None:
        """Run one chunk to its end, and send the messages that follow or leave that to the end of all.

        Return the chunk that was claimed for the time after it.
        """
        with claiming.named(claimed):
            heartbeat.extend(claimed.claim)
            ended = await self._attempt(claimed, heartbeat, working)
            heartbeat.extend(None)
            self.running.remove(claimed)
            if ended.follower is not None:
                self.running.append(ended.follower)
            messages = ended.messages
            if messages is None or ended.outcome is not ChunkOutcome.CONTINUES:
                messages = await self._runtime.in_thread(
                    lambda: ending.next_messages(self._runtime, claimed.kind, claimed.claim, ended)
                )
            if self._turns is None or self._turns.send is None or not (self.running or self._claiming):
                self._messages += messages
            elif messages:
                await self._runtime.in_thread(functools.partial(self._turns.send, messages))
        return ended.follower

    async def _attempt(self, claimed: Claimed, heartbeat: "Heartbeat", working: Runtime) -> Ended:
        """Do the work and end the attempt one way or the other."""
        kind, limits = claimed.kind, claimed.limits
        ended = functools.partial(attempt_log.ended, kind.table.name, began=claimed.began)
        try:
            result = await supervise(heartbeat, kind.work(working, claimed.work, limits), limits)
            follow = self._following if self._is_alone() else None
            sends_next = self._sends_next(claimed)
            end, report = await self._runtime.in_thread(
                lambda: ending.finish(self._runtime, claimed, result, self._jitter, follow, sends_next=sends_next)
            )
        except (ClaimLostError, NotRunningError):
            ended(End.LOST)
            return Ended(ChunkOutcome.LOST)
        except Exception as raised:  # noqa: BLE001 - `_released` logs it
            error = raised
            return await self._runtime.in_thread(lambda: self._released(claimed, error))
        ended(End.LOST if report is None else End.CONTINUED if report.rest else End.COMPLETED, report=report)
        return end

    def _is_alone(self) -> bool:
        """Return whether no chunk runs besides one that ends, and none is about to."""
        return len(self.running) == 1 and self._claiming is None

    def _sends_next(self, claimed: Claimed) -> bool:
        """Return whether the next message of the job is sent when a chunk ends.

        One without a message leaves their number as it is: the other chunks of the process see to the next ones.
        """
        return claimed.has_message or self._is_alone()

    def interrupted(self, claimed: Claimed, error: Exception) -> list[ChunkMessage]:
        """End an attempt that was interrupted together with the whole task; return the messages that follow."""
        with claiming.named(claimed):
            ended = self._released(claimed, error)
            return ending.next_messages(self._runtime, claimed.kind, claimed.claim, ended)

    def _released(self, claimed: Claimed, raised: Exception) -> Ended:
        error = _cause(raised)
        end = End.FAILED if isinstance(error, PermanentError) else End.RELEASED
        attempt_log.ended(claimed.kind.table.name, end, began=claimed.began, error=error)
        messages: list[ChunkMessage] | None = None if self._sends_next(claimed) else []
        return Ended(ending.close(self._runtime, claimed.claim, error, claimed.limits, self._jitter), messages)

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

    def _further(self) -> Claimed | None:
        """Claim a chunk that may run beside those that run; None when there is none, or other work is more urgent."""
        assert self._turns is not None
        beside = [claimed.claim for claimed in self.running]
        if not beside or self._runtime.requests_wait():
            return None
        limits = self._limits.begun_after(timedelta(seconds=time.monotonic() - self._began))
        try:
            return claiming.claim_further(self._runtime, self._turns, self._named, beside, limits, self._jitter)
        except (NotRunningError, OutageError) as error:
            log.info("no further chunk was claimed", reason=str(error))
        except Exception:
            # Its message counts it as an attempt. Until then, whatever is wrong with it must not be met all the time.
            log.exception("no further chunk could be claimed")
            self._look_at = float("inf")
        return None


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

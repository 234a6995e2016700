"""Every timeout that the life of a chunk depends on, in one place, and the order that must hold between them."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from pixcrawler_worker.db import session
from pixcrawler_worker.domain.retry import MAX_RETRY_AFTER

#: Transitions of one attempt that may each take `transition_time`: claim, finish, release.
_TRANSITIONS = 3
#: Seconds between two tries to write a transition: they double from the first to the longest.
_FIRST_PAUSE, _MAX_PAUSE = 0.05, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """Durations from short to long. Each one leaves the one before it time to take effect.

    Attributes:
        overlap_period: for so long a task may begin further chunks beside the one that it was sent for.
        chunk_budget: after this a chunk takes nothing new and leaves the rest to another chunk.
        chunk_deadline: after this the work of a chunk is stopped and the chunk is released.
        soft_time_limit: after this Celery raises in the task.
        time_limit: after this Celery kills the task's process.
        grace_period: after this no process works on an ended job any more, and its storage may be cleaned up.
        visibility_timeout: after this Redis delivers a message again that was not acknowledged.
        heartbeats_per_lease: how often a lease is extended while it lasts: so many less one may be lost.
        transition_time: how long each of a chunk's transitions (claim, finish, release) is tried again while the
            database says "not now". Finished work is worth waiting for a database that restarts; after that the chunk
            is released, and its work done again.
        following: time after the first claim in which a process takes another chunk of the job in the transaction that
            ends one. After that a message is sent: what other jobs wait for comes first.
        max_reaped: chunks that one sweep reaps.
        max_redispatched: lost messages that one sweep sends again, so that the end of an outage is no storm.
        sweep_step: time that one step of a sweep has for the jobs of a kind; the next sweep continues at once.
        max_setbacks: how often planning or concluding a job may raise an unexpected error before the job fails.

    Raises:
        ValueError: when the order does not hold.
    """

    overlap_period: timedelta = timedelta(seconds=60)
    chunk_budget: timedelta = timedelta(seconds=200)
    chunk_deadline: timedelta = timedelta(seconds=600)
    soft_time_limit: timedelta = timedelta(seconds=840)
    time_limit: timedelta = timedelta(seconds=900)
    grace_period: timedelta = timedelta(seconds=1200)
    visibility_timeout: timedelta = timedelta(seconds=3600)
    heartbeats_per_lease: int = 4
    transition_time: timedelta = timedelta(seconds=75)
    following: timedelta = timedelta(seconds=1)
    max_reaped: int = 500
    max_redispatched: int = 500
    sweep_step: timedelta = timedelta(seconds=5)
    max_setbacks: int = 5

    def __post_init__(self) -> None:
        of_chunks = (
            self.chunk_budget,
            self.chunk_deadline,
            self.soft_time_limit,
            self.time_limit,
            self.grace_period,
            self.visibility_timeout,
        )
        of_transactions = (session.LOCK_TIMEOUT, session.STATEMENT_TIMEOUT, session.IDLE_TIMEOUT, self.soft_time_limit)
        for durations in (of_chunks, of_transactions):
            if any(shorter >= longer for shorter, longer in itertools.pairwise(durations)):
                raise ValueError(f"each limit must be longer than the one before it: {durations}")
        if self.following + self.chunk_deadline + _TRANSITIONS * self.transition_time >= self.soft_time_limit:
            raise ValueError("a chunk at its deadline must be able to write its result before the soft time limit")
        if self.chunk_budget >= self._latest_deadline(self.overlap_period):
            raise ValueError("the last chunk that a task begins must be able to end before the soft time limit")
        if self.grace_period >= self.visibility_timeout or self.visibility_timeout <= MAX_RETRY_AFTER:
            raise ValueError("a message must not come back while its chunk may still run or wait")
        if self.heartbeats_per_lease < 2:  # noqa: PLR2004 - one may be lost
            raise ValueError("a lease must outlive one lost heartbeat")

    def begun_after(self, elapsed: timedelta) -> "JobLimits":
        """Return the limits of a chunk that begins so long after its task: its deadline may have to be a little sooner.

        Args:
            elapsed: at most `overlap_period`, and what a claim takes.
        """
        return replace(self, chunk_deadline=min(self.chunk_deadline, self._latest_deadline(elapsed)))

    def _latest_deadline(self, elapsed: timedelta) -> timedelta:
        return self.soft_time_limit - _TRANSITIONS * self.transition_time - elapsed - timedelta(seconds=1)

    def pauses(self, jitter: Callable[[], float]) -> Iterator[float]:
        """Yield the seconds between two tries at a transition, until its time is over.

        They are random, because all workers wait for the same database.

        Args:
            jitter: returns a random number from 0 up to 1.
        """
        end = time.monotonic() + self.transition_time.total_seconds()
        for doublings in itertools.count():
            pause = min(_FIRST_PAUSE * 2**doublings, _MAX_PAUSE) * (1 + jitter()) / 2
            if time.monotonic() + pause > end:
                return
            yield pause

    def heartbeat_interval(self, lease: timedelta) -> timedelta:
        """Return the time between two heartbeats of a claim."""
        return lease / self.heartbeats_per_lease


#: What the worker runs with. Tests pass others.
LIMITS = JobLimits()

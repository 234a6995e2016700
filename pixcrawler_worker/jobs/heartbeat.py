"""Heartbeats of a claim, and the work that stops when the claim is lost."""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import structlog

from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import OutageError, TransientError
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()
T = TypeVar("T")

#: Seconds between two looks at the progress of a chunk, which is shown to users.
_PROGRESS_SECONDS = 1.0
#: Seconds until a heartbeat that failed is tried again, when the next one is due later.
HEARTBEAT_RETRY = 0.5


class ClaimLostError(Exception):
    """The claim is no longer valid: the work stops and its result is dropped."""


async def supervise(heartbeat: "Heartbeat", work: Coroutine[Any, Any, T], limits: JobLimits) -> T:
    """Run the work while the claim is valid; stop it when the claim is lost or at the deadline.

    Raises:
        ClaimLostError: when the claim was lost.
        TransientError: when the chunk took too long.
    """
    deadline = limits.chunk_deadline.total_seconds()
    loop, lost, is_over = asyncio.get_running_loop(), heartbeat.lost, False

    def stop() -> None:
        if not (is_over or scope.expired()):
            scope.reschedule(loop.time())

    try:
        async with asyncio.timeout(deadline) as scope:
            lost.add_done_callback(lambda _: loop.call_soon_threadsafe(stop))
            return await work
    except Exception:
        # Once it is stopped, what its cleanup meets is of no interest.
        if not scope.expired():
            raise
        if lost.done():
            raise ClaimLostError from None
        raise TransientError(f"the chunk took longer than {deadline:.0f} s") from None
    finally:
        is_over = True


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


class Heartbeat:
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
            pause = min(HEARTBEAT_RETRY, self._interval)
        except Exception:
            if not extended.logged:
                log.exception("the lease could not be extended", chunk=extended.claim.chunk_id)
            extended.logged = True
        extended.due = time.monotonic() + pause

"""The bytes of bodies in flight in one process: received and not yet stored, in all below a budget."""

import asyncio
from collections import OrderedDict
from types import TracebackType
from typing import Self

from pixcrawler_worker.web.pace import Pace


class Bodies:
    """Bounds the bytes of all bodies that a process holds at a time.

    A body takes its bytes as they arrive. Above the budget every body waits but the oldest, which may always go on: so
    the bound is the budget and one body, and nothing waits for ever.

    Args:
        budget: bytes.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[Body, int] = OrderedDict()
        self._total = 0
        self._waiting: set[asyncio.Event] = set()

    @property
    def total(self) -> int:
        """Bytes of all bodies now."""
        return self._total

    def body(self, pace: Pace | None = None) -> "Body":
        """Return a body without bytes: a context that gives back what the body has taken.

        Args:
            pace: of the job that it belongs to.
        """
        return Body(self, pace)

    def take_at_once(self, body: "Body", count: int) -> bool:
        """Give a body so many bytes more, unless it has to wait for them; return whether it has them."""
        held = self._held.setdefault(body, 0)
        if self._total + count > self._budget and next(iter(self._held)) is not body:
            return False
        self._held[body] = held + count
        self._total += count
        return True

    async def take(self, body: "Body", count: int) -> None:
        """Wait until a body may have so many bytes more."""
        while not self.take_at_once(body, count):
            event = asyncio.Event()
            self._waiting.add(event)
            try:
                await event.wait()
            finally:
                self._waiting.discard(event)

    def release(self, body: "Body") -> None:
        """Give back all bytes of a body."""
        self._total -= self._held.pop(body, 0)
        for event in self._waiting:
            event.set()


class Body:
    """What one body takes of the budget; see `Bodies`.

    Attributes:
        received: its bytes so far.
        begun: when the head of its response arrived, by the monotonic clock, and later by what the pace of its job has
            cost it since; None before.
        pace: of its job; None for none.
    """

    def __init__(self, bodies: Bodies, pace: Pace | None = None) -> None:
        self.received = 0
        self.begun: float | None = None
        self.pace = pace
        self._bodies = bodies

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bodies.release(self)

    def take_at_once(self, count: int) -> bool:
        """Take so many bytes more, unless the budget or the pace of the job makes them wait; return whether it has."""
        if self.pace is not None or not self._bodies.take_at_once(self, count):
            return False
        self.received += count
        return True

    async def take(self, count: int) -> None:
        """Wait until the body may have so many bytes more."""
        await self._bodies.take(self, count)
        self.received += count
        if self.pace is not None:
            waited = await self.pace.received(count)
            self.begun = None if self.begun is None else self.begun + waited

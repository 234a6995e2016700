"""How fast one job may download: bytes in a second, and seconds between two requests to a host.

All processes that work on the job keep the pace together, through Redis; without Redis, each keeps it for itself.
"""

import asyncio
import math
import time
from datetime import timedelta
from typing import Protocol

from pixcrawler_worker.web.hosts import PATIENCE, Cause, HostClosedError


class SharedTurns(Protocol):
    """What the processes of a job know together. Nothing here raises."""

    async def reserve(self, name: str, seconds: float, *, within: float) -> float | None:
        """Reserve the next `seconds` of a row of turns; return the seconds until they begin, None without an answer.

        When they would begin later than `within` seconds from now, nothing is reserved.
        """


class Pace:
    """The pace of one job in this process.

    Args:
        job: its name, the same in all processes.
        limit_rate: bytes of bodies in a second; None for no limit.
        wait: seconds between the beginnings of two requests to one host.
        shared: what all processes of the job know; None for a process of its own.

    Attributes:
        limit_rate: as the argument.
        wait: as the argument.
    """

    def __init__(
        self, job: str, *, limit_rate: int | None = None, wait: float = 0.0, shared: SharedTurns | None = None
    ) -> None:
        self.limit_rate = limit_rate
        self.wait = wait
        self._job = job
        self._shared = shared
        self._next: dict[str, float] = {}

    async def received(self, count: int) -> float:
        """Wait until so many bytes may have arrived; return the seconds that this took."""
        if self.limit_rate is None:
            return 0.0
        begun = time.monotonic()
        seconds = count / self.limit_rate
        await asyncio.sleep(await self._reserve("bytes", seconds, within=math.inf) + seconds)
        return time.monotonic() - begun

    async def turn(self, host: str, *, must_wait: bool = False) -> None:
        """Wait until a request to a host may begin.

        Args:
            host: see `hosts.key`.
            must_wait: however long it takes.

        Raises:
            HostClosedError: that takes long: the request is to be tried again then.
        """
        if not self.wait:
            return
        within = math.inf if must_wait else PATIENCE
        seconds = await self._reserve(f"host:{host}", self.wait, within=within)
        if seconds > within:
            raise HostClosedError(host, Cause.PACED, timedelta(seconds=seconds))
        await asyncio.sleep(seconds)

    async def _reserve(self, row: str, seconds: float, *, within: float) -> float:
        name = f"{self._job}:{row}"
        if self._shared is not None:
            shared = await self._shared.reserve(name, seconds, within=within)
            if shared is not None:
                return shared
        now = time.monotonic()
        at = max(now, self._next.get(name, 0.0))
        if at - now <= within:
            self._next[name] = at + seconds
        return at - now

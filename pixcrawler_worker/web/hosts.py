"""How hosts are treated: places for each, waits that they ask for, and a pause for those that do not answer.

A process knows of each host how many requests are under way, and until when it is left alone. What all workers have to
know is shared through Redis, see `shared_hosts`: that a host is closed, and the connections to hosts with a limit of
their own.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

import structlog
from yarl import URL

from pixcrawler_worker import metrics
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web.host_limits import HostLimits

log = structlog.get_logger()

#: Requests to a host at a time by one process. A browser opens 6 connections; each response here is one small file.
PLACES = 8
#: A request that takes longer than so many seconds leaves its place to another one, as long as there are not more of
#: them than places: some slow files do not keep the others of a host waiting.
_SLOW_SECONDS = 1.0
#: Requests in a row without any answer after which a host counts as down.
_MAX_FAILURES = 5
#: Seconds for which an answer proves that a host is not down, whatever single files do.
_PROVEN_SECONDS = 60.0
#: How long a host that is down is left alone before one request tries it again: at first, and at most.
_FIRST_DOWN, _LONGEST_DOWN = timedelta(seconds=2), timedelta(minutes=1)
#: Without a Retry-After, a host that limits requests is left alone so long, then twice as long each time, to the last.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=5)
#: Times that a host may close without an image in between, after which it is not waited for.
MAX_STRIKES = 8
#: Seconds without a limit after which a host gets one of the places back that it has lost, if its answers do not bring
#: them sooner: files that do not answer must not take the last of them.
_REGAIN_SECONDS = 2.0
#: Added at random to what a host asks for, so that workers do not return in the same moment: a share of it, and at
#: most so many seconds.
_JITTER, _MAX_JITTER = 0.1, 2.0
#: Seconds for which a look at what other workers know holds.
_LOOK_SECONDS = 0.03
#: Seconds that a request waits for a place before it is put off.
PATIENCE = 2.0
#: Seconds between two tries to get a connection that workers share, up to twice as long.
BORROW_SECONDS = 0.05
#: How long a closing is remembered after its end.
MEMORY = timedelta(minutes=10)
#: Hosts that a process remembers.
_MAX_HOSTS = 10_000


class Cause(StrEnum):
    """Why a host is closed."""

    LIMITED = "it limits requests"
    DOWN = "it does not answer"
    BUSY = "all connections that it allows are in use"
    ASKED = "it has not sent its robots.txt yet"
    PACED = "the job waits between two requests to a host"


class HostClosedError(TransientError):
    """A request was not sent, or not answered, because its host is to be left alone for a while.

    Args:
        host: name, with the port where it is not the scheme's own.
        cause: why.
        wait: how long to leave it alone.
        strikes: how often it was closed in a row.
        lasting: for how long that has gone on.
    """

    def __init__(
        self, host: str, cause: Cause, wait: timedelta, strikes: int = 0, lasting: timedelta = timedelta(0)
    ) -> None:
        super().__init__(f"{host} is left alone for {wait.total_seconds():.1f} s: {cause}", retry_after=wait)
        self.host = host
        self.cause = cause
        self.wait = wait
        self.strikes = strikes
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Closing:
    """What all workers know of a closed host.

    Attributes:
        wait: how long it is left alone, from now on; zero when it may be tried again.
        strikes: how often it was closed in a row.
        cause: of the last time.
        lasting: how long ago it was closed for the first time in that row.
    """

    wait: timedelta
    strikes: int
    cause: Cause
    lasting: timedelta = timedelta(0)


class SharedKnowledge(Protocol):
    """What workers know together. Nothing here raises: without Redis, each process goes by what it sees itself."""

    async def version(self) -> bytes | None:
        """Return what is another one after each closing of any host; None without Redis."""

    async def look(self, hosts: Sequence[str]) -> Mapping[str, Closing] | None:
        """Return those of the hosts that were closed lately; None without Redis."""

    async def close(self, host: str, cause: Cause, wait: timedelta | None, *, age: timedelta) -> Closing | None:
        """Close a host; without a wait, for longer each time. `age` is how long ago the request was sent."""

    async def open(self, host: str) -> None:
        """Forget that a host was closed."""

    async def borrow(self, host: str, limit: int) -> str | None:
        """Return the name of a connection that this process may have now, None when all are in use."""

    async def give_back(self, host: str, name: str) -> None:
        """Return a borrowed connection."""

    async def reserve(self, name: str, seconds: float, *, within: float) -> float | None:
        """Reserve a turn; see `pace.SharedTurns`."""

    async def aclose(self) -> None:
        """Close the connection to Redis."""


@dataclass(slots=True)
class _Host:
    """One host, as this process knows it.

    Attributes:
        most: requests at a time, at most.
        places: requests at a time: it shrinks when the host limits requests, and grows with its answers and with time.
        grown: when it last grew with time.
        running: requests under way that hold a place.
        slow: those that have left theirs.
        failures: requests in a row without any answer.
        open_at: when it may be asked again, by the monotonic clock.
        strikes, cause: of the last time that it was closed.
        since: when it was closed for the first time in that row.
        answered: when it last answered.
        looked: when this process last looked at what others know of it.
        version: of what workers know together, before that look; None for none.
        freed: set when a place becomes free.
    """

    most: int
    places: float
    grown: float
    running: int = 0
    slow: int = 0
    failures: int = 0
    open_at: float = 0.0
    strikes: int = 0
    cause: Cause = Cause.LIMITED
    since: float = 0.0
    answered: float | None = None
    looked: float = -1.0
    version: bytes | None = None
    freed: asyncio.Event = field(default_factory=asyncio.Event)


def key(url: URL) -> str:
    """Return the name by which a host is known: with the port where it is not the scheme's own."""
    host = (url.raw_host or "").lower().rstrip(".")
    return host if url.is_default_port() else f"{host}:{url.port}"


class Hosts:
    """The hosts of one process.

    Args:
        limits: connections of all workers together, by host; see `HostLimits`.
        shared: what workers know together; None for a process of its own.
        places: requests at a time to a host without a limit of its own.
        clock: monotonic, in seconds.
        jitter: returns a random number from 0 up to 1.

    Attributes:
        shared: as the argument.
    """

    def __init__(
        self,
        limits: Mapping[str, int] | None = None,
        shared: SharedKnowledge | None = None,
        *,
        places: int = PLACES,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._places = places
        self._limits = HostLimits(limits)
        self.shared = shared
        self._clock = clock
        self._jitter = jitter
        self._known: OrderedDict[str, _Host] = OrderedDict()
        self._looking = asyncio.Lock()
        self._wanted: set[str] = set()
        #: The version of what workers know together, and when this process last looked at it.
        self._version: bytes | None = None
        self._looked = -1.0

    def __len__(self) -> int:
        return len(self._known)

    def limit(self, host: str) -> int | None:
        """Return how many connections all workers together may have to a host; None without such a limit."""
        return self._limits.of(host)

    def places(self, host: str, *, begun: int = 0) -> int:
        """Return how many more requests this process may send to a host now; 0 while it is closed.

        Args:
            host: see `key`.
            begun: requests that are about to take a place.
        """
        one = self._host(host)
        return 0 if self._wait(one) > 0 else max(0, int(one.places) - max(one.running, begun))

    def closed(self, host: str) -> HostClosedError | None:
        """Return why and for how long a host is left alone, as far as this process knows; None when it is not."""
        one = self._host(host)
        wait = self._wait(one)
        return self._error(host, one) if wait > 0 else None

    def is_on_probation(self, host: str) -> bool:
        """Return whether a host was down and has not answered since."""
        one = self._host(host)
        return one.strikes > 0 and one.cause is Cause.DOWN

    async def look(self, hosts: Sequence[str]) -> None:
        """Take over what other workers know of some hosts."""
        if self.shared is None or not (unseen := self._unseen(hosts)):
            return
        self._wanted.update(unseen)
        # One look at a time, for all who came meanwhile: with many hosts, each request would ask Redis by itself.
        async with self._looking:
            if unseen := self._unseen(hosts):
                due = self._unseen(sorted({*self._wanted, *unseen}))
                self._wanted.clear()
                if self._clock() - self._looked >= _LOOK_SECONDS:
                    # Before the look, so that what is closed meanwhile has another one.
                    self._version, self._looked = await self.shared.version(), self._clock()
                    due = self._unseen(due)
                if due:
                    await self._look(self.shared, due)

    async def _look(self, shared: SharedKnowledge, hosts: Sequence[str]) -> None:
        version = self._version
        found = await shared.look(hosts)
        for host in hosts:
            one = self._host(host)
            one.looked, one.version = self._clock(), None if found is None else version
        for host, closing in (found or {}).items():
            self._take_over(self._host(host), closing)

    @asynccontextmanager
    async def place(self, host: str, *, patience: float = PATIENCE) -> AsyncIterator[None]:
        """Wait for a place at a host, for `patience` seconds at most, and hold it.

        Raises:
            HostClosedError: the host is to be left alone, or none becomes free soon.
        """
        await self.look([host])
        one = self._host(host)
        until = self._clock() + patience
        while not self.places(host):
            if closed := self.closed(host):
                raise closed
            one.freed.clear()
            try:
                await asyncio.wait_for(one.freed.wait(), max(0.0, until - self._clock()))
            except TimeoutError:
                raise HostClosedError(host, Cause.BUSY, timedelta(seconds=1)) from None
            await self.look([host])
        one.running += 1
        is_slow = False

        def leave() -> None:
            nonlocal is_slow
            if one.slow < max(self._places, PLACES) <= one.places:
                is_slow = True
                one.running -= 1
                one.slow += 1
                one.freed.set()

        leaving = asyncio.get_running_loop().call_later(_SLOW_SECONDS, leave)
        try:
            yield
        finally:
            leaving.cancel()
            if is_slow:
                one.slow -= 1
            else:
                one.running -= 1
            one.freed.set()

    async def answered(self, host: str) -> None:
        """Note that a host has sent what it was asked for, or at least a proper answer."""
        one = self._host(host)
        one.failures = 0
        one.answered = self._clock()
        if one.places < one.most:
            one.places = min(one.most, one.places + 1 / one.places)
        if one.strikes and self._wait(one) <= 0:
            one.strikes = 0
            if self.shared is not None:
                await self.shared.open(host)

    async def limited(self, host: str, retry_after: timedelta | None, *, sent: float) -> HostClosedError:
        """Close a host that limits requests, and return the error for the request.

        Args:
            host: that answered so.
            retry_after: how long it asks to wait, None when it does not say.
            sent: when the request was sent, by the monotonic clock: one from before the host was closed says nothing
                new.
        """
        one = self._host(host)
        metrics.count_limited(self._limits.named(host) or metrics.OTHER)
        if sent >= one.open_at:
            one.places = max(1.0, one.places / 2)
        return await self._close(host, Cause.LIMITED, retry_after, sent)

    async def failed(
        self, host: str, *, sent: float, connected: bool = False, at_once: bool = False
    ) -> HostClosedError | None:
        """Note that a host did not answer at all. After several times in a row it is closed.

        Args:
            host: that did not answer.
            sent: when the request was sent; see `limited`.
            connected: whether it took the request: if it has answered others just now, this is about one file.
            at_once: whether one time is enough, because nothing else was requested of it yet.

        Returns:
            The error for the request when the host is closed now, otherwise None.
        """
        one = self._host(host)
        if connected and one.answered is not None and self._clock() - one.answered < _PROVEN_SECONDS:
            return None
        one.failures += 1
        if one.failures >= _MAX_FAILURES or at_once or self.is_on_probation(host):
            one.places = 1.0
            factor: int = 2 ** min(one.strikes, 10)
            return await self._close(host, Cause.DOWN, min(_FIRST_DOWN * factor, _LONGEST_DOWN), sent)
        return None

    async def borrow(self, host: str, limit: int, *, patience: float) -> str:
        """Wait for one of the connections to a host that workers share, and return its name.

        Args:
            host: see `key`.
            limit: connections of all workers together.
            patience: seconds to wait.

        Raises:
            HostClosedError: none becomes free soon.
        """
        if self.shared is None:
            return ""
        until = self._clock() + patience
        while (name := await self.shared.borrow(host, limit)) is None:
            if self._clock() > until:
                raise HostClosedError(host, Cause.BUSY, timedelta(seconds=1))
            await asyncio.sleep(BORROW_SECONDS * (1 + self._jitter()))
        return name

    async def give_back(self, host: str, name: str) -> None:
        """Return a connection that `borrow` has named."""
        if self.shared is not None:
            await self.shared.give_back(host, name)

    async def aclose(self) -> None:
        """Close the connection to what is shared."""
        if self.shared is not None:
            await self.shared.aclose()

    async def _close(self, host: str, cause: Cause, wait: timedelta | None, sent: float) -> HostClosedError:
        one = self._host(host)
        is_new = sent >= one.open_at
        strikes = one.strikes + 1 if is_new else one.strikes
        padded = self._padded(wait if wait is not None else pause(strikes))
        if is_new or (wait is not None and cause is Cause.LIMITED):
            since = one.since if one.strikes else self._clock()
            self._take_over(one, Closing(padded, strikes, cause, timedelta(seconds=self._clock() - since)))
            if self.shared is not None:
                age = timedelta(seconds=max(0.0, self._clock() - sent))
                closing = await self.shared.close(host, cause, None if wait is None else padded, age=age)
                if closing is not None:
                    self._take_over(one, closing)
        if is_new:
            metrics.HOST_CLOSINGS.add(cause.name.lower())
            log.info("host closed", host=host, cause=str(cause), seconds=round(self._wait(one), 1), strikes=one.strikes)
        return self._error(host, one)

    def _error(self, host: str, one: _Host) -> HostClosedError:
        wait = timedelta(seconds=max(0.0, self._wait(one)))
        return HostClosedError(host, one.cause, wait, one.strikes, timedelta(seconds=self._clock() - one.since))

    def _unseen(self, hosts: Sequence[str]) -> list[str]:
        """Return those of the hosts of which others may know something that this process does not.

        That is none which it has looked at since the last closing of any host.
        """
        now = self._clock()
        version = self._version if now - self._looked < _LOOK_SECONDS else None
        return [
            host
            for host in hosts
            if now - (one := self._host(host)).looked >= _LOOK_SECONDS and (version is None or one.version != version)
        ]

    def _padded(self, wait: timedelta) -> timedelta:
        extra = min(wait.total_seconds() * _JITTER, _MAX_JITTER) * self._jitter()
        return wait + timedelta(seconds=extra)

    def _take_over(self, one: _Host, closing: Closing) -> None:
        until = self._clock() + closing.wait.total_seconds()
        if one.strikes == 0 and closing.strikes:
            one.cause = closing.cause
            if closing.cause is Cause.DOWN:
                one.places = 1.0
        if closing.wait > timedelta(0) and until > one.open_at:
            one.open_at, one.cause = until, closing.cause
        one.strikes = max(one.strikes, closing.strikes)
        since = self._clock() - closing.lasting.total_seconds()
        one.since = min(one.since, since) if one.strikes > 1 and one.since else since

    def _wait(self, one: _Host) -> float:
        return one.open_at - self._clock()

    def _host(self, host: str) -> _Host:
        one = self._known.get(host)
        if one is None:
            most = self.limit(host) or self._places
            one = self._known[host] = _Host(most, places=most, grown=self._clock())
            if len(self._known) > _MAX_HOSTS:
                oldest = next(
                    (name for name, known in self._known.items() if not known.running and not known.slow), None
                )
                if oldest is not None:
                    del self._known[oldest]
        else:
            self._known.move_to_end(host)
        if one.strikes and self._clock() > one.open_at + MEMORY.total_seconds():
            one.strikes, one.failures = 0, 0
        self._grow(one)
        return one

    def _grow(self, one: _Host) -> None:
        """Give a host back places that it has lost, except while it is closed or does not answer."""
        now = self._clock()
        if one.places < one.most and self._wait(one) <= 0 and not (one.strikes and one.cause is Cause.DOWN):
            one.places = min(one.most, one.places + (now - max(one.grown, one.open_at)) / _REGAIN_SECONDS)
        one.grown = now


def pause(strikes: int) -> timedelta:
    """Return how long a host is left alone that limits requests for the n-th time in a row, without a Retry-After."""
    factor: int = 2 ** min(max(strikes, 1) - 1, 20)
    return min(FIRST_PAUSE * factor, LONGEST_PAUSE)

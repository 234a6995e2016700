"""The connections of one event loop: kept ones, those of one request, and those that all workers share."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.connect import GuardedResolver, checked_sockets, guarded_connector
from pixcrawler_worker.web.descriptors import Room, room
from pixcrawler_worker.web.hosts import BORROW_SECONDS, HostClosedError, Hosts
from pixcrawler_worker.web.lenient import LenientClient
from pixcrawler_worker.web.policy import Policy
from pixcrawler_worker.web.resolver import CachingResolver

T = TypeVar("T")

# Bytes of the status line and of any single header, and number of headers. A policy for scripts can take 20 kB.
_MAX_HEADER_BYTES = 1 << 16
_MAX_HEADERS = 1000
# Hosts whose responses aiohttp cannot read, and which are asked in the other way at once.
_MAX_LENIENT_HOSTS = 1000


# Seconds for which an idle connection is kept, and hosts for which it is known that they were requested so lately.
_KEEP_SECONDS, _MAX_SEEN = 15.0, 10_000
# Seconds for which a process has a connection that all workers share, before it is another one's turn; and for which an
# idle one is kept.
_TURN_SECONDS, _IDLE_SECONDS = 10.0, 0.5
# Seconds between the end of such a connection and its return: the host has seen it end when the next one begins.
_FAREWELL_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class _Line:
    """One connection of those that all workers share.

    Attributes:
        session: with this connection only.
        name: by which it was borrowed.
        since: when, by the monotonic clock.
        free: whether no request uses it.
        used: when its last request ended.
    """

    session: aiohttp.ClientSession
    name: str
    since: float
    free: bool = False
    used: float = 0.0


@dataclass(slots=True, eq=False)
class _KeptHost:
    """A host whose connections are kept.

    Attributes:
        used: when its last request began or ended, by the monotonic clock.
        running: requests that have a connection now.
        most: of them at a time, so that it has at most as many connections, idle ones included.
    """

    used: float
    running: int = 0
    most: int = 0


@dataclass(slots=True)
class Pool:
    """What belongs to one event loop: the connections, and the queue in front of them.

    Attributes:
        hosts: places and limits of hosts.
        room: connections that this process may have.
        kept: serves several requests with a connection.
        single: serves one request with a connection.
        lenient: reads what aiohttp's parser rejects; there is none behind a proxy.
        lenient_hosts: hosts whose responses aiohttp cannot read.
    """

    hosts: Hosts
    room: Room
    kept: aiohttp.ClientSession
    single: aiohttp.ClientSession
    lenient: LenientClient | None
    lenient_hosts: dict[str, None]
    _open_line: Callable[[], aiohttp.ClientSession]
    _connections: asyncio.Semaphore
    _lines: dict[str, list[_Line]] = field(default_factory=dict)
    _kept_hosts: dict[str, _KeptHost] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @classmethod
    def open(
        cls, policy: Policy, guard: Guard, hosts: Hosts, *, names: CachingResolver, tls: ssl.SSLContext | None
    ) -> "Pool":
        """Return a pool for the running loop. Nothing connects before the first request."""
        # With a proxy there is one address to connect to, and the operator chose it.
        resolver = GuardedResolver(guard, names)
        lenient = (
            None
            if policy.egress_proxy
            else LenientClient(
                resolver=resolver,
                socket_factory=checked_sockets(guard),
                tls=tls,
                connect_timeout=policy.connect_timeout,
                idle_timeout=policy.idle_timeout,
            )
        )

        def session(*, keep: bool) -> aiohttp.ClientSession:
            connector = (
                aiohttp.TCPConnector(limit=0, force_close=not keep, ssl=tls or True)
                if policy.egress_proxy
                else guarded_connector(guard, resolver=resolver, tls=tls, keep=keep)
            )
            return _session(policy, connector)

        available = room()
        return cls(
            hosts=hosts,
            room=available,
            kept=session(keep=True),
            single=session(keep=False),
            lenient=lenient,
            lenient_hosts={},
            _open_line=lambda: session(keep=True),
            _connections=asyncio.Semaphore(available.open),
        )

    def read_leniently(self, host: str) -> None:
        """Note that responses of a host cannot be read by aiohttp."""
        if len(self.lenient_hosts) >= _MAX_LENIENT_HOSTS:
            del self.lenient_hosts[next(iter(self.lenient_hosts))]
        self.lenient_hosts[host] = None

    @asynccontextmanager
    async def connection(self, host: str, *, keep: bool, patience: float) -> AsyncIterator[aiohttp.ClientSession]:
        """Wait for a place at a host and a connection, and yield what sends a request over it.

        A host comes first, so that a busy one never holds connections that it cannot use.

        Args:
            host: see `hosts.key`.
            keep: whether more requests to the host will follow.
            patience: seconds to wait for a place.

        Raises:
            HostClosedError: the host is to be left alone, or none becomes free soon.
        """
        async with self.hosts.place(host, patience=patience), self._connections:
            if limit := self.hosts.limit(host):
                line = await self._line(host, limit, patience)
                try:
                    yield line.session
                finally:
                    self._put_down(host, line)
            elif kept := self._keep(host, keep=keep):
                try:
                    yield self.kept
                finally:
                    kept.running -= 1
                    kept.used = time.monotonic()
            else:
                yield self.single

    async def rest(self) -> None:
        """Give back the connections that workers share: this process has no use for them now."""
        free = [(host, line) for host, lines in self._lines.items() for line in lines if line.free]
        await asyncio.gather(*(self._retire(host, line) for host, line in free), *self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Close every connection."""
        lines = [(host, line) for host, lines in self._lines.items() for line in lines]
        await asyncio.gather(*(self._retire(host, line) for host, line in lines), *self._tasks, return_exceptions=True)
        await self.kept.close()
        await self.single.close()

    def _keep(self, host: str, *, keep: bool) -> _KeptHost | None:
        """Reserve a connection that may stay open after its request; None when there is no use or no room for it.

        Other chunks may know of more requests to a host: one that comes a second time comes again.
        """
        now = time.monotonic()
        if not keep and now - self._seen.get(host, -_KEEP_SECONDS) >= _KEEP_SECONDS:
            if len(self._seen) >= _MAX_SEEN:
                self._seen = {name: at for name, at in self._seen.items() if now - at < _KEEP_SECONDS}
                self._seen = self._seen if len(self._seen) < _MAX_SEEN else {}
            self._seen[host] = now
            return None
        self._seen[host] = now
        known = self._kept_hosts.get(host) or _KeptHost(now)
        if known.running == known.most:
            if not self._has_room():
                self._kept_hosts = {
                    name: one for name, one in self._kept_hosts.items() if one.running or now - one.used < _KEEP_SECONDS
                }
                if not self._has_room():
                    return None
            known.most += 1
        known.running += 1
        known.used = now
        self._kept_hosts[host] = known
        return known

    def _has_room(self) -> bool:
        return sum(one.most for one in self._kept_hosts.values()) < self.room.idle

    async def _line(self, host: str, limit: int, patience: float) -> _Line:
        """Return a connection to a host with a limit; the place that its caller holds says that there may be one."""
        while line := next((line for line in self._lines.get(host, []) if line.free), None):
            if time.monotonic() - line.since < _TURN_SECONDS:
                line.free = False
                return line
            # To its end even if this request is cancelled; and then the others, who look for a connection, are first.
            await asyncio.shield(self._aside(self._retire(host, line)))
            await asyncio.sleep(3 * BORROW_SECONDS)
        borrowing = self._aside(self.hosts.borrow(host, limit, patience=patience))
        try:
            name = await asyncio.shield(borrowing)
        except asyncio.CancelledError:
            self._aside(self._give_back(host, borrowing))
            raise
        line = _Line(self._open_line(), name, time.monotonic())
        self._lines.setdefault(host, []).append(line)
        return line

    async def _give_back(self, host: str, borrowing: asyncio.Task[str]) -> None:
        with contextlib.suppress(HostClosedError):
            await self.hosts.give_back(host, await borrowing)

    def _aside(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that is not cancelled with the request that needs it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _put_down(self, host: str, line: _Line) -> None:
        line.free, line.used = True, time.monotonic()
        asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._retire_if_idle, host, line, line.used)

    def _retire_if_idle(self, host: str, line: _Line, used: float) -> None:
        if line.free and line.used == used and line in self._lines.get(host, []):
            self._aside(self._retire(host, line))

    async def _retire(self, host: str, line: _Line) -> None:
        """Close a connection, and give it back once the host has seen its end."""
        lines = self._lines.get(host, [])
        if line not in lines:
            return
        lines.remove(line)
        if not lines:
            del self._lines[host]
        await line.session.close()
        await asyncio.sleep(_FAREWELL_SECONDS)
        await self.hosts.give_back(host, line.name)


def _session(policy: Policy, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        proxy=policy.egress_proxy,
        headers={"User-Agent": policy.user_agent, "Accept-Encoding": "identity"},
        # The one deadline over everything is the downloader's; a timeout per hop would start again with each.
        timeout=aiohttp.ClientTimeout(
            total=None,
            sock_connect=policy.connect_timeout.total_seconds(),
            sock_read=policy.idle_timeout.total_seconds(),
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
    )

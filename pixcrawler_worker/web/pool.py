"""The connections of one event loop, and the queues in front of them."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import aiohttp

from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.connect import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_HOST,
    GuardedResolver,
    checked_sockets,
    connections_to,
    guarded_connector,
)
from pixcrawler_worker.web.lenient import LenientClient
from pixcrawler_worker.web.policy import Policy
from pixcrawler_worker.web.resolver import CachingResolver

# Bytes of the status line and of any single header, and number of headers. A policy for scripts can take 20 kB.
_MAX_HEADER_BYTES = 1 << 16
_MAX_HEADERS = 1000
# Hosts whose responses aiohttp cannot read, and which are asked in the other way at once.
_MAX_LENIENT_HOSTS = 1000


@dataclass(frozen=True, slots=True)
class Pool:
    """What belongs to one event loop: the connections, and the queues in front of them.

    `lenient` reads what aiohttp's parser rejects; there is none behind a proxy.

    The connector has the same limits, but waiting in its queue counts against the deadline; here forty images of a
    busy host wait without becoming forty timeouts.
    """

    session: aiohttp.ClientSession
    lenient: LenientClient | None
    lenient_hosts: dict[str, None] = field(default_factory=dict)
    connections: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS))
    hosts: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    @classmethod
    def open(cls, policy: Policy, guard: Guard, *, names: CachingResolver, tls: ssl.SSLContext | None) -> "Pool":
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
        connector = (
            aiohttp.TCPConnector(limit=MAX_CONNECTIONS, limit_per_host=MAX_CONNECTIONS_PER_HOST, ssl=tls or True)
            if policy.egress_proxy
            else guarded_connector(guard, resolver=resolver, tls=tls)
        )
        session = aiohttp.ClientSession(
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
        return cls(session, lenient)

    def read_leniently(self, host: str) -> None:
        """Note that responses of a host cannot be read by aiohttp."""
        if len(self.lenient_hosts) >= _MAX_LENIENT_HOSTS:
            del self.lenient_hosts[next(iter(self.lenient_hosts))]
        self.lenient_hosts[host] = None

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Wait for the host first, so that a busy host never holds connections that it cannot use."""
        of_host = self.hosts.setdefault(host, asyncio.Semaphore(connections_to(host)))
        async with of_host, self.connections:
            yield

    async def aclose(self) -> None:
        """Close every connection."""
        await self.session.close()

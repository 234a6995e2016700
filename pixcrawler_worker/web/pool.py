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
    Lookup,
    connections_to,
    guarded_connector,
)
from pixcrawler_worker.web.policy import Policy

# Bytes of the status line and of any single header, and number of headers. All common servers stay far below.
_MAX_HEADER_BYTES = 8190
_MAX_HEADERS = 128


@dataclass(frozen=True, slots=True)
class Pool:
    """What belongs to one event loop: the connections, and the queues in front of them.

    The connector has the same limits, but waiting in its queue counts against the deadline; here forty images of a
    busy host wait without becoming forty timeouts.
    """

    session: aiohttp.ClientSession
    connections: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS))
    hosts: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    @classmethod
    def open(cls, policy: Policy, guard: Guard, *, lookup: Lookup, tls: ssl.SSLContext | None) -> "Pool":
        """Return a pool for the running loop. Nothing connects before the first request."""
        # With a proxy there is one address to connect to, and the operator chose it.
        connector = (
            aiohttp.TCPConnector(limit=MAX_CONNECTIONS, limit_per_host=MAX_CONNECTIONS_PER_HOST, ssl=tls or True)
            if policy.egress_proxy
            else guarded_connector(guard, lookup=lookup, lookup_timeout=policy.idle_timeout, tls=tls)
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
        return cls(session)

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Wait for the host first, so that a busy host never holds connections that it cannot use."""
        of_host = self.hosts.setdefault(host, asyncio.Semaphore(connections_to(host)))
        async with of_host, self.connections:
            yield

    async def aclose(self) -> None:
        """Close every connection."""
        await self.session.close()

"""Connections to addresses that the guard allows, and to no others."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pixcrawler_worker.web.addresses import Guard

#: Takes a name, gives its addresses, raises OSError; called in a thread.
Lookup = Callable[[str], list[str]]
#: An address as `getaddrinfo` returns it, and what makes a socket for it.
AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
SocketFactory = Callable[[AddressInfo], socket.socket]

# For one process: enough to hide the latency of hosts, few enough for 64 bodies at once in a small machine.
MAX_CONNECTIONS = 64
# A browser opens 6; a little more, since a response here is always one small file.
MAX_CONNECTIONS_PER_HOST = 8
# Hosts that publish a smaller number: https://wikitech.wikimedia.org/wiki/Robot_policy.
_FEWER = {"upload.wikimedia.org": 2}

# A name server that does not answer holds its thread for half a minute; this many may hang before others wait.
_LOOKUP_THREADS = 32


def connections_to(host: str) -> int:
    """Return how many connections to a host one process may have at once."""
    return _FEWER.get(host, MAX_CONNECTIONS_PER_HOST)


def guarded_connector(guard: Guard, *, resolver: "GuardedResolver", tls: ssl.SSLContext | None) -> aiohttp.TCPConnector:
    """Make the connector for the running loop: every address of a name is checked, and again at its connect.

    The socket goes to the checked address while SNI and certificate stay on the name, so a name that changes
    between check and use (DNS rebinding) gains nothing.
    """
    return aiohttp.TCPConnector(
        limit=MAX_CONNECTIONS,
        limit_per_host=MAX_CONNECTIONS_PER_HOST,
        resolver=resolver,
        socket_factory=checked_sockets(guard),
        ssl=tls or True,
    )


def checked_sockets(guard: Guard) -> SocketFactory:
    """Return what makes the socket for an address, after it was checked."""

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, (host, port, *_) = info
        guard.check(ip_address(str(host)), int(str(port)))
        return socket.socket(family, kind, protocol)

    return make


def system_lookup(host: str) -> list[str]:
    """Resolve a name as the system does, in the families this machine speaks."""
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))


class GuardedResolver(AbstractResolver):
    """Resolves names in threads, and rejects a name with any forbidden address."""

    def __init__(self, guard: Guard, lookup: Lookup, timeout: timedelta) -> None:
        self._guard = guard
        self._lookup = lookup
        self._timeout = timeout.total_seconds()
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            OSError: when it has none, or one that is not allowed (`DeniedError`).
            TimeoutError: when the name server is silent.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout):
            answers = await loop.run_in_executor(self._threads, self._lookup, host)
        if not answers:
            raise OSError("the name has no address")
        self._guard.check_resolved(host, answers, port)
        flags = socket.AI_NUMERICHOST
        return [
            ResolveResult(hostname=host, host=answer, port=port, family=family, proto=0, flags=flags)
            for answer in answers
        ]

    async def close(self) -> None:
        """Nothing to close: the threads end with the last reference to their pool, when their lookups do."""

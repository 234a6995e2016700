"""Connections to addresses that the guard allows, and to no others."""

import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.helpers import is_ip_address

from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.resolver import CachingResolver

#: An address as `getaddrinfo` returns it, and what makes a socket for it.
AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
SocketFactory = Callable[[AddressInfo], socket.socket]


def guarded_connector(
    guard: Guard, *, resolver: AbstractResolver, tls: ssl.SSLContext | None, keep: bool
) -> aiohttp.TCPConnector:
    """Make a connector for the running loop: every address of a name is checked, and again at its connect.

    The socket goes to the checked address while SNI and certificate stay on the name, so a name that changes
    between check and use (DNS rebinding) gains nothing. Without `keep`, each connection serves one request.
    """
    return aiohttp.TCPConnector(
        limit=0,  # requests wait in front of it, where that does not count against their deadline
        force_close=not keep,
        resolver=resolver,
        use_dns_cache=False,  # the resolver has one, for all connectors of the process
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


class GuardedResolver(AbstractResolver):
    """Rejects a name with any forbidden address.

    Args:
        guard: the rules.
        names: looks the names up.
    """

    def __init__(self, guard: Guard, names: CachingResolver) -> None:
        self._guard = guard
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            OSError: when it has none, or one that is not allowed (`DeniedError`).
            TimeoutError: when the name server is silent.
            LookupsBusyError: when lookups leave no thread for it.
        """
        answers = [host] if is_ip_address(host) else await self._names.addresses(host)
        self._guard.check_resolved(host, answers, port)
        flags = socket.AI_NUMERICHOST
        return [
            ResolveResult(hostname=host, host=answer, port=port, family=family, proto=0, flags=flags)
            for answer in answers
        ]

    async def close(self) -> None:
        """Nothing to close: what was looked up is the process's."""

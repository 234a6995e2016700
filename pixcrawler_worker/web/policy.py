"""What an operator allows the worker to request, and how long that may take."""

from dataclasses import dataclass
from datetime import timedelta

from pixcrawler_worker.web.addresses import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an operator may allow.

    Attributes:
        user_agent: the User-Agent that is sent; honest, with a way to reach the operator.
        max_bytes: largest body that is accepted.
        max_bytes_in_flight: bytes of all bodies that a process holds at a time; each body may exceed it alone.
        deadline: for one request in all: name, connect, TLS, headers, body and every redirect.
        lookup_timeout: for the addresses of a name. A system asks again after 5 s, because packets get lost.
        connect_timeout: for one TCP connection with its TLS handshake.
        idle_timeout: the longest wait for the next bytes of a host.
        max_redirects: redirects that are followed.
        ports: ports that may be connected to.
        allowed_networks: for development: networks that are allowed although they are not public, and every port
            there; names like `localhost` may then be resolved, and what they resolve to is checked.
        egress_proxy: URL of a proxy through which everything goes. The proxy then resolves the names, so it has to
            keep them out of private networks itself; literal addresses are still checked here, and
            `allowed_networks` has no effect.
    """

    user_agent: str
    max_bytes: int = 20 * 1024 * 1024
    max_bytes_in_flight: int = 64 * 1024 * 1024
    deadline: timedelta = timedelta(seconds=30)
    lookup_timeout: timedelta = timedelta(seconds=7)
    connect_timeout: timedelta = timedelta(seconds=5)
    idle_timeout: timedelta = timedelta(seconds=10)
    max_redirects: int = 10
    ports: frozenset[int] = frozenset({80, 443})
    allowed_networks: tuple[Network, ...] = ()
    egress_proxy: str | None = None

"""Fetch one URL from a stranger: guarded, bounded in time and bytes, and with a reason for everything that fails."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web.addresses import DeniedError, Guard, Network
from pixcrawler_worker.web.connect import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_HOST,
    Lookup,
    connections_to,
    guarded_connector,
    system_lookup,
)

# Bytes of the status line and of any single header, and number of headers. All common servers stay far below.
_MAX_HEADER_BYTES = 8190
_MAX_HEADERS = 128

# A year, in seconds: whoever asks for more may as well have asked for this.
_LONGEST_PAUSE = 365 * 86_400

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_STATUS_REASONS = {
    401: Reason.FORBIDDEN,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    410: Reason.NOT_FOUND,
    429: Reason.RATE_LIMITED,
    451: Reason.FORBIDDEN,
}

# The first class that fits tells the reason; so the special ones stand before the general ones.
_ERROR_REASONS: tuple[tuple[type[aiohttp.ClientError], Reason], ...] = (
    (aiohttp.ClientConnectorDNSError, Reason.UNRESOLVED),
    (aiohttp.ClientConnectorCertificateError, Reason.TLS_FAILED),
    (aiohttp.ClientSSLError, Reason.TLS_FAILED),
    (aiohttp.ClientConnectorError, Reason.CONNECT_FAILED),
    (aiohttp.ClientHttpProxyError, Reason.CONNECT_FAILED),
    (aiohttp.ClientPayloadError, Reason.TRUNCATED),
    (aiohttp.ClientConnectionError, Reason.RESET),
    (aiohttp.ClientError, Reason.BAD_RESPONSE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an operator may allow.

    Attributes:
        user_agent: who we say we are; honest, with a way to reach the operator.
        max_bytes: largest body that is taken.
        deadline: for one fetch in all: name, connect, TLS, headers, body and every redirect.
        connect_timeout: for one TCP connection with its TLS handshake.
        idle_timeout: the longest silence, of a host or of a name server.
        max_redirects: how many are followed.
        ports: ports that may be connected to.
        allowed_networks: for development: networks that are allowed although they are not public, and every port
            there; names like `localhost` may then be resolved, and are judged by what they resolve to.
        egress_proxy: URL of a proxy through which everything goes. The proxy then resolves the names, so it has to
            keep them out of private networks itself; literal addresses are still judged here, and
            `allowed_networks` has no effect.
    """

    user_agent: str
    max_bytes: int = 20 * 1024 * 1024
    deadline: timedelta = timedelta(seconds=30)
    connect_timeout: timedelta = timedelta(seconds=5)
    idle_timeout: timedelta = timedelta(seconds=10)
    max_redirects: int = 5
    ports: frozenset[int] = frozenset({80, 443})
    allowed_networks: tuple[Network, ...] = ()
    egress_proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer.

    Attributes:
        url: the URL that answered, after all redirects.
        status: of that answer.
        content_type: media type as the host claims it, in lower case, without parameters; proof of nothing.
        body: exactly as sent.
        retry_after: how long the host asks to be left alone; None when it does not say.
    """

    url: str
    status: int
    content_type: str | None
    body: bytes
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked for, and which answers count."""

    accept: str
    any_status: bool


_FILE = _Wish(accept="image/*,*/*;q=0.8", any_status=False)
_API = _Wish(accept="application/json", any_status=True)


class Downloader:
    """Fetches URLs for one event loop at a time; connections are kept until `aclose`.

    Args:
        policy: what is allowed.
        lookup: resolves a name; the system's resolver unless told.
        tls: trusted certificates; the system's unless told.
    """

    def __init__(self, policy: Policy, *, lookup: Lookup | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        self._lookup = lookup or system_lookup
        self._tls = tls
        networks = () if policy.egress_proxy else policy.allowed_networks
        self._guard = Guard(ports=policy.ports, allowed_networks=networks)
        self._pool: _Pool | None = None

    async def fetch(self, url: str, *, max_bytes: int | None = None) -> Fetched:
        """Fetch one file, following redirects. Many may run at once; those that must queue do so off the clock.

        Args:
            url: http or https.
            max_bytes: a cap for this body, below the policy's.

        Returns:
            An answer with a status from 200 to 299 and at least one byte.

        Raises:
            RejectedError: anything that went wrong with this URL; the detail names host and path, never the query.
            TransientError: the operator's own proxy cannot be reached.
        """
        answer = await self._get(url, max_bytes, _FILE)
        if not answer.body:
            raise RejectedError(Reason.EMPTY, f"{_shown(URL(answer.url))} answered {answer.status} without a body")
        return answer

    async def ask(self, url: str, *, max_bytes: int | None = None) -> Fetched:
        """Ask an API, whose errors say more than their status: every status is an answer. Otherwise as `fetch`."""
        return await self._get(url, max_bytes, _API)

    async def aclose(self) -> None:
        """Close every connection. A later `fetch` opens new ones."""
        pool, self._pool = self._pool, None
        if pool:
            await pool.session.close()

    async def _get(self, url: str, max_bytes: int | None, wish: "_Wish") -> Fetched:
        limit = self._policy.max_bytes if max_bytes is None else min(max_bytes, self._policy.max_bytes)
        target = self._guard.target(url)
        pool = self._pool = self._pool or self._open()
        async with pool.turn(target.host or ""):
            try:
                async with asyncio.timeout(self._policy.deadline.total_seconds()):
                    return await self._follow(pool.session, target, limit, wish)
            except TimeoutError as error:
                raise RejectedError(Reason.TIMEOUT, f"{_shown(target)} took too long") from error
            except aiohttp.ClientProxyConnectionError as error:
                raise TransientError("the egress proxy cannot be reached") from error
            except aiohttp.ClientConnectorError as error:
                raise RejectedError(_reason(error), f"{_shown(target)}: {error.__cause__}") from error
            except aiohttp.ClientError as error:
                # Its text may hold the URL with its query, or whatever the host sent: it is not kept as the cause.
                raise RejectedError(_reason(error), f"{_shown(target)}: {type(error).__name__}") from None

    async def _follow(self, session: aiohttp.ClientSession, target: URL, limit: int, wish: "_Wish") -> Fetched:
        for _ in range(self._policy.max_redirects + 1):
            asking = session.get(target, headers={"Accept": wish.accept}, allow_redirects=False)
            async with asking as response, _hanging_up(response):
                if response.status not in _REDIRECTS:
                    _refuse_by_head(response, _shown(target), limit, any_status=wish.any_status)
                    body = await _body(response, _shown(target), limit)
                    return Fetched(str(target), response.status, _media_type(response), body, _retry_after(response))
                target = self._next(target, response)
        raise RejectedError(Reason.TOO_MANY_REDIRECTS, f"{_shown(target)} is one too many")

    def _next(self, target: URL, response: aiohttp.ClientResponse) -> URL:
        """Return where a redirect leads, judged like any other URL."""
        location = response.headers.get("Location")
        if not location:
            raise RejectedError(Reason.BAD_RESPONSE, f"{_shown(target)} redirects to nowhere")
        try:
            following = urljoin(str(target), location)
        except ValueError:
            raise RejectedError(Reason.BAD_URL, f"{_shown(target)} redirects to no URL") from None
        try:
            following_target = self._guard.target(following)
        except RejectedError as error:
            raise RejectedError(error.reason, f"{_shown(target)} redirects: {error}") from error
        if target.scheme == "https" and following_target.scheme == "http":
            raise RejectedError(Reason.FORBIDDEN_ADDRESS, f"{_shown(target)} redirects from https to http")
        return following_target

    def _open(self) -> "_Pool":
        policy = self._policy
        # With a proxy there is one address to connect to, and the operator chose it.
        connector = (
            aiohttp.TCPConnector(limit=MAX_CONNECTIONS, limit_per_host=MAX_CONNECTIONS_PER_HOST, ssl=self._tls or True)
            if policy.egress_proxy
            else guarded_connector(self._guard, lookup=self._lookup, lookup_timeout=policy.idle_timeout, tls=self._tls)
        )
        session = aiohttp.ClientSession(
            connector=connector,
            proxy=policy.egress_proxy,
            headers={"User-Agent": policy.user_agent, "Accept-Encoding": "identity"},
            # The one deadline over everything is fetch()'s own; a timeout per hop would start anew with each.
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
        return _Pool(session)


@dataclass(frozen=True, slots=True)
class _Pool:
    """What belongs to one event loop: the connections, and the queues in front of them.

    The connector has the same limits, but its queue runs on the deadline of whoever waits; here a busy host's
    forty images wait without becoming forty timeouts.
    """

    session: aiohttp.ClientSession
    everyone: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS))
    hosts: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Wait for this host's turn first, so that one busy host never holds places it cannot use."""
        neighbors = self.hosts.setdefault(host, asyncio.Semaphore(connections_to(host)))
        async with neighbors, self.everyone:
            yield


@asynccontextmanager
async def _hanging_up(response: aiohttp.ClientResponse) -> AsyncIterator[None]:
    """Abort the connection if its answer was not taken to the end: a redirect's body, an error page, a flood.

    Left to itself aiohttp closes it, which over TLS means waiting up to 30 s for a stranger to agree.
    """
    try:
        yield
    finally:
        # A connection whose answer arrived in full is back among the others already, and not the response's any more.
        if response.connection is not None and response.connection.transport is not None:
            response.connection.transport.abort()


def _refuse_by_head(response: aiohttp.ClientResponse, shown: str, limit: int, *, any_status: bool) -> None:
    """Refuse whatever can be refused with the body unread."""
    status = response.status
    if not any_status and status not in range(200, 300):
        reason = Reason.SERVER_ERROR if status in range(500, 600) else Reason.HTTP_STATUS
        raise RejectedError(_STATUS_REASONS.get(status, reason), f"{shown} answered {status}")
    # Identity was asked for. 484 bytes of gzip within gzip can become 200 MB.
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise RejectedError(Reason.BAD_RESPONSE, f"{shown} sends an encoded body")
    if (response.content_length or 0) > limit:
        raise RejectedError(Reason.TOO_MANY_BYTES, f"{shown} announces more than {limit} bytes")


async def _body(response: aiohttp.ClientResponse, shown: str, limit: int) -> bytes:
    body = bytearray()  # not a list of chunks: a host that sends two bytes at a time would fill it with overhead
    try:
        while chunk := await response.content.readany():
            body += chunk
            if len(body) > limit:
                raise RejectedError(Reason.TOO_MANY_BYTES, f"{shown} sends more than {limit} bytes")
    except aiohttp.ClientPayloadError as error:
        if _was_reset(response):
            raise RejectedError(Reason.RESET, f"{shown} reset the connection after {len(body)} bytes") from error
        raise
    return bytes(body)


def _was_reset(response: aiohttp.ClientResponse) -> bool:
    """Tell a connection that died from a body that ended early: aiohttp's error is one, its connection knows."""
    protocol = response.connection.protocol if response.connection is not None else None
    return protocol is not None and isinstance(protocol.exception(), aiohttp.ClientOSError)


def _retry_after(response: aiohttp.ClientResponse) -> timedelta | None:
    """Read Retry-After, which is a number of seconds or a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return timedelta(seconds=min(int(text[:9]), _LONGEST_PAUSE))
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (until - datetime.now(UTC)).total_seconds() if until.tzinfo else 0
    return timedelta(seconds=min(max(seconds, 0), _LONGEST_PAUSE))


def _media_type(response: aiohttp.ClientResponse) -> str | None:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower() or None


def _reason(error: aiohttp.ClientError) -> Reason:
    if isinstance(error.__cause__, DeniedError):
        return Reason.FORBIDDEN_ADDRESS
    return next(reason for kind, reason in _ERROR_REASONS if isinstance(error, kind))


def _shown(url: URL) -> str:
    """Write a URL for a log: the query may hold a signature."""
    return str(url.with_query(None))

"""Requests to untrusted hosts: guarded, bounded in time and bytes, and with a reason for everything that fails."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import urljoin

import aiohttp
from aiohttp import CookieJar
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web import descriptors, encodings, failures, hosts, opt_outs, retry_after
from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.bodies import Bodies, Body
from pixcrawler_worker.web.failures import without_query
from pixcrawler_worker.web.hosts import Hosts
from pixcrawler_worker.web.policy import Policy
from pixcrawler_worker.web.pool import Pool
from pixcrawler_worker.web.resolver import CachingResolver, Lookup, LookupsBusyError, system_lookup
from pixcrawler_worker.web.robots import Robots, product_token
from pixcrawler_worker.web.robots_cache import SharedRobots

_SEE_OTHER = 303
_REDIRECTS = frozenset({301, 302, _SEE_OTHER, 307, 308})
#: Redirects after which a POST becomes a GET, as in browsers (RFC 9110, 15.4).
_POST_BECOMES_GET = frozenset({301, 302, _SEE_OTHER})
_TOO_MANY_REQUESTS, _UNAVAILABLE = 429, 503
#: Seconds that a request to an API, or one that was redirected, waits for a place at its host.
_LONG_PATIENCE = 30.0
#: A body that is slower than so many bytes a second, after so many seconds, does not arrive in time.
_MIN_SPEED, _SPEED_SECONDS = 1000, 10.0
#: Seconds that a host which did not answer has for each part of its next response.
_PROBATION_SECONDS = 3.0
#: The same for a host's first response, to the request for its robots.txt.
_FIRST_SECONDS = 6.0
#: Reasons of requests to which a host did not respond at all.
_SILENCE = frozenset({Reason.CONNECT_FAILED, Reason.RESET, Reason.TIMEOUT})
#: Headers of a request that must not follow a redirect to another origin.
_CREDENTIALS = ("Authorization", "Cookie")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A response.

    Attributes:
        url: the URL that answered, after all redirects.
        status: of the response.
        content_type: media type as the host claims it, in lower case, without parameters; proof of nothing.
        body: exactly as sent.
    """

    url: str
    status: int
    content_type: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response of an API, whatever its status.

    Attributes:
        url: the URL that answered, after all redirects.
        status: of the response.
        headers: of the response, in their order, as bytes: hosts send more than ASCII.
        body: exactly as sent.
    """

    url: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response that was read; of a redirect, only its head."""

    status: int
    headers: MultiMapping[str]
    raw_headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outgoing:
    """A request on its way, changed by redirects.

    Attributes:
        taken: what its body takes of the budget.
        keep: more requests to the host follow.
        any_status: errors of the host are responses like others.
        raw: the response's headers are read as bytes, which only aiohttp does.
        cut: of a longer body the first `max_bytes` are enough.
        is_first: it is the first request to a host: without an answer, the host counts as down.
        before_hop: called with each URL that a redirect leads to; what it raises ends the request.
        opt_outs_of: product token of the crawler to which the headers of each response may deny its use; None for none.
    """

    method: str
    target: URL
    headers: CIMultiDict[str]
    content: bytes
    max_bytes: int
    taken: Body
    keep: bool = True
    any_status: bool = False
    raw: bool = False
    cut: bool = False
    is_first: bool = False
    before_hop: Callable[[URL], Awaitable[None]] | None = None
    opt_outs_of: str | None = None


@dataclass(slots=True)
class _ExchangeProgress:
    """How far an exchange has come, and what bounds it.

    Attributes:
        deadline: of the exchange.
        has_head: whether the host has sent the head of a response.
        on_probation: whether the host has to answer soon, because it did not before.
    """

    deadline: asyncio.Timeout
    on_probation: bool = False
    has_head: bool = False

    async def take(self, taken: Body, count: int) -> float:
        """Wait until the body may have more bytes, at no cost to the deadline; return the seconds that this took."""
        begun, when = time.monotonic(), self.deadline.when()
        self.deadline.reschedule(None)
        await taken.take(count)
        waited = time.monotonic() - begun
        if when is not None:
            self.deadline.reschedule(when + waited)
        return waited


class _BusyError(Exception):
    """The host asks to be left alone; `wait` is how long, None when it does not say."""

    def __init__(self, status: int, headers: MultiMapping[str]) -> None:
        super().__init__(str(status))
        self.wait = retry_after.parse(headers.get("Retry-After", "")) or None


class Downloader:
    """Sends requests for one event loop at a time; connections are kept until `aclose`.

    Args:
        policy: what is allowed.
        lookup: resolves a name; the system's resolver by default.
        tls: trusted certificates; the system's by default.
        hosts: how hosts are treated; without it, this process knows only what it sees itself.
        shared_robots: the robots.txt files that other workers have read; None when there are no other workers.

    Attributes:
        hosts: how hosts are treated.
        bodies: bytes of all bodies in flight.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
        hosts: Hosts | None = None,
        shared_robots: SharedRobots | None = None,
    ) -> None:
        self.hosts = Hosts() if hosts is None else hosts
        self.bodies = Bodies(policy.max_bytes_in_flight)
        self._policy = policy
        self._names = CachingResolver(lookup or system_lookup, patience=policy.lookup_timeout)
        self._tls = tls
        networks = () if policy.egress_proxy else policy.allowed_networks
        self._guard = Guard(ports=policy.ports, allowed_networks=networks)
        self._pool: Pool | None = None
        self._agent = product_token(policy.user_agent)
        self._robots = Robots(self._read_robots, agent=self._agent, shared=shared_robots)

    def host(self, url: str) -> str | None:
        """Return the name by which `hosts` knows the host of a URL; None when the URL may not be requested."""
        try:
            return hosts.key(self._guard.target(url))
        except RejectedError:
            return None

    async def fetch(  # noqa: PLR0913 - what to respect, and what the body may take
        self,
        url: str,
        *,
        max_bytes: int | None = None,
        keep: bool = True,
        taken: Body | None = None,
        respect_robots: bool = False,
        respect_opt_outs: bool = False,
    ) -> Fetched:
        """Download one file, following redirects. Many may run at once; time in a queue does not count.

        Args:
            url: http or https.
            max_bytes: a cap for this body, below the policy's.
            keep: whether more requests to the host will follow, so that its connection is worth keeping.
            taken: what the body takes of the budget for bodies in flight, until its context ends; by default it is
                returned with the body.
            respect_robots: do not request what the robots.txt of its host disallows, by redirect neither.
            respect_opt_outs: do not read what is sent with a header by which its owner opts out (`web/opt_outs.py`).

        Returns:
            A response with a status from 200 to 299 and at least one byte.

        Raises:
            RejectedError: anything that went wrong with this URL; the detail names host and path, never the query.
            HostClosedError: the host is to be left alone for a while; nothing is said about the URL.
            TransientError: the operator's own proxy cannot be reached, or this process is out of connections.
        """
        limit = self._policy.max_bytes if max_bytes is None else min(max_bytes, self._policy.max_bytes)
        with contextlib.nullcontext(taken) if taken else self.bodies.body() as held:
            outgoing = _Outgoing(
                method="GET",
                target=self._guard.target(url),
                headers=CIMultiDict({"Accept": "image/*,*/*;q=0.8"}),
                content=b"",
                max_bytes=limit,
                keep=keep,
                taken=held,
                before_hop=self._robots.check if respect_robots else None,
                opt_outs_of=self._agent if respect_opt_outs else None,
            )
            if outgoing.before_hop:
                await outgoing.before_hop(outgoing.target)
            target, answer = await self._send(outgoing)
        if not answer.body:
            raise RejectedError(Reason.EMPTY, f"{without_query(target)} answered {answer.status} without a body")
        return Fetched(str(target), answer.status, _media_type(answer.headers), answer.body)

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> ApiResponse:
        """Send a request to an API, whose errors say more than their status. Otherwise as `fetch`.

        Args:
            method: GET, POST, ...
            url: http or https.
            headers: of the request; User-Agent and Accept-Encoding are the policy's.
            content: body of the request.
        """
        with self.bodies.body() as taken:
            outgoing = _Outgoing(
                method=method,
                target=self._guard.target(url),
                headers=CIMultiDict(headers or {}),
                content=content,
                max_bytes=self._policy.max_bytes,
                any_status=True,
                raw=True,
                taken=taken,
            )
            target, answer = await self._send(outgoing)
        return ApiResponse(str(target), answer.status, answer.raw_headers, answer.body)

    async def rest(self) -> None:
        """Give back the connections that workers share, because nothing is downloaded now."""
        if self._pool:
            await self._pool.rest()

    async def aclose(self) -> None:
        """Close every connection. A later request opens new ones."""
        pool, self._pool = self._pool, None
        if pool:
            await pool.aclose()
        await self.hosts.aclose()
        await self._robots.aclose()

    async def _read_robots(
        self, url: str, *, max_bytes: int, before_hop: Callable[[URL], Awaitable[None]]
    ) -> tuple[int, bytes]:
        with self.bodies.body() as taken:
            outgoing = _Outgoing(
                method="GET",
                target=self._guard.target(url),
                headers=CIMultiDict({"Accept": "text/plain,*/*;q=0.8"}),
                content=b"",
                max_bytes=max_bytes,
                any_status=True,
                cut=True,
                is_first=True,
                before_hop=before_hop,
                taken=taken,
            )
            _, answer = await self._send(outgoing)
        return answer.status, answer.body

    async def _send(self, outgoing: _Outgoing) -> tuple[URL, _Answer]:
        """Send a request, and those that redirects ask for. One deadline holds for all, but for waits for places."""
        if self._pool is None:
            self._pool = Pool.open(self._policy, self._guard, self.hosts, names=self._names, tls=self._tls)
        pool = self._pool
        # Cookies that a redirect sets are sent to the URLs that it leads to, and forgotten with the last of them.
        cookies: CookieJar | None = None
        seconds = self._policy.deadline.total_seconds()
        for redirects in range(self._policy.max_redirects + 1):
            if seconds <= 0:
                raise RejectedError(Reason.TIMEOUT, f"{without_query(outgoing.target)} took too long")
            patience = _LONG_PATIENCE if redirects or outgoing.any_status else hosts.PATIENCE
            host = hosts.key(outgoing.target)
            async with pool.connection(host, keep=outgoing.keep, patience=patience) as session:
                begun = time.monotonic()
                answer = await self._ask(pool, session, host, outgoing, cookies, seconds)
                seconds -= time.monotonic() - begun
            if answer.status not in _REDIRECTS:
                return outgoing.target, answer
            if "Set-Cookie" in answer.headers:
                cookies = cookies or CookieJar(unsafe=True)
                cookies.update_cookies_from_headers(answer.headers.getall("Set-Cookie"), outgoing.target)
            outgoing = self._redirected(outgoing, answer)
            if outgoing.before_hop:
                await outgoing.before_hop(outgoing.target)
        raise RejectedError(Reason.TOO_MANY_REDIRECTS, f"{without_query(outgoing.target)} is one too many")

    async def _ask(  # noqa: PLR0913, PLR0917 - everything that one exchange depends on
        self,
        pool: Pool,
        session: aiohttp.ClientSession,
        host: str,
        outgoing: _Outgoing,
        cookies: CookieJar | None,
        seconds: float,
    ) -> _Answer:
        """Send one request, read its response, and note what that says about the host."""
        sent = time.monotonic()
        progress: _ExchangeProgress | None = None
        try:
            async with asyncio.timeout(max(0.0, seconds)) as deadline:
                progress = _ExchangeProgress(deadline, on_probation=self.hosts.is_on_probation(host))
                answer = await _exchange(pool, session, outgoing, cookies, progress)
        except _BusyError as busy:
            raise await self.hosts.limited(host, busy.wait, sent=sent) from None
        except LookupsBusyError:
            raise hosts.HostClosedError(host, hosts.Cause.BUSY, timedelta(seconds=1)) from None
        except Exception as error:
            raised = _rejection(error, outgoing.target)
            if progress is None or not progress.has_head:
                if isinstance(raised, RejectedError) and raised.reason in _SILENCE:
                    took_it = raised.reason is Reason.TIMEOUT and not isinstance(error, aiohttp.ConnectionTimeoutError)
                    closed = await self.hosts.failed(host, sent=sent, connected=took_it, at_once=outgoing.is_first)
                    if closed is not None:
                        raise closed from raised
            else:
                await self.hosts.answered(host)
            if raised is error:
                raise
            raise raised from (error if _may_be_shown(error) else None)
        if outgoing.raw and _is_busy(answer.status, answer.headers):
            await self.hosts.limited(host, _BusyError(answer.status, answer.headers).wait, sent=sent)
        else:
            await self.hosts.answered(host)
        return answer

    def _redirected(self, outgoing: _Outgoing, response: _Answer) -> _Outgoing:
        """Return the request that a redirect asks for, with its URL checked like any other."""
        before = outgoing.target
        location = response.headers.get("Location")
        if not location:
            raise RejectedError(Reason.BAD_RESPONSE, f"{without_query(before)} redirects without a URL")
        try:
            following = urljoin(str(before), location)
        except ValueError:
            raise RejectedError(Reason.BAD_URL, f"{without_query(before)} redirects to an invalid URL") from None
        try:
            target = self._guard.target(following)
        except RejectedError as error:
            raise RejectedError(error.reason, f"{without_query(before)} redirects: {error}") from error
        if before.scheme == "https" and target.scheme == "http":
            raise RejectedError(Reason.INSECURE_REDIRECT, f"{without_query(before)} redirects from https to http")
        changed = replace(outgoing, target=target)
        if target.origin() != before.origin():
            headers = CIMultiDict(outgoing.headers)
            for name in _CREDENTIALS:
                headers.popall(name, None)
            changed = replace(changed, headers=headers)
        if response.status == _SEE_OTHER or (outgoing.method == "POST" and response.status in _POST_BECOMES_GET):
            changed = replace(changed, method="HEAD" if outgoing.method == "HEAD" else "GET", content=b"")
        return changed


async def _exchange(
    pool: Pool,
    session: aiohttp.ClientSession,
    outgoing: _Outgoing,
    cookies: CookieJar | None,
    progress: _ExchangeProgress,
) -> _Answer:
    """Send one request and read its response, in the lenient way when aiohttp cannot read it."""
    host = outgoing.target.host or ""
    if cookies is not None and (known := cookies.filter_cookies(outgoing.target)):
        headers = CIMultiDict(outgoing.headers)
        headers["Cookie"] = known.output(attrs=[], header="", sep=";").strip()
        outgoing = replace(outgoing, headers=headers)
    may_be_lenient = pool.lenient is not None and outgoing.method == "GET" and not outgoing.raw
    if may_be_lenient and host in pool.lenient_hosts:
        return await _exchange_leniently(pool, outgoing, progress)
    try:
        return await _exchange_strictly(session, outgoing, progress)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        # A kept connection that its host has closed meanwhile: the request has not been answered, and gets a new one.
        may_repeat = session is pool.kept and outgoing.method == "GET" and not progress.has_head
        if not may_repeat or isinstance(error, aiohttp.ClientConnectorError):
            raise
        return await _exchange_strictly(pool.single, outgoing, progress)
    except aiohttp.ClientResponseError as error:
        if not may_be_lenient or isinstance(error, aiohttp.ClientHttpProxyError):
            raise
    pool.read_leniently(host)
    return await _exchange_leniently(pool, outgoing, progress)


async def _exchange_strictly(
    session: aiohttp.ClientSession, outgoing: _Outgoing, progress: _ExchangeProgress
) -> _Answer:
    sending = session.request(
        outgoing.method,
        outgoing.target,
        headers=outgoing.headers,
        data=outgoing.content or None,
        allow_redirects=False,
        timeout=_timeout(session, outgoing, progress),
    )
    url = without_query(outgoing.target)
    async with sending as response, _aborting(response):
        progress.has_head = True
        body = b""
        _check_opt_outs(response.status, response.headers, outgoing)
        if response.status not in _REDIRECTS:
            outgoing.taken.begun = time.monotonic()
            _check_head(response.status, response.headers, response.content_length, outgoing)
            try:
                body = await _body(_blocks(response), url, outgoing, progress)
            except aiohttp.ClientPayloadError as error:
                if failures.was_reset(response):
                    raise RejectedError(Reason.RESET, f"{url} reset the connection") from error
                raise
            body = encodings.decode(body, response.headers, url, max_bytes=outgoing.max_bytes)
        return _Answer(response.status, response.headers, response.raw_headers, body)


async def _exchange_leniently(pool: Pool, outgoing: _Outgoing, progress: _ExchangeProgress) -> _Answer:
    assert pool.lenient is not None
    headers = [*pool.kept.headers.items(), *outgoing.headers.items()]
    url = without_query(outgoing.target)
    async with pool.lenient.get(outgoing.target, headers) as response:
        progress.has_head = True
        body = b""
        _check_opt_outs(response.status, response.headers, outgoing)
        if response.status not in _REDIRECTS:
            outgoing.taken.begun = time.monotonic()
            _check_head(response.status, response.headers, response.length, outgoing)
            body = await _body(response.blocks(), url, outgoing, progress)
            body = encodings.decode(body, response.headers, url, max_bytes=outgoing.max_bytes)
        return _Answer(response.status, response.headers, (), body)


@asynccontextmanager
async def _aborting(response: aiohttp.ClientResponse) -> AsyncIterator[None]:
    """Abort the connection if its response was not read to the end: a redirect's body, an error page, a flood.

    Left alone, aiohttp closes it, which over TLS means waiting up to 30 s for an untrusted host to agree.
    """
    try:
        yield
    finally:
        # A connection whose response arrived in full is back in the pool already, and not the response's any more.
        if response.connection is not None and response.connection.transport is not None:
            response.connection.transport.abort()


def _timeout(session: aiohttp.ClientSession, outgoing: _Outgoing, progress: _ExchangeProgress) -> aiohttp.ClientTimeout:
    """Return how long each part of a response may take: less for a host that has not answered yet, or not lately."""
    usual = session.timeout
    if not (progress.on_probation or outgoing.is_first):
        return usual
    seconds = _PROBATION_SECONDS if progress.on_probation else _FIRST_SECONDS
    return aiohttp.ClientTimeout(
        total=None,
        sock_connect=min(seconds, usual.sock_connect or seconds),
        sock_read=min(seconds, usual.sock_read or seconds),
    )


def _check_head(status: int, headers: MultiMapping[str], length: int | None, outgoing: _Outgoing) -> None:
    """Reject what can be rejected before the body is read."""
    url = without_query(outgoing.target)
    if not outgoing.raw and _is_busy(status, headers):
        raise _BusyError(status, headers)
    if not outgoing.any_status and status not in range(200, 300):
        raise RejectedError(failures.of_status(status), f"{url} answered {status}")
    encodings.check(headers, url)
    if (length or 0) > outgoing.max_bytes and not outgoing.cut:
        raise RejectedError(Reason.TOO_MANY_BYTES, f"{url} announces more than {outgoing.max_bytes} bytes")


def _check_opt_outs(status: int, headers: MultiMapping[str], outgoing: _Outgoing) -> None:
    """Reject what its owner does not want to be used. An error is only an error: many sites mark theirs as noindex."""
    if outgoing.opt_outs_of is not None and (status in range(200, 300) or status in _REDIRECTS):
        opt_outs.check(headers, without_query(outgoing.target), agent=outgoing.opt_outs_of)


async def _blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    while block := await response.content.readany():
        yield block


async def _body(blocks: AsyncIterator[bytes], url: str, outgoing: _Outgoing, progress: _ExchangeProgress) -> bytes:
    body = bytearray()  # not a list of blocks: a host that sends two bytes at a time would fill it with overhead
    begun = time.monotonic()
    async for block in blocks:
        begun += await progress.take(outgoing.taken, len(block))
        body += block
        if len(body) >= outgoing.max_bytes and outgoing.cut:
            return bytes(body[: outgoing.max_bytes])
        if len(body) > outgoing.max_bytes:
            raise RejectedError(Reason.TOO_MANY_BYTES, f"{url} sends more than {outgoing.max_bytes} bytes")
        seconds = time.monotonic() - begun
        if seconds > _SPEED_SECONDS and len(body) < _MIN_SPEED * seconds:
            raise RejectedError(Reason.TIMEOUT, f"{url} sends less than {_MIN_SPEED} bytes a second")
    return bytes(body)


def _is_busy(status: int, headers: MultiMapping[str]) -> bool:
    """Return whether a response asks to be left alone: 429, and 503 that says for how long."""
    return status == _TOO_MANY_REQUESTS or (
        status == _UNAVAILABLE and retry_after.parse(headers.get("Retry-After", "")) is not None
    )


def _rejection(error: Exception, target: URL) -> Exception:
    """Return what an error of an exchange means for its URL; the error itself where that is its own."""
    url = without_query(target)
    if descriptors.is_own_limit(error):
        return TransientError("this process or machine is out of connections or open files")
    match error:
        case TimeoutError():
            return RejectedError(Reason.TIMEOUT, f"{url} took too long")
        case aiohttp.ClientProxyConnectionError():
            return TransientError("the egress proxy cannot be reached")
        case aiohttp.ClientConnectorError():
            return RejectedError(failures.of_error(error), f"{url}: {error.__cause__}")
        case aiohttp.ClientError():
            return RejectedError(failures.of_error(error), f"{url}: {type(error).__name__}")
        case _:
            return error


def _may_be_shown(error: Exception) -> bool:
    """Return whether an error may be the cause of another: texts of aiohttp may hold a query, or what a host sent."""
    return not isinstance(error, aiohttp.ClientError) or isinstance(error, aiohttp.ClientConnectorError)


def _media_type(headers: MultiMapping[str]) -> str | None:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() or None

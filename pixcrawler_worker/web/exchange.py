"""One request to an untrusted host and its response: bounded in time and bytes, and read as browsers read it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
from aiohttp import CookieJar
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web import cookies, encodings, failures, opt_outs, retry_after
from pixcrawler_worker.web.bodies import Body
from pixcrawler_worker.web.failures import without_query
from pixcrawler_worker.web.pool import Pool

SEE_OTHER = 303
REDIRECTS = frozenset({301, 302, SEE_OTHER, 307, 308})
_PARTIAL, _TOO_MANY_REQUESTS, _UNAVAILABLE = 206, 429, 503
#: A body that is slower than so many bytes a second, after so many seconds, does not arrive in time.
_MIN_SPEED, _SPEED_SECONDS = 1000, 10.0
#: Seconds that a host which did not answer has for each part of its next response.
_PROBATION_SECONDS = 3.0
#: The same for a host's first response, to the request for its robots.txt.
_FIRST_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that was read; of a redirect, only its head."""

    status: int
    headers: MultiMapping[str]
    raw_headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
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
class ExchangeProgress:
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
        if taken.take_at_once(count):  # as nearly always: putting the deadline off costs more than all else here
            return 0.0
        begun, when = time.monotonic(), self.deadline.when()
        self.deadline.reschedule(None)
        await taken.take(count)
        waited = time.monotonic() - begun
        if when is not None:
            self.deadline.reschedule(when + waited)
        return waited


class BusyError(Exception):
    """The host asks to be left alone; `wait` is how long, None when it does not say."""

    def __init__(self, status: int, headers: MultiMapping[str]) -> None:
        super().__init__(str(status))
        self.wait = retry_after.of(headers) or None


async def send(
    pool: Pool,
    session: aiohttp.ClientSession,
    outgoing: Outgoing,
    jar: CookieJar | None,
    progress: ExchangeProgress,
) -> Answer:
    """Send one request and read its response, in the lenient way when aiohttp cannot read it.

    Args:
        pool: of the host's connections.
        session: of the pool, in which the host has a place.
        outgoing: the request.
        jar: the cookies of this chain of redirects.
        progress: is kept up to date.

    Raises:
        RejectedError: what the host sends is not wanted.
        BusyError: the host asks to be left alone.
        aiohttp.ClientError, TimeoutError, OSError: there is no response.
    """
    host = outgoing.target.host or ""
    if jar is not None and (cookie := cookies.header_for(jar, outgoing.target)):
        headers = CIMultiDict(outgoing.headers)
        headers["Cookie"] = cookie
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


async def _exchange_strictly(session: aiohttp.ClientSession, outgoing: Outgoing, progress: ExchangeProgress) -> Answer:
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
        if response.status not in REDIRECTS:
            outgoing.taken.begun = time.monotonic()
            _check_head(response.status, response.headers, response.content_length, outgoing)
            try:
                body = await _body(_blocks(response), url, outgoing, progress)
            except aiohttp.ClientPayloadError as error:
                if failures.was_reset(response):
                    raise RejectedError(Reason.RESET, f"{url} reset the connection") from error
                raise
            if response.status != _PARTIAL:
                # Of a part of an encoded body, the encoding cannot be removed: that is for those who have asked for it.
                body = encodings.decode(body, response.headers, url, max_bytes=outgoing.max_bytes, cut=outgoing.cut)
        return Answer(response.status, response.headers, response.raw_headers, body)


async def _exchange_leniently(pool: Pool, outgoing: Outgoing, progress: ExchangeProgress) -> Answer:
    assert pool.lenient is not None
    headers = [*pool.kept.headers.items(), *outgoing.headers.items()]
    url = without_query(outgoing.target)
    async with pool.lenient.get(outgoing.target, headers) as response:
        progress.has_head = True
        body = b""
        _check_opt_outs(response.status, response.headers, outgoing)
        if response.status not in REDIRECTS:
            outgoing.taken.begun = time.monotonic()
            _check_head(response.status, response.headers, response.length, outgoing)
            body = await _body(response.blocks(), url, outgoing, progress)
            if response.status != _PARTIAL:
                # Of a part of an encoded body, the encoding cannot be removed: that is for those who have asked for it.
                body = encodings.decode(body, response.headers, url, max_bytes=outgoing.max_bytes, cut=outgoing.cut)
        return Answer(response.status, response.headers, (), body)


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


def _timeout(session: aiohttp.ClientSession, outgoing: Outgoing, progress: ExchangeProgress) -> aiohttp.ClientTimeout:
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


def _check_head(status: int, headers: MultiMapping[str], length: int | None, outgoing: Outgoing) -> None:
    """Reject what can be rejected before the body is read."""
    url = without_query(outgoing.target)
    if not outgoing.raw and is_busy(status, headers):
        raise BusyError(status, headers)
    if not outgoing.any_status and status not in range(200, 300):
        raise RejectedError(failures.of_status(status), f"{url} answered {status}", status=status)
    encodings.check(headers, url)
    if (length or 0) > outgoing.max_bytes and not outgoing.cut:
        raise RejectedError(Reason.TOO_MANY_BYTES, f"{url} announces more than {outgoing.max_bytes} bytes")


def _check_opt_outs(status: int, headers: MultiMapping[str], outgoing: Outgoing) -> None:
    """Reject what its owner does not want to be used. An error is only an error: many sites mark theirs as noindex."""
    if outgoing.opt_outs_of is not None and (status in range(200, 300) or status in REDIRECTS):
        opt_outs.check(headers, without_query(outgoing.target), agent=outgoing.opt_outs_of)


async def _blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    while block := await response.content.readany():
        yield block


async def _body(blocks: AsyncIterator[bytes], url: str, outgoing: Outgoing, progress: ExchangeProgress) -> bytes:
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


def is_busy(status: int, headers: MultiMapping[str]) -> bool:
    """Return whether a response asks to be left alone: 429, and 503 that says for how long."""
    return status == _TOO_MANY_REQUESTS or (status == _UNAVAILABLE and retry_after.of(headers) is not None)

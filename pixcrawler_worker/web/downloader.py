"""Requests to untrusted hosts: guarded, bounded in time and bytes, and with a reason for everything that fails."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import urljoin

import aiohttp
from aiohttp import CookieJar
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web import cookies, descriptors, exchange, failures, hosts
from pixcrawler_worker.web.addresses import Guard
from pixcrawler_worker.web.bodies import Bodies, Body
from pixcrawler_worker.web.exchange import REDIRECTS, SEE_OTHER, Answer, BusyError, ExchangeProgress, Outgoing
from pixcrawler_worker.web.failures import without_query
from pixcrawler_worker.web.hosts import Hosts
from pixcrawler_worker.web.pace import Pace
from pixcrawler_worker.web.policy import Policy
from pixcrawler_worker.web.pool import Pool
from pixcrawler_worker.web.resolver import CachingResolver, Lookup, LookupsBusyError, system_lookup
from pixcrawler_worker.web.robots import Robots, product_token
from pixcrawler_worker.web.robots_cache import SharedRobots
from pixcrawler_worker.web.slots import FetchSlots

#: Redirects after which a POST becomes a GET, as in browsers (RFC 9110, 15.4).
_POST_BECOMES_GET = frozenset({301, 302, SEE_OTHER})
#: Downloads at a time, unless the settings say otherwise.
_SLOTS = 32
#: Seconds that a request to an API, or one that was redirected, waits for a place at its host.
_LONG_PATIENCE = 30.0
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


class Downloader:
    """Sends requests for one event loop at a time; connections are kept until `aclose`.

    Args:
        policy: what is allowed.
        lookup: resolves a name; the system's resolver by default.
        tls: trusted certificates; the system's by default.
        hosts: how hosts are treated; without it, this process knows only what it sees itself.
        slots: of the process for downloads.
        shared_robots: the robots.txt files that other workers have read; None when there are no other workers.

    Attributes:
        hosts: how hosts are treated.
        slots: likewise. Those who download many files at a time keep to them.
        bodies: bytes of all bodies in flight.
    """

    def __init__(  # noqa: PLR0913 - what tests replace, and what processes share
        self,
        policy: Policy,
        *,
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
        hosts: Hosts | None = None,
        slots: FetchSlots | None = None,
        shared_robots: SharedRobots | None = None,
    ) -> None:
        self.hosts = Hosts() if hosts is None else hosts
        self.slots = FetchSlots(_SLOTS) if slots is None else slots
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
            return self.checked_host(url)
        except RejectedError:
            return None

    def checked_host(self, url: str) -> str:
        """Return the name by which `hosts` knows the host of a URL.

        Raises:
            RejectedError: when the URL may not be requested.
        """
        return hosts.key(self._guard.target(url))

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
                returned with the body. It has the pace of the job, too.
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
            outgoing = Outgoing(
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
            outgoing = Outgoing(
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

    def pace(self, job: str, *, limit_rate: int | None, wait: float) -> Pace | None:
        """Return the pace of a job, which all processes keep together; None for a job without one.

        Args:
            job: its name, the same in all processes.
            limit_rate: bytes of bodies in a second; None for no limit.
            wait: seconds between the beginnings of two requests to one host.
        """
        if limit_rate is None and not wait:
            return None
        return Pace(job, limit_rate=limit_rate, wait=wait, shared=self.hosts.shared)

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
            outgoing = Outgoing(
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

    async def _send(self, outgoing: Outgoing) -> tuple[URL, Answer]:
        """Send a request, and those that redirects ask for. One deadline holds for all, but for waits for places."""
        if self._pool is None:
            self._pool = Pool.open(self._policy, self._guard, self.hosts, names=self._names, tls=self._tls)
        pool = self._pool
        # Cookies that a redirect sets are sent to the URLs that it leads to, and forgotten with the last of them.
        jar: CookieJar | None = None
        seconds = self._policy.deadline.total_seconds()
        for redirects in range(self._policy.max_redirects + 1):
            if seconds <= 0:
                raise RejectedError(Reason.TIMEOUT, f"{without_query(outgoing.target)} took too long")
            patience = _LONG_PATIENCE if redirects or outgoing.any_status else hosts.PATIENCE
            host = hosts.key(outgoing.target)
            async with pool.connection(host, keep=outgoing.keep, patience=patience) as session:
                if outgoing.taken.pace is not None:
                    # A chain of redirects that gave up would never come to its end.
                    await outgoing.taken.pace.turn(host, must_wait=redirects > 0)
                begun = time.monotonic()
                answer = await self._ask(pool, session, host, outgoing, jar, seconds)
                seconds -= time.monotonic() - begun
            if answer.status not in REDIRECTS:
                return outgoing.target, answer
            if "Set-Cookie" in answer.headers:
                jar = CookieJar(unsafe=True) if jar is None else jar
                cookies.note(jar, answer.headers.getall("Set-Cookie"), outgoing.target)
            outgoing = self._redirected(outgoing, answer)
            if outgoing.before_hop:
                await outgoing.before_hop(outgoing.target)
        raise RejectedError(Reason.TOO_MANY_REDIRECTS, f"{without_query(outgoing.target)} is one too many")

    async def _ask(  # noqa: PLR0913, PLR0917 - everything that one exchange depends on
        self,
        pool: Pool,
        session: aiohttp.ClientSession,
        host: str,
        outgoing: Outgoing,
        jar: CookieJar | None,
        seconds: float,
    ) -> Answer:
        """Send one request, read its response, and note what that says about the host."""
        sent = time.monotonic()
        progress: ExchangeProgress | None = None
        try:
            async with asyncio.timeout(max(0.0, seconds)) as deadline:
                progress = ExchangeProgress(deadline, on_probation=self.hosts.is_on_probation(host))
                answer = await exchange.send(pool, session, outgoing, jar, progress)
        except BusyError as busy:
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
        if outgoing.raw and exchange.is_busy(answer.status, answer.headers):
            await self.hosts.limited(host, BusyError(answer.status, answer.headers).wait, sent=sent)
        else:
            await self.hosts.answered(host)
        return answer

    def _redirected(self, outgoing: Outgoing, response: Answer) -> Outgoing:
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
        if response.status == SEE_OTHER or (outgoing.method == "POST" and response.status in _POST_BECOMES_GET):
            changed = replace(changed, method="HEAD" if outgoing.method == "HEAD" else "GET", content=b"")
        return changed


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

"""httpx for sources: clients whose requests go over the guarded connections, and errors as the worker needs them.

This is the only file that imports httpx; `docs/decisions/0014-httpx-for-sources.md` says why that matters. Sources take
its names from here.
"""

import contextlib
import functools
import json
import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    wait_exponential_jitter,
)

from pixcrawler_worker import tracing
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.masking import mask_url
from pixcrawler_worker.tracing import Span
from pixcrawler_worker.web import retry_after
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.hosts import Cause, HostClosedError

AsyncClient = httpx.AsyncClient
Response = httpx.Response
HTTPStatusError = httpx.HTTPStatusError
RequestError = httpx.RequestError

#: The extension of a response that has the URL to which redirects have led.
ANSWERED_BY = "pixcrawler.answered_by"
#: Attempts at one request and the seconds between them: enough for a cut connection or a server that restarts.
_ATTEMPTS = 3
_FIRST_DELAY, _MAX_DELAY = 0.2, 2.0
#: What may be sent twice without harm.
_SAFE_METHODS = frozenset({"GET", "HEAD"})
#: How long to wait after "too many requests" without a Retry-After.
_DEFAULT_RETRY_AFTER = timedelta(seconds=60)
_TOO_MANY_REQUESTS, _UNAVAILABLE = 429, 503
_SERVER_ERRORS = range(500, 600)
#: Characters of a response that are quoted in an error.
_MAX_QUOTE = 80
#: Digits of an integer that can mean something.
_MAX_DIGITS = 300
#: Headers of a request that the connection sets itself.
_OWN_HEADERS = frozenset(
    {"host", "connection", "user-agent", "accept-encoding", "content-length", "transfer-encoding", "cookie"}
)
_ERRORS: dict[Reason, type[httpx.TransportError]] = {
    Reason.TIMEOUT: httpx.ReadTimeout,
    Reason.UNRESOLVED: httpx.ConnectError,
    Reason.CONNECT_FAILED: httpx.ConnectError,
    Reason.RESET: httpx.ReadError,
    Reason.TRUNCATED: httpx.RemoteProtocolError,
}


class RequestRejectedError(httpx.RequestError):
    """A request that would be rejected again: a forbidden address, a body over the cap, an invalid URL, ..."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends the requests of a client over a downloader's connections.

    Addresses are checked at every connect, redirects are followed and checked like any URL, and one deadline and one
    cap of bytes hold for all of it. A request that can be repeated safely is tried again after a hiccup: a connection
    that fails or a server error without a Retry-After.
    """

    def __init__(self, downloader: Downloader) -> None:
        self._downloader = downloader

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the response with its whole body.

        Raises:
            httpx.TransportError: trouble on the way that may pass.
            RequestRejectedError: trouble that will not.
            TransientError: the operator's own proxy cannot be reached, or the host is to be left alone.
        """
        content = await request.aread()
        if request.method not in _SAFE_METHODS:
            return await self._send(request, content)
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass) | retry_if_result(_is_hiccup),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=_FIRST_DELAY, max=_MAX_DELAY, jitter=_FIRST_DELAY),
            retry_error_callback=_last_outcome,
        )
        response: httpx.Response = await retrying(self._send, request, content)
        return response

    async def _send(self, request: httpx.Request, content: bytes) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        with _traced(request) as span:
            try:
                sent = await self._downloader.request(
                    request.method, str(request.url), headers=headers, content=content
                )
            except RejectedError as error:
                kind = _ERRORS.get(error.reason, RequestRejectedError)
                raise kind(str(error), request=request) from error
            if span:
                span.set("http.response.status_code", sent.status)
        response = httpx.Response(
            sent.status,
            headers=list(sent.headers),
            content=sent.body,
            request=request,
            extensions={} if _is_same(httpx.URL(sent.url), request.url) else {ANSWERED_BY: sent.url},
        )
        if not _has_text_encoding(response):
            response.encoding = "utf-8"
        return response


@contextlib.contextmanager
def _traced(request: httpx.Request) -> Iterator[Span | None]:
    """Make a span of a request, without its query, which may have a key."""
    span = tracing.begin_step("http", request.method)
    if span is None:
        yield None
        return
    span.set("http.request.method", request.method)
    span.set("server.address", request.url.host)
    span.set("url.full", mask_url(str(request.url.copy_with(query=None, fragment=None))))
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__, str(error))
        raise
    finally:
        span.end()


class _NoTransport(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.UnsupportedProtocol("this source sends no requests", request=request)


@functools.cache
def unused_client() -> httpx.AsyncClient:
    """Return the client for a source that sends no requests: making one takes longer than everything else it does."""
    return httpx.AsyncClient(transport=_NoTransport(), trust_env=False)


def client(downloader: Downloader) -> httpx.AsyncClient:
    """Return a client for one search of a source.

    Each search gets its own, so that headers or credentials that a source sets on it, or closing it, concern no other
    source. It costs little and needs no closing: the connections are the downloader's.
    """
    return httpx.AsyncClient(
        transport=GuardedTransport(downloader),
        headers={"Accept": "application/json"},
        # A jar that keeps nothing: pages of a search are independent of each other.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=None,  # noqa: S113 - the downloader's deadline holds
        trust_env=False,
    )


def retry_after_of(response: httpx.Response) -> timedelta | None:
    """Return the Retry-After of a response; None when there is none that can be read."""
    return retry_after.of(response.headers)


def server_time(response: httpx.Response, *, now: datetime) -> datetime:
    """Return the time by the clock of a provider that has just responded; the given time where it does not say."""
    return retry_after.server_time(response.headers, now=now)


def read_json(response: httpx.Response, name: str) -> Any:  # noqa: ANN401 - whatever the provider sends
    """Return the JSON of a provider's response, whatever its status, but for those of a provider in trouble.

    Args:
        response: of the provider.
        name: of the source; the base URL of its provider is the setting `PIXCRAWLER_<NAME>_URL`.

    Raises:
        httpx.HTTPStatusError: on status 429 and from 500 on; see `translated`.
        PermanentError: when the response is not JSON: the base URL is wrong, or the provider rejects the worker.
    """
    if response.status_code == _TOO_MANY_REQUESTS or response.status_code in _SERVER_ERRORS:
        response.raise_for_status()
    try:
        return json.loads(response.content, parse_int=_number)
    except (ValueError, RecursionError):
        where = str(response.request.url.copy_with(query=None))
        if other := response.extensions.get(ANSWERED_BY):
            # A page to log in, for example, or one that says that the provider is closed.
            where += f", redirected to {_quoted(str(httpx.URL(other).copy_with(query=None, fragment=None)).encode())},"
        raise PermanentError(
            f"{name} at {where} answered {response.status_code} with something that is not JSON: "
            f"{_quoted(response.content)}; is PIXCRAWLER_{name.upper()}_URL right?"
        ) from None


def wants_a_pause(error: Exception) -> bool:
    """Return whether an error says that the provider is to be left alone for a while."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status == _TOO_MANY_REQUESTS or (status == _UNAVAILABLE and retry_after_of(error.response) is not None)
    return isinstance(error, HostClosedError) or (isinstance(error, TransientError) and error.retry_after is not None)


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Translate what the code of a source lets through from httpx into the worker's errors.

    Args:
        name: of the source.

    Raises:
        TransientError: the provider is busy or away; with `retry_after` when it says how long.
        PermanentError: the provider rejects the request, or sends something else than JSON.
    """
    try:
        yield
    except HostClosedError as closed:
        if closed.cause is not Cause.DOWN:
            raise
        # Not a wait that the provider asks for: such attempts count.
        raise TransientError(f"{name} could not be reached: {closed}") from closed
    except httpx.HTTPStatusError as error:
        # Its text holds the URL with its query, which may hold a key: it is not kept as the cause.
        raise _of_status(name, error.response) from None
    except httpx.TransportError as error:
        raise TransientError(f"{name} could not be reached: {error}") from error
    except RejectedError as error:
        # A source that opens a file of its own needs exactly that file.
        raise PermanentError(f"{name}: {error}") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise PermanentError(f"{name} could not be requested: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"{name} answered with something that is not JSON ({type(error).__name__}); "
            f"is PIXCRAWLER_{name.upper()}_URL right?"
        ) from error


def _of_status(name: str, response: httpx.Response) -> TransientError | PermanentError:
    status, wait = response.status_code, retry_after_of(response)
    if status == _TOO_MANY_REQUESTS or (status == _UNAVAILABLE and wait):
        wait = _DEFAULT_RETRY_AFTER if wait is None else wait
        message = f"{name} answered {status}: retry after {wait.total_seconds():.0f} s"
        return TransientError(message, retry_after=wait)
    message = f"{name} answered {status}: {_quoted(response.content)}"
    return TransientError(message) if status in _SERVER_ERRORS else PermanentError(message)


def _is_same(answered: httpx.URL, requested: httpx.URL) -> bool:
    """Return whether two URLs are the same but for their queries, which are quoted in several ways."""
    return (answered.host, answered.port, answered.path) == (requested.host, requested.port, requested.path)


def _may_pass(error: BaseException) -> bool:
    """Return whether an error may be gone a moment later; a host that is to be left alone is not asked again."""
    return isinstance(error, httpx.TransportError | TransientError) and not isinstance(error, HostClosedError)


def _is_hiccup(response: httpx.Response) -> bool:
    """Return whether the trouble may be gone a moment later: a server error that does not say when."""
    unavailable = response.status_code == _UNAVAILABLE and retry_after_of(response)
    return response.status_code in _SERVER_ERRORS and not unavailable


def _has_text_encoding(response: httpx.Response) -> bool:
    """Return whether the charset of a response is one of text: httpx would unpack zlib and bz2 too, without limit."""
    try:
        b" ".decode(response.charset_encoding or "utf-8", "replace")
    except Exception:  # noqa: BLE001 - httpx reads it with email's parser, which raises anything
        return False
    return True


def _last_outcome(state: RetryCallState) -> httpx.Response:
    assert state.outcome is not None
    response: httpx.Response = state.outcome.result()
    return response


def _number(digits: str) -> int | float:
    """Return an integer in JSON; one of more digits than Python reads is infinite, as a float of that size is."""
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _quoted(body: bytes) -> str:
    """Return the beginning of a body in one line."""
    text = " ".join(re.sub(r"[^\x20-\x7e]+", " ", body[: 4 * _MAX_QUOTE].decode("utf-8", "replace")).split())
    return repr(text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}...")

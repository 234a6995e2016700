import asyncio
import json
import logging
import traceback
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from aiohttp import web
from fakes import hosts, providers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from source_client import AGENT, LOOPBACK, POLICY, with_client

from pixcrawler_worker import logs
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.web import http
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.http import AsyncClient, RequestRejectedError, Response
from pixcrawler_worker.web.policy import Policy

YEAR = 365 * 86_400


class Recorded:
    """Requests that a server on loopback received."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []

    def ok(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        return web.json_response({"n": len(self.requests)})

    def failing(self, status: int, times: int) -> Callable[[web.Request], web.Response]:
        def handle(request: web.Request) -> web.Response:
            self.requests.append(request)
            return web.json_response({}, status=status if len(self.requests) <= times else 200)

        return handle


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def base(recorded: Recorded) -> Iterator[str]:
    with providers.application(recorded.ok) as base:
        yield base


def get(url: str, *, policy: Policy = POLICY, **options: Any) -> Response:
    return with_client(lambda client: client.get(url, **options), policy=policy)


def get_raw(response: bytes) -> Response:
    """The response of a host that sends these bytes."""
    with hosts.serving(responses={"/": response}) as server:
        return get(server.base)


def translated_from(error: Exception) -> Exception:
    with pytest.raises((TransientError, PermanentError)) as caught, http.translated("museum"):
        raise error
    return caught.value


def of_status(status: int, body: str = "", **headers: str) -> Exception:
    """What the worker raises when a source calls `raise_for_status` on this response."""
    request = httpx.Request("GET", "https://museum.example/search?key=hunter2")
    response = httpx.Response(status, text=body, headers=headers, request=request)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    return translated_from(caught.value)


# The transport


def test_a_request_arrives_as_it_was_made_but_for_what_the_worker_sets(base: str, recorded: Recorded) -> None:
    async def post(client: AsyncClient) -> Response:
        return await client.post(
            f"{base}/search?a=1&b=%2F",
            json={"q": "cat"},
            headers={
                "X-Api-Key": "hunter2",
                "User-Agent": "curl/8",
                "Host": "internal.example",
                "Accept-Encoding": "gzip, br",
                "Cookie": "a=b",
            },
        )

    assert with_client(post).json() == {"n": 1}
    (request,) = recorded.requests
    assert (request.method, request.raw_path) == ("POST", "/search?a=1&b=%2F")
    assert request.headers["X-Api-Key"] == "hunter2"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"] == AGENT
    assert request.headers["Host"] == base.removeprefix("http://")
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in request.headers


def test_headers_beyond_ascii_are_a_response_like_others() -> None:
    response = get_raw(b"HTTP/1.1 200 OK\r\nX: \xc3\xbc\xff\r\nX: 2\r\nContent-Length: 2\r\n\r\n{}")
    assert response.json() == {}
    assert len(response.headers.get_list("X")) == 2


@pytest.mark.parametrize("charset", ["zlib", "bz2", "rot13", "hex", "unknown"])
def test_a_charset_that_is_not_for_text_does_not_unpack_a_body(charset: str) -> None:
    body = zlib.compress(bytes(10_000_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={charset}\r\nContent-Length: {len(body)}\r\n\r\n"
    with hosts.serving(responses={"/": head.encode() + body}) as server:
        assert len(get(f"{server.base}/").text) <= len(body)


@pytest.mark.parametrize(
    ("charset", "text"), [("utf-8", "größe"), ("latin-1", "größe"), ("utf-16", "größe"), ("shift_jis", "猫")]
)
def test_a_charset_of_text_is_used(charset: str, text: str) -> None:
    body = text.encode(charset)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={charset}\r\nContent-Length: {len(body)}\r\n\r\n"
    with hosts.serving(responses={"/": head.encode() + body}) as server:
        assert get(f"{server.base}/").text == text


@settings(deadline=None, max_examples=60)
@example(b"")
@example(b"HTTP/1.1 999 Request Denied\r\nContent-Length: 0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=\xff\r\nContent-Length: 2\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nContent-Type: ;charset*0;\r\nContent-Type: ;charset*\r\nContent-Length: 2\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=rot13\r\nContent-Length: 2\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=;;=\r\nContent-Length: 2\r\n\r\n{}")
@example(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: \xc2\xb2\r\nContent-Length: 2\r\n\r\n{}")
@example(b"HTTP/1.1 302 Found\r\nLocation: \xff://\xed\xa0\x80\r\n\r\n")
@given(st.binary(max_size=80).map(lambda junk: b"HTTP/1.1 200 OK\r\n" + junk + b"\r\nContent-Length: 2\r\n\r\n{}"))
def test_any_response_becomes_json_or_an_error_of_the_worker(response: bytes) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)

    async def run() -> object:
        downloader = Downloader(POLICY)
        async with hosts.listening(converse) as port:
            try:
                with http.translated("museum"):
                    # A POST is not repeated, so that the test does not wait.
                    found = await http.client(downloader).post(f"http://127.0.0.1:{port}/")
                    assert isinstance(found.text, str)
                    return found.raise_for_status().json()
            finally:
                await downloader.aclose()

    try:
        asyncio.run(run())
    except (TransientError, PermanentError) as error:
        assert str(error).isprintable()  # noqa: PT017  either outcome is right


def test_a_stream_is_a_response_like_others(base: str) -> None:
    async def stream(client: AsyncClient) -> bytes:
        async with client.stream("GET", base) as response:
            return b"".join([part async for part in response.aiter_bytes()])

    assert json.loads(with_client(stream)) == {"n": 1}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [500, 502, 503])
def test_what_is_safe_to_repeat_is_repeated_after_a_hiccup(method: str, status: int, recorded: Recorded) -> None:
    with providers.application(recorded.failing(status, 2)) as base:
        assert with_client(lambda client: client.request(method, base)).status_code == 200
    assert len(recorded.requests) == 3


def test_a_provider_that_stays_down_is_requested_three_times(recorded: Recorded) -> None:
    with providers.application(recorded.failing(500, 9)) as base:
        assert get(base).status_code == 500
    assert len(recorded.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 429])
def test_a_status_that_repeating_does_not_change_is_returned_at_once(status: int, recorded: Recorded) -> None:
    with providers.application(recorded.failing(status, 9)) as base:
        assert get(base).status_code == status
    assert len(recorded.requests) == 1


def test_a_post_is_not_repeated(recorded: Recorded) -> None:
    with providers.application(recorded.failing(500, 9)) as base:
        assert with_client(lambda client: client.post(base)).status_code == 500
    assert len(recorded.requests) == 1


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "http://localhost.internal/", "ftp://museum.example/", "/search", "http://user:pw@a.example/"],
)
def test_a_url_that_may_not_be_requested_is_rejected(url: str) -> None:
    async def request(client: AsyncClient) -> type[Exception]:
        with pytest.raises(RequestRejectedError) as caught:
            await client.get(url)
        assert "pw" not in "".join(traceback.format_exception(caught.value))
        return caught.type

    assert with_client(request, policy=Policy(user_agent=AGENT)) is RequestRejectedError


def test_redirects_are_the_workers_even_if_a_source_wants_to_follow_them_itself() -> None:
    def away(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/"})

    with providers.application(away) as base, pytest.raises(PermanentError, match="forbidden_address"):
        get(base, follow_redirects=True)


def test_a_source_cannot_extend_the_deadline() -> None:
    async def sleep(_: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    hasty = Policy(user_agent=AGENT, allowed_networks=LOOPBACK, deadline=timedelta(seconds=0.1))
    with providers.application(sleep) as base, pytest.raises(TransientError, match="timeout"):
        get(base, policy=hasty, timeout=60)


def test_everything_goes_through_the_egress_proxy(base: str, recorded: Recorded) -> None:
    proxied = Policy(user_agent=AGENT, egress_proxy=base)
    assert get("http://museum.example/search?q=cat", policy=proxied).json() == {"n": 1}
    (request,) = recorded.requests
    assert request.headers["Host"] == "museum.example"
    assert request.raw_path.endswith("/search?q=cat")
    with pytest.raises(PermanentError, match="forbidden_address"):
        get("http://127.0.0.1/", policy=proxied)


def test_a_proxy_that_is_away_is_transient_and_keeps_its_password() -> None:
    away = Policy(user_agent=AGENT, egress_proxy="http://user:hunter2@127.0.0.1:1")
    with pytest.raises(TransientError, match="the egress proxy cannot be reached") as caught:
        get("http://museum.example/", policy=away)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


# The client


def test_two_requests_at_once_do_not_wait_for_each_other() -> None:
    both = asyncio.Barrier(2)

    async def meet(_: web.Request) -> web.Response:
        async with asyncio.timeout(5):
            await both.wait()
        return web.json_response({})

    async def run(client: AsyncClient) -> tuple[Response, Response]:
        return await asyncio.gather(client.get(url), client.get(url))

    with providers.application(meet) as url:
        assert [response.status_code for response in with_client(run)] == [200, 200]


def test_clients_of_one_downloader_work_in_one_event_loop_after_the_other(base: str) -> None:
    downloader = Downloader(POLICY)

    async def run() -> int:
        try:
            return (await http.client(downloader).get(base)).status_code
        finally:
            await downloader.aclose()

    assert [asyncio.run(run()), asyncio.run(run())] == [200, 200]


def test_what_a_source_does_to_its_client_concerns_no_other_source(base: str, recorded: Recorded) -> None:
    async def run() -> None:
        downloader = Downloader(POLICY)
        first, second = http.client(downloader), http.client(downloader)
        first.headers["Authorization"] = "Bearer hunter2"
        await first.get(base)
        await first.aclose()
        await second.get(base)
        await downloader.aclose()

    asyncio.run(run())
    assert [request.headers.get("Authorization") for request in recorded.requests] == ["Bearer hunter2", None]


def test_the_client_of_sources_that_send_no_requests_is_made_once_and_sends_none(base: str, recorded: Recorded) -> None:
    client = http.unused_client()
    assert client is http.unused_client()
    with pytest.raises(httpx.UnsupportedProtocol, match="sends no requests"):
        asyncio.run(client.get(base))
    assert recorded.requests == []


def test_cookies_are_not_kept(recorded: Recorded) -> None:
    def baking(request: web.Request) -> web.Response:
        response = recorded.ok(request)
        response.set_cookie("session", "1")
        return response

    async def twice(client: AsyncClient) -> int:
        await client.get(url)
        await client.get(url)
        return len(client.cookies)

    with providers.application(baking) as url:
        assert with_client(twice) == 0
    assert all("Cookie" not in request.headers for request in recorded.requests)


def test_the_environment_and_its_proxies_are_ignored(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert get(base).status_code == 200


def test_a_key_in_a_query_is_not_logged(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    get(f"{base}/?key=hunter2")
    logging.getLogger("probe").info("written")
    text = capsys.readouterr().err
    assert "written" in text
    assert "hunter2" not in text


# Errors


@pytest.mark.parametrize(
    ("status", "headers", "retry_after"),
    [
        (429, {}, 60),
        (429, {"Retry-After": "soon"}, 60),
        (429, {"Retry-After": "0"}, 0),
        (429, {"Retry-After": "7"}, 7),
        (429, {"Retry-After": str(2**63)}, YEAR),
        (429, {"Retry-After": "9" * 5000}, YEAR),
        (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        (503, {"Retry-After": "30"}, 30),
        (503, {}, None),
        (503, {"Retry-After": "0"}, None),
        (500, {"Retry-After": "30"}, None),
        (502, {}, None),
        (599, {}, None),
    ],
)
def test_a_busy_provider_is_transient_with_its_retry_after(
    status: int, headers: dict[str, str], retry_after: int | None
) -> None:
    error = of_status(status, **headers)
    assert isinstance(error, TransientError)
    assert error.retry_after == (None if retry_after is None else timedelta(seconds=retry_after))
    assert f"{status}" in str(error)


@pytest.mark.parametrize("status", [300, 400, 401, 403, 404, 418, 451])
def test_a_rejection_is_permanent_and_quotes_the_beginning_of_the_body(status: int) -> None:
    error = of_status(status, "the key\n\tis \x00 wrong " + 200 * "x")
    assert isinstance(error, PermanentError)
    assert str(error).startswith(f"museum answered {status}: 'the key is wrong xxx")
    assert str(error).endswith("xxx...'")
    assert len(str(error)) < 130


@pytest.mark.parametrize("status", [401, 429, 500])
def test_an_error_and_its_traceback_have_no_key_of_the_query(status: int) -> None:
    assert "hunter2" not in "".join(traceback.format_exception(of_status(status)))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectTimeout("slow"), TransientError),
        (httpx.ReadTimeout("slow"), TransientError),
        (httpx.ConnectError("away"), TransientError),
        (httpx.ReadError("reset"), TransientError),
        (httpx.RemoteProtocolError("truncated"), TransientError),
        (RequestRejectedError("too_many_bytes"), PermanentError),
        (httpx.TooManyRedirects("loop"), PermanentError),
        (httpx.DecodingError("gzip"), PermanentError),
        (httpx.InvalidURL("no host"), PermanentError),
        (json.JSONDecodeError("Expecting value", "<html>", 0), PermanentError),
    ],
)
def test_what_httpx_raises_becomes_an_error_of_the_worker(error: Exception, expected: type[Exception]) -> None:
    translated = translated_from(error)
    assert type(translated) is expected
    assert "museum" in str(translated)


@pytest.mark.parametrize("error", [KeyError("items"), TypeError("None"), TimeoutError(), TransientError("busy")])
def test_other_exceptions_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, http.translated("museum"):
        raise error
    assert caught.value is error


# JSON


def response(status: int, body: bytes, **headers: str) -> Response:
    request = httpx.Request("GET", "https://museum.example/search?key=hunter2")
    return httpx.Response(status, content=body, headers=headers, request=request)


@pytest.mark.parametrize("status", [200, 400, 401, 404])
def test_json_is_returned_whatever_the_status_says(status: int) -> None:
    assert http.read_json(response(status, b'{"detail": "no"}'), "museum") == {"detail": "no"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_provider_in_trouble_is_an_error_even_with_json(status: int) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        http.read_json(response(status, b"{}"), "museum")


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe\x00\xd8", b'{"a": ', b"[" * 100_000])
def test_what_is_not_json_names_the_url_and_the_setting(body: bytes) -> None:
    with pytest.raises(PermanentError) as caught:
        http.read_json(response(403, body), "museum")
    message = str(caught.value)
    assert message.startswith("museum at https://museum.example/search answered 403 with something that is not JSON: '")
    assert message.endswith("; is PIXCRAWLER_MUSEUM_URL right?")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("soon", None), (None, None)])
def test_retry_after_of_a_response_is_read(header: str | None, seconds: int | None) -> None:
    headers = {} if header is None else {"Retry-After": header}
    found = http.retry_after_of(response(200, b"{}", **headers))
    assert found == (None if seconds is None else timedelta(seconds=seconds))

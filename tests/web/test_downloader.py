import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
import pytest
from fakes import hosts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web.addresses import DeniedError, Guard
from pixcrawler_worker.web.connect import guarded_connector, system_lookup
from pixcrawler_worker.web.downloader import ApiResponse, Downloader, Fetched
from pixcrawler_worker.web.policy import Policy

CERTIFICATE = Path(hosts.__file__).with_name("images_example.pem")
LOOPBACK = (ip_network("127.0.0.0/8"),)
SOON = timedelta(seconds=0.3)

RESPONSES = {
    "/no-length": b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    "/http-1.0": b"HTTP/1.0 200 OK\r\nContent-Type: IMAGE/JPEG; q=1\r\n\r\nold",
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    "/identity": b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi",
    "/twice": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: 2\r\n\r\nhi",
    "/brotli": b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nhi",
    "/hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/206": b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nhi",
    "/304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "/401": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "/451": b"HTTP/1.1 451 Unavailable For Legal Reasons\r\nContent-Length: 0\r\n\r\n",
    "/402": b"HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n",
    "/999": b"HTTP/1.1 999 Request Denied\r\nContent-Length: 0\r\n\r\n",
    "/announced": b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
    "/long-header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\nContent-Length: 2\r\n\r\nhi",
    "/many-headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"Content-Length: 2\r\n\r\nhi",
    "/bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\nabc\r\n",
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "/cookie": b"HTTP/1.1 302 Found\r\nSet-Cookie: a=b\r\nLocation: /good/cookie.jpg?x=1\r\n\r\n",
    "/to-user": b"HTTP/1.1 302 Found\r\nLocation: http://user:hunter2@example.com/\r\n\r\n",
    "/to-nonsense": b"HTTP/1.1 302 Found\r\nLocation: http://[hunter2/\r\n\r\n",
    "/to-inside": b"HTTP/1.1 302 Found\r\nLocation: //10.0.0.1:6379/?hunter2\r\n\r\n",
    "/to-umlaut": b"HTTP/1.1 302 Found\r\nLocation: /good/gr\xf6\xc3\x9fe \xe7.jpg\r\n\r\n",
}


@pytest.fixture(scope="module")
def server() -> Iterator[hosts.HostileServer]:
    with hosts.serving(responses=RESPONSES) as server:
        yield server


def policy(**changes: Any) -> Policy:
    known: dict[str, Any] = {
        "user_agent": "PixCrawlerTest/1 (+mailto:tests@example.com)",
        "allowed_networks": LOOPBACK,
        "deadline": timedelta(seconds=5),
    }
    return Policy(**known | changes)


def fetch(url: str, *, max_bytes: int | None = None, allowed: Policy | None = None, **seams: Any) -> Fetched:
    async def run() -> Fetched:
        downloader = Downloader(allowed or policy(), **seams)
        try:
            return await downloader.fetch(url, max_bytes=max_bytes)
        finally:
            await downloader.aclose()

    return asyncio.run(run())


def rejection(url: str, **options: Any) -> Reason:
    with pytest.raises(RejectedError) as caught:
        fetch(url, **options)
    return caught.value.reason


def fetch_from(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    scheme: str = "http",
    **changes: Any,
) -> Fetched:
    """Fetch from a host that behaves as `converse` does."""

    async def run() -> Fetched:
        downloader = Downloader(policy(**changes))
        async with hosts.listening(converse) as port:
            try:
                return await downloader.fetch(f"{scheme}://127.0.0.1:{port}/")
            finally:
                await downloader.aclose()

    return asyncio.run(run())


def test_a_good_image_arrives_as_it_was_sent(server: hosts.HostileServer) -> None:
    url = server.url("/good/1.jpg?size=large")
    assert fetch(url) == Fetched(url, 200, "image/jpeg", hosts.jpeg("1"))


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/no-length", None, b"until the end"),
        ("/http-1.0", "image/jpeg", b"old"),
        ("/chunked", None, b"abcdefg"),
        ("/identity", None, b"hi"),
        ("/hints", None, b"hi"),
        ("/206", None, b"hi"),
        ("/fault/html/1", "text/html", hosts.HTML),
        ("/fault/html-as-jpeg/1", "image/jpeg", hosts.HTML),
        ("/fault/wrong-type/1", "text/plain", hosts.png("1")),
        ("/fault/bomb/1", "image/png", hosts.bomb()),
        ("/fault/duplicate/1", "image/jpeg", hosts.jpeg("0")),
    ],
)
def test_a_complete_response_is_accepted_whatever_its_body_is(
    server: hosts.HostileServer, path: str, content_type: str | None, body: bytes
) -> None:
    fetched = fetch(server.url(path))
    assert (fetched.content_type, fetched.body) == (content_type, body)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/fault/403/1", Reason.FORBIDDEN),
        ("/fault/404/1", Reason.NOT_FOUND),
        ("/fault/410/1", Reason.NOT_FOUND),
        ("/fault/429/1", Reason.RATE_LIMITED),
        ("/fault/500/1", Reason.SERVER_ERROR),
        ("/fault/reset/1", Reason.RESET),
        ("/fault/close/1", Reason.RESET),
        ("/fault/truncated/1", Reason.TRUNCATED),
        ("/fault/short-chunked/1", Reason.TRUNCATED),
        ("/fault/endless/1", Reason.TOO_MANY_BYTES),
        ("/fault/slow/1", Reason.TIMEOUT),
        ("/fault/redirect-loop/1", Reason.TOO_MANY_REDIRECTS),
        ("/fault/redirect-private/1", Reason.FORBIDDEN_ADDRESS),
        ("/fault/redirect-file/1", Reason.BAD_URL),
        ("/fault/no-location/1", Reason.BAD_RESPONSE),
        ("/fault/gzip/1", Reason.BAD_RESPONSE),
        ("/fault/not-http/1", Reason.BAD_RESPONSE),
        ("/fault/empty/1", Reason.EMPTY),
        ("/204", Reason.EMPTY),
        ("/304", Reason.HTTP_STATUS),
        ("/401", Reason.FORBIDDEN),
        ("/402", Reason.HTTP_STATUS),
        ("/451", Reason.FORBIDDEN),
        ("/999", Reason.HTTP_STATUS),
        ("/twice", Reason.BAD_RESPONSE),
        ("/brotli", Reason.BAD_RESPONSE),
        ("/announced", Reason.TOO_MANY_BYTES),
        ("/long-header", Reason.BAD_RESPONSE),
        ("/many-headers", Reason.BAD_RESPONSE),
        ("/two-lengths", Reason.BAD_RESPONSE),
        ("/bad-chunk", Reason.BAD_RESPONSE),
        ("/to-user", Reason.BAD_URL),
        ("/to-nonsense", Reason.BAD_URL),
        ("/to-inside", Reason.FORBIDDEN_ADDRESS),
    ],
)
def test_every_fault_has_its_reason_and_shows_no_secret(server: hosts.HostileServer, path: str, reason: Reason) -> None:
    url = server.url(f"{path}?signature=hunter2")
    with pytest.raises(RejectedError) as caught:
        fetch(url, max_bytes=50_000, allowed=policy(deadline=SOON) if reason is Reason.TIMEOUT else policy())
    assert caught.value.reason is reason
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    assert server.base in str(caught.value)


def test_a_flaky_host_can_be_requested_again(server: hosts.HostileServer) -> None:
    url = server.url("/fault/flaky/again.jpg")
    assert rejection(url) is Reason.SERVER_ERROR
    assert fetch(url).body == hosts.jpeg("/fault/flaky/again.jpg")
    assert server.hits["/fault/flaky/again.jpg"] == 2


def test_a_redirect_is_followed_and_the_final_url_is_returned(server: hosts.HostileServer) -> None:
    fetched = fetch(server.url("/fault/redirect-ok/5"))
    assert fetched.url == server.url("/good/redirected-5.jpg")
    assert fetched.body == hosts.jpeg("redirected-5")


def test_redirects_are_followed_as_often_as_allowed(server: hosts.HostileServer) -> None:
    assert rejection(server.url("/fault/redirect-loop/six")) is Reason.TOO_MANY_REDIRECTS
    assert server.hits["/fault/redirect-loop/six"] == 6
    none = policy(max_redirects=0)
    assert rejection(server.url("/fault/redirect-ok/none"), allowed=none) is Reason.TOO_MANY_REDIRECTS


def test_a_location_in_no_particular_encoding_is_followed_byte_by_byte(server: hosts.HostileServer) -> None:
    assert fetch(server.url("/to-umlaut")).url == server.url("/good/gr%F6%C3%9Fe%20%E7.jpg")


def test_a_host_gets_the_user_agent_and_no_other_information(server: hosts.HostileServer) -> None:
    host = server.base.replace("http://127.0.0.1", "images.example")
    fetch(f"http://{host}/cookie", lookup=lambda _: ["127.0.0.1"])
    line, *fields = server.heads["/good/cookie.jpg"].strip().split("\r\n")
    assert line == "GET /good/cookie.jpg?x=1 HTTP/1.1"
    assert sorted(fields) == [
        "Accept-Encoding: identity",
        "Accept: image/*,*/*;q=0.8",
        f"Host: {host}",
        "User-Agent: PixCrawlerTest/1 (+mailto:tests@example.com)",
    ]


def test_the_body_of_a_redirect_is_not_read(server: hosts.HostileServer) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: %b\r\n\r\n" % server.url("/good/2.jpg").encode())
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    assert fetch_from(flood).body == hosts.jpeg("2")
    assert sent < 16 * 1024 * 1024, "more than socket buffers hold"


def test_a_body_is_accepted_up_to_the_cap_and_not_beyond(server: hosts.HostileServer) -> None:
    size = len(hosts.jpeg("3"))
    assert len(fetch(server.url("/good/3.jpg"), max_bytes=size).body) == size
    assert rejection(server.url("/good/3.jpg"), max_bytes=size - 1) is Reason.TOO_MANY_BYTES
    assert rejection(server.url("/good/3.jpg"), allowed=policy(max_bytes=size - 1)) is Reason.TOO_MANY_BYTES
    assert rejection(server.url("/chunked"), max_bytes=6) is Reason.TOO_MANY_BYTES
    stricter = policy(max_bytes=6)
    assert rejection(server.url("/chunked"), max_bytes=1000, allowed=stricter) is Reason.TOO_MANY_BYTES


def test_the_deadline_covers_redirects_and_interim_responses() -> None:
    async def redirect_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(4):
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    async def hint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.01)

    for converse in (redirect_slowly, hint):
        started = time.monotonic()
        with pytest.raises(RejectedError) as caught:
            fetch_from(converse, deadline=SOON)
        assert caught.value.reason is Reason.TIMEOUT
        assert time.monotonic() - started < 1


def test_an_idle_connection_ends_before_the_deadline(server: hosts.HostileServer) -> None:
    started = time.monotonic()
    assert rejection(server.url("/fault/slow/1"), allowed=policy(idle_timeout=SOON)) is Reason.TIMEOUT
    assert time.monotonic() - started < 1


def test_a_port_where_nothing_listens_is_a_failed_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert rejection(f"http://127.0.0.1:{port}/") is Reason.CONNECT_FAILED


def test_a_name_that_does_not_resolve_is_unresolved() -> None:
    def unknown(host: str) -> list[str]:
        raise OSError(f"{host} is unknown")

    assert rejection("http://images.example/", lookup=unknown) is Reason.UNRESOLVED
    assert rejection("http://images.example/", lookup=lambda _: []) is Reason.UNRESOLVED


def test_a_name_server_that_does_not_answer_is_a_timeout_and_does_not_delay_closing() -> None:
    def hang(_host: str) -> list[str]:
        time.sleep(1.5)
        return []

    async def run() -> float:
        started = time.monotonic()
        downloader = Downloader(policy(idle_timeout=SOON), lookup=hang)
        with pytest.raises(RejectedError, match="timeout"):
            await downloader.fetch("http://images.example/")
        await downloader.aclose()
        return time.monotonic() - started

    assert asyncio.run(run()) < 1.2


def test_the_loopback_is_forbidden_unless_allowed(server: hosts.HostileServer) -> None:
    before = server.hits.total()
    port = int(server.base.rpartition(":")[2])
    strict = policy(allowed_networks=(), ports=frozenset({port}))
    assert rejection(server.url("/good/1.jpg"), allowed=strict) is Reason.FORBIDDEN_ADDRESS
    for answers in (["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:127.0.0.1"]):
        reason = rejection(f"http://images.example:{port}/", allowed=strict, lookup=lambda _, found=answers: found)
        assert reason is Reason.FORBIDDEN_ADDRESS
    assert server.hits.total() == before


def test_a_name_is_checked_again_for_every_connection(server: hosts.HostileServer) -> None:
    answers = iter((["127.0.0.1"], ["10.0.0.1"]))
    port = server.base.rpartition(":")[2]

    async def run() -> None:
        downloader = Downloader(policy(), lookup=lambda _: next(answers))
        await downloader.fetch(f"http://images.example:{port}/good/1.jpg")
        await downloader.aclose()
        with pytest.raises(RejectedError, match="forbidden_address"):
            await downloader.fetch(f"http://images.example:{port}/good/1.jpg")
        await downloader.aclose()

    asyncio.run(run())


def test_a_connection_is_denied_even_for_a_url_that_was_not_checked(server: hosts.HostileServer) -> None:
    port = int(server.base.rpartition(":")[2])

    async def run() -> None:
        guard = Guard(ports=frozenset({port}))
        connector = guarded_connector(guard, lookup=system_lookup, lookup_timeout=SOON, tls=None)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get(server.url("/good/1.jpg"))
        assert isinstance(caught.value.os_error, DeniedError)

    asyncio.run(run())


def test_localhost_is_resolved_by_the_system_when_its_network_is_allowed(server: hosts.HostileServer) -> None:
    both = policy(allowed_networks=(*LOOPBACK, ip_network("::1/128")))
    url = server.url("/good/1.jpg").replace("127.0.0.1", "localhost")
    assert fetch(url, allowed=both).body == hosts.jpeg("1")


def test_a_certificate_is_checked_against_the_name() -> None:
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))

    def lookup(_host: str) -> list[str]:
        return ["127.0.0.1"]

    down = b"HTTP/1.1 302 Found\r\nLocation: http://images.example/\r\n\r\n"
    with hosts.serving(tls=listening, responses={"/down": down}) as server:
        port = server.base.rpartition(":")[2]
        base = f"https://images.example:{port}"
        assert fetch(f"{base}/good/1.jpg", lookup=lookup, tls=trusting).body == hosts.jpeg("1")
        assert rejection(f"{base}/good/1.jpg", lookup=lookup) is Reason.TLS_FAILED
        other = f"https://other.example:{port}/good/1.jpg"
        assert rejection(other, lookup=lookup, tls=trusting) is Reason.TLS_FAILED
        assert rejection(f"{base}/down", lookup=lookup, tls=trusting) is Reason.FORBIDDEN_ADDRESS


def test_a_connection_with_an_unread_response_is_aborted_at_once_over_tls_too() -> None:
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))

    def respond_and_wait(listener: socket.socket) -> bool:
        """Return whether the client left within 2 s. A TLS close would wait for an answer that is not given."""
        with listening.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.recv(1000)
            connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 99999\r\n\r\nOnce upon a time")
            connection.settimeout(2)
            try:
                while socket.socket.recv(connection, 1000):  # below TLS, which would answer
                    pass
            except ConnectionResetError:
                return True
            except TimeoutError:
                return False
            return True

    async def run(port: int, left: Future[bool]) -> bool:
        downloader = Downloader(policy(), lookup=lambda _: ["127.0.0.1"], tls=trusting)
        with pytest.raises(RejectedError, match="not_found"):
            await downloader.fetch(f"https://images.example:{port}/")
        try:
            return await asyncio.wrap_future(left)
        finally:
            await downloader.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        assert asyncio.run(run(listener.getsockname()[1], thread.submit(respond_and_wait, listener)))


def test_plain_http_behind_an_https_url_is_a_tls_failure() -> None:
    async def respond_in_plain_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(RejectedError) as caught:
        fetch_from(respond_in_plain_text, scheme="https")
    assert caught.value.reason is Reason.TLS_FAILED


def test_with_an_egress_proxy_everything_goes_through_it(server: hosts.HostileServer) -> None:
    def unused(host: str) -> list[str]:
        raise AssertionError(f"{host} must be resolved by the proxy")

    proxied = policy(egress_proxy=server.base)
    assert fetch("http://images.example/good/8.jpg", allowed=proxied, lookup=unused).body == hosts.jpeg("8")
    assert server.heads["/good/8.jpg"].startswith("GET http://images.example/good/8.jpg HTTP/1.1")
    for url in ("http://127.0.0.1/", "http://localhost/", "http://images.example:8080/"):
        assert rejection(url, allowed=proxied) is Reason.FORBIDDEN_ADDRESS
    assert rejection("https://images.example/", allowed=proxied) is Reason.CONNECT_FAILED


def test_a_proxy_that_is_away_is_transient_and_keeps_its_password() -> None:
    away = policy(egress_proxy="http://user:hunter2@127.0.0.1:1")
    with pytest.raises(TransientError) as caught:
        fetch("http://images.example/", allowed=away)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def request(head: str) -> ApiResponse:
    """Return the response of an API with this status line and these headers."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    async def run() -> ApiResponse:
        downloader = Downloader(policy())
        async with hosts.listening(converse) as port:
            try:
                return await downloader.request("GET", f"http://127.0.0.1:{port}/")
            finally:
                await downloader.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500, 503])
def test_every_status_of_an_api_is_a_response_with_its_headers(status: int) -> None:
    response = request(f"{status} Whatever\r\nX-Pages: 7")
    assert (response.status, response.body) == (status, b"{}")
    assert (b"X-Pages", b"7") in response.headers


def test_environment_proxies_are_ignored(server: hosts.HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(server.url("/good/1.jpg")).status == 200


@pytest.mark.parametrize(("host", "allowed"), [("images.example", 8), ("upload.wikimedia.org", 2)])
def test_connections_are_reused_and_never_more_than_the_limit_of_a_host(host: str, allowed: int) -> None:
    opened = open_now = peak = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened, open_now, peak
        opened, open_now = opened + 1, open_now + 1
        peak = max(peak, open_now)
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        open_now -= 1

    async def run() -> None:
        downloader = Downloader(policy(deadline=timedelta(seconds=0.3)), lookup=lambda _host: ["127.0.0.1"])
        async with hosts.listening(converse) as port:
            # Twenty-five rounds of all connections take 0.5 s; time in the queue does not count against the deadline.
            await asyncio.gather(*(downloader.fetch(f"http://{host}:{port}/") for _ in range(25 * allowed)))
            await downloader.aclose()

    asyncio.run(run())
    assert opened == peak == allowed


def test_a_closed_downloader_opens_again_in_another_loop(server: hosts.HostileServer) -> None:
    downloader = Downloader(policy())

    async def run() -> int:
        try:
            return (await downloader.fetch(server.url("/good/1.jpg"))).status
        finally:
            await downloader.aclose()

    assert [asyncio.run(run()), asyncio.run(run())] == [200, 200]


@settings(deadline=None, max_examples=60)
@example(b"")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")
@example(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
@example(b"HTTP/1.1 100 Continue\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx")
@example(b"HTTP/1.1 200 OK\r\nContent-Type: \xff;\xfe\r\n\r\nxx")
@example(b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=;;=\r\nContent-Encoding: \xff\r\n\r\nxx")
@example(b"HTTP/1.1 302 Found\r\nLocation: \xff://\xed\xa0\x80\r\n\r\n")
@example(b"HTTP/9.9 302\r\nLocation: http://\xf0\x9f\x98\x80.example:0/\r\n\r\n")
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=80).map(lambda junk: b"HTTP/1.1 200 OK\r\n" + junk + b"\r\n\r\nbody"),
        st.binary(max_size=80).map(lambda junk: b"HTTP/1.1 302 Found\r\nLocation: " + junk + b"\r\n\r\n"),
    )
)
def test_any_response_becomes_a_body_or_a_reason(response: bytes) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)

    try:
        assert fetch_from(converse, max_redirects=0).body
    except RejectedError as rejected:
        assert str(rejected).isprintable()  # noqa: PT017  either outcome is right


def test_the_hostile_server_runs_as_a_process_and_counts() -> None:
    with subprocess.Popen(
        [sys.executable, hosts.__file__, "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            base = process.stdout.readline().strip()
            assert fetch(f"{base}/good/1.jpg").body == hosts.jpeg("1")
            with urlopen(f"{base}/hits", timeout=5) as response:
                assert json.load(response)["/good/1.jpg"] == 1
        finally:
            process.terminate()

import asyncio
import gzip
import json
import socket
import ssl
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.request import urlopen

import pytest
from downloads import CERTIFICATE, SOON, fetch, fetch_from, policy, rejection
from fakes import hosts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web.downloader import ApiResponse, Downloader, Fetched


def _encoded(body: bytes, encoding: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (encoding, len(body)) + body


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
    "/many-headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1500 + b"Content-Length: 2\r\n\r\nhi",
    "/endless-header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\nContent-Length: 2\r\n\r\nhi",
    "/endless-headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 50_000 + b"Content-Length: 2\r\n\r\nhi",
    "/gzip": _encoded(gzip.compress(b"hi"), b"gzip"),
    "/x-gzip": _encoded(gzip.compress(b"hi"), b"X-GZIP"),
    "/deflate": _encoded(zlib.compress(b"hi"), b"deflate"),
    "/gzip-of-plain": _encoded(b"hi", b"gzip"),
    "/utf-8": _encoded(b"hi", b"UTF-8"),
    "/none": _encoded(b"hi", b"none"),
    "/binary": _encoded(b"hi", b"binary"),
    "/aws-chunked": _encoded(b"hi", b"aws-chunked"),
    "/gzip-bomb": _encoded(gzip.compress(bytes(2 << 20)), b"gzip"),
    "/half-gzip": _encoded(gzip.compress(b"hi there")[:-9], b"gzip"),
    "/damaged-gzip": _encoded(gzip.compress(b"")[:10] + b"\xff" * 40, b"gzip"),
    "/same-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "/same-length-list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
    "/length-and-chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhi\r\n0\r\n\r\n",
    "/more-than-announced": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi there",
    "/no-colon": b"HTTP/1.1 200 OK\r\nthis is not a header\r\nContent-Length: 2\r\n\r\nhi",
    "/space-before-colon": b"HTTP/1.1 200 OK\r\nX-Y : z\r\nContent-Length : 2\r\n\r\nhi",
    "/http-1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "/folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b: c\r\nno colon\r\n\r\nhi",
    "/lenient-hints": b"HTTP/1.1 103 Early Hints\r\nno colon\r\n\r\nHTTP/1.1 200 OK\r\nno colon\r\n\r\nhi",
    "/lenient-chunks": b"HTTP/1.1 200 OK\r\nno colon\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1;x=y\r\nh\r\n1  \r\ni\r\n0\r\n\r\n",
    "/lenient-redirect": b"HTTP/1.1 302 Found\r\nno colon\r\nLocation: /no-colon\r\n\r\n",
    "/lenient-404": b"HTTP/1.1 404 Not Found\r\nno colon\r\n\r\n",
    "/lenient-short": b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 20\r\n\r\nhi",
    "/lenient-short-chunks": b"HTTP/1.1 200 OK\r\nno colon\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi",
    "/lenient-announced": b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 999999999\r\n\r\nhi",
    "/bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\nabc\r\n",
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "/to-user": b"HTTP/1.1 302 Found\r\nLocation: http://user:hunter2@example.com/\r\n\r\n",
    "/to-nonsense": b"HTTP/1.1 302 Found\r\nLocation: http://[hunter2/\r\n\r\n",
    "/to-inside": b"HTTP/1.1 302 Found\r\nLocation: //10.0.0.1:6379/?hunter2\r\n\r\n",
    "/to-umlaut": b"HTTP/1.1 302 Found\r\nLocation: /good/gr\xf6\xc3\x9fe \xe7.jpg\r\n\r\n",
}


@pytest.fixture(scope="module")
def server() -> Iterator[hosts.HostileServer]:
    with hosts.serving(responses=RESPONSES) as server:
        yield server


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
        ("/long-header", None, b"hi"),
        ("/many-headers", None, b"hi"),
        ("/gzip", None, b"hi"),
        ("/x-gzip", None, b"hi"),
        ("/deflate", None, b"hi"),
        ("/gzip-of-plain", None, b"hi"),
        ("/utf-8", None, b"hi"),
        ("/none", None, b"hi"),
        ("/binary", None, b"hi"),
        ("/aws-chunked", None, b"hi"),
        ("/same-lengths", None, b"hi"),
        ("/same-length-list", None, b"hi"),
        ("/length-and-chunks", None, b"hi"),
        ("/more-than-announced", None, b"hi"),
        ("/no-colon", None, b"hi"),
        ("/space-before-colon", None, b"hi"),
        ("/http-1.2", None, b"hi"),
        ("/folded", None, b"hi"),
        ("/lenient-hints", None, b"hi"),
        ("/lenient-chunks", None, b"hi"),
        ("/lenient-redirect", None, b"hi"),
        ("/fault/gzip/2", "image/jpeg", hosts.jpeg("2")),
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
        ("/lenient-404", Reason.NOT_FOUND),
        ("/lenient-short", Reason.TRUNCATED),
        ("/lenient-short-chunks", Reason.TRUNCATED),
        ("/lenient-announced", Reason.TOO_MANY_BYTES),
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
        ("/endless-header", Reason.BAD_RESPONSE),
        ("/endless-headers", Reason.BAD_RESPONSE),
        ("/gzip-bomb", Reason.TOO_MANY_BYTES),
        ("/half-gzip", Reason.TRUNCATED),
        ("/damaged-gzip", Reason.BAD_RESPONSE),
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
    assert rejection(server.url("/fault/redirect-loop/eleven")) is Reason.TOO_MANY_REDIRECTS
    assert server.hits["/fault/redirect-loop/eleven"] == 11
    none = policy(max_redirects=0)
    assert rejection(server.url("/fault/redirect-ok/none"), allowed=none) is Reason.TOO_MANY_REDIRECTS


def test_a_location_in_no_particular_encoding_is_followed_byte_by_byte(server: hosts.HostileServer) -> None:
    assert fetch(server.url("/to-umlaut")).url == server.url("/good/gr%F6%C3%9Fe%20%E7.jpg")


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
        assert time.monotonic() - started < 5


def test_an_idle_connection_ends_before_the_deadline(server: hosts.HostileServer) -> None:
    started = time.monotonic()
    assert rejection(server.url("/fault/slow/1"), allowed=policy(idle_timeout=SOON)) is Reason.TIMEOUT
    assert time.monotonic() - started < 5


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

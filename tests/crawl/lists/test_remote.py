"""Lists at URLs: read whole, or rejected. The servers are real."""

import gzip
import http.server
import io
import ipaddress
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest
from fakes import s3, threaded
from list_samples import FORMATS, URLS, Unseekable, zstandard

from pixcrawler_worker.crawl.lists import reading, remote
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.policy import Policy

LINES = [f"http://a.example/{number}.jpg" for number in range(500)]
LIST = "\n".join(LINES).encode()
#: Bytes of a part: a list has dozens.
PART = 512


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends a list in the way that its path says. Attributes of the class are what the server knows."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    requests: list[tuple[str, str | None]] = []  # noqa: RUF012 - each server has a class of its own
    before: Callable[["Handler"], bool]

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Range"]))
        way = self.path.split("/")[1].partition("?")[0]
        getattr(self, f"send_{way.replace('-', '_')}", self.send_missing)()

    def send_missing(self) -> None:
        self.answer(404, b"not here")

    def send_whole(self) -> None:
        self.answer(200, LIST)

    def send_parts(self, content: bytes = LIST, etag: str = '"1"', *, cut: int = 0, total: str | None = None) -> None:
        asked = self.headers["Range"].removeprefix("bytes=").split("-")
        start, end = int(asked[0]), min(int(asked[1]) + 1, len(content))
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{total or len(content)}", "ETag": etag}
        if start >= len(content):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            self.answer(206, content[start:end], headers, cut=cut)

    def send_empty(self) -> None:
        self.send_parts(b"")

    def send_unknown_size(self) -> None:
        if self.headers["Range"]:
            self.send_parts(total="*")
        else:
            self.send_whole()

    def send_encoded(self) -> None:
        content = gzip.compress(LIST)
        if self.headers["Range"]:
            self.answer(206, content[:100], {"Content-Range": "bytes 0-99/1000", "Content-Encoding": "x-gzip"})
        else:
            self.answer(200, content, {"Content-Encoding": "x-gzip"})

    def send_cut(self) -> None:
        """Cut every second part off."""
        self.send_parts(cut=10 if len(self.requests) % 2 else 0)

    def send_always_cut(self) -> None:
        self.answer(200, LIST, cut=100)

    def send_cut_later(self) -> None:
        self.send_parts(cut=10 if self.headers["Range"] != f"bytes=0-{PART - 1}" else 0)

    def send_busy(self) -> None:
        if len(self.requests) % 3:
            self.answer(503, b"busy")
        else:
            self.send_parts()

    def send_broken(self) -> None:
        self.answer(500, b"broken")

    def send_login(self) -> None:
        self.answer(403, b"no")

    def send_changing(self) -> None:
        self.send_parts(etag=f'"{len(self.requests) > 3}"')

    def send_growing(self) -> None:
        self.send_parts(LIST + b"\n" * (len(self.requests) > 3))

    def send_replaced(self) -> None:
        if len(self.requests) > 3:
            self.send_whole()
        else:
            self.send_parts()

    def send_lying(self) -> None:
        self.answer(206, LIST[:PART], {"Content-Range": f"bytes 0-{PART}/{len(LIST)}"})

    def send_endless(self) -> None:
        """Send a body without a length, whose end is that of the connection."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(LIST)
        self.close_connection = True

    def send_chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LIST), LIST))

    def send_cut_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(LIST), LIST))
        self.close_connection = True

    def send_page(self) -> None:
        self.answer(200, b"<!DOCTYPE html><html><body>Sign in</body></html>", {"Content-Type": "text/html"})

    def send_moved(self) -> None:
        self.answer(302, b"", {"Location": "/parts/list.txt"})

    def send_inside(self) -> None:
        self.answer(302, b"", {"Location": "http://169.254.169.254/latest"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: int = 0) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        self.close_connection = self.close_connection or cut > 0

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def handler() -> type[Handler]:
    return type("OneHandler", (Handler,), {"requests": []})


@pytest.fixture
def server(handler: type[Handler]) -> Iterator[str]:
    with threaded.serving(handler) as url:
        yield url


def downloader(*networks: str, max_bytes: int = 1 << 20) -> Downloader:
    allowed = tuple(map(ipaddress.ip_network, networks))
    return Downloader(
        Policy(user_agent="test", max_bytes=max_bytes, deadline=timedelta(seconds=20), allowed_networks=allowed)
    )


def read(url: str, **limits: int) -> list[str]:
    with remote.opened(url, downloader("127.0.0.0/8", **limits), part=PART, pause=0.001) as file:
        return [row.url for row in reading.read(file, remote.name(url))]


def message_of(url: str, **limits: int) -> str:
    with pytest.raises(PermanentError) as raised:
        read(url, **limits)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "way", ["whole", "parts", "chunked", "cut", "busy", "moved", "unknown-size", "encoded", "parts?a=b&c=/d"]
)
def test_a_list_is_read_whole_however_its_server_sends_it(server: str, way: str) -> None:
    assert read(f"{server}/{way}/list.txt") == LINES


def test_every_format_gives_the_same_rows_from_a_file_a_pipe_and_a_url(handler: type[Handler]) -> None:
    contents = [compress(content) for content in FORMATS.values() for compress in (bytes, gzip.compress, zstandard)]

    def send_one(self: Handler) -> None:
        _, _, way, number = self.path.split("/")
        if way == "parts":
            self.send_parts(contents[int(number)])
        else:
            self.answer(200, contents[int(number)])

    handler.send_one = send_one  # type: ignore[attr-defined]  # of this server
    with threaded.serving(handler) as server:
        for number, content in enumerate(contents):
            rows = list(reading.read(io.BytesIO(content), "list"))
            pipe: BinaryIO = Unseekable(io.BytesIO(content))  # type: ignore[assignment]  # what it has of a file suffices
            assert list(reading.read(pipe, "list")) == rows
            for way in ("parts", "whole"):
                with remote.opened(f"{server}/one/{way}/{number}", downloader("127.0.0.0/8"), part=PART) as file:
                    assert list(reading.read(file, "list")) == rows
            assert [row.url for row in rows] == URLS


def test_a_list_is_requested_in_parts(server: str, handler: type[Handler]) -> None:
    read(f"{server}/parts/list.txt")
    parts = [f"bytes={start}-{min(start + PART, len(LIST)) - 1}" for start in range(0, len(LIST), PART)]
    assert [range_ for _, range_ in handler.requests] == parts


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("missing", "cannot be read: it answered 404: is the URL right, and may it be read without a login?"),
        ("login", "cannot be read: it answered 403: is the URL right, and may it be read without a login?"),
        ("broken", "cannot be read after 5 attempts: it answered 500"),
        ("always-cut", "cannot be read after 5 attempts: response shorter than announced ("),
        ("cut-later", "cannot be read after 5 attempts: response shorter than announced ("),
        ("cut-chunks", "cannot be read after 5 attempts: response shorter than announced ("),
        ("changing", "has changed while it was read: try again"),
        ("growing", "has changed while it was read: try again"),
        ("replaced", "has changed while it was read: try again"),
        ("lying", "sends other parts than it says: download it, and give the file"),
        ("endless", "does not say how long it is, so that a part may be missing: download it, and give the file"),
        ("inside", "redirects: "),
    ],
)
def test_a_list_that_is_not_read_whole_is_an_error_that_says_why(server: str, way: str, message: str) -> None:
    shown = message_of(f"{server}/{way}/list.txt?token=secret")
    assert shown.startswith(f"{server}/{way}/list.txt ")
    assert message in shown


def test_other_mistakes_say_what_to_do(server: str) -> None:
    assert message_of(f"{server}/page/list.txt").startswith(
        "list.txt, line 1: expected one URL per line, but this looks like HTML"
    )
    assert message_of(f"{server}/empty/list.txt") == "list.txt contains no URLs: expected one per line"
    assert "only as a whole, of which 64 MiB are read: download it, and give the file" in message_of(
        f"{server}/whole/list.txt", max_bytes=1000
    )
    assert message_of("http://[::1/list.txt") == "http://**** is no URL: Invalid IPv6 URL"
    assert message_of("ftp://a.example/list.txt") == (
        "a list is a file, - for stdin, or a URL with http://, https:// or s3://, not ftp://"
    )


def test_private_addresses_are_requested_only_where_they_are_allowed(server: str, handler: type[Handler]) -> None:
    with (
        pytest.raises(PermanentError, match="PIXCRAWLER_ALLOWED_NETWORKS"),
        remote.opened(f"{server}/whole/list.txt", downloader()),
    ):
        pass
    assert handler.requests == []


def test_a_server_that_is_gone_is_an_error(handler: type[Handler]) -> None:
    with threaded.serving(handler) as url:
        pass
    assert "cannot be read after 5 attempts" in message_of(f"{url}/parts/list.txt")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/lists/cats%20and%20dogs.csv?token=a/b", "cats and dogs.csv"),
        ("s3://bucket/lists/a.parquet", "a.parquet"),
        ("https://a.example", "a.example"),
    ],
)
def test_a_list_has_the_name_in_its_url(url: str, name: str) -> None:
    assert remote.name(url) == name


def test_a_list_is_read_from_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.serving(tmp_path) as server:
        for variable, value in server.variables.items():
            monkeypatch.setenv(variable, value)
        (server.bucket / "cats.txt").write_bytes(LIST)
        assert read("s3://bucket/cats.txt") == LINES

"""The page of a job on loopback, until it is interrupted: thumbnails are made when the page asks for them."""

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

import structlog

from pixcrawler_worker.browse import content, document, thumbnails
from pixcrawler_worker.browse.thumbnails import MissingThumbnailError
from pixcrawler_worker.db import browsed_images
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import PermanentError, WorkerError
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()

HOST = "127.0.0.1"
#: Files that are in memory at a time.
_MAX_READS = 8
#: Seconds after which a connection without a request is closed, and an image has to be there.
_IDLE_SECONDS, _IMAGE_SECONDS = 30, 60
#: A thumbnail does not change while the server runs: its URL has a token of its own at each start.
_CACHED = "private, max-age=86400, immutable"
_HTML, _JPEG, _TEXT = "text/html; charset=utf-8", "image/jpeg", "text/plain; charset=utf-8"
#: Digits of an id.
_MAX_DIGITS = 18
_SIDES = {"thumbnail": thumbnails.SIDE * 2, "large": thumbnails.LARGE_SIDE}


class _Answer(NamedTuple):
    status: HTTPStatus
    type: str
    body: bytes
    cache: str = "no-store"


def serve(runtime: Runtime, job_id: int, *, port: int, started: Callable[[str], None]) -> None:
    """Serve the page of a job on 127.0.0.1 until KeyboardInterrupt is raised; everything is closed by then.

    No other page can read it: the URL has a random token, and requests for another host name are rejected. No request
    changes anything.

    Args:
        runtime: connects to database, storage and decoder.
        job_id: the row in `crawl_jobs`.
        port: of the server; 0 for any that is free.
        started: called with the URL of the page.

    Raises:
        PermanentError: when there is no such job, it has no images, or the port is not free.
    """
    content.read(runtime, job_id)  # there is such a job, and it has images
    token = secrets.token_urlsafe(24)
    pages = _Pages(runtime, job_id, f"/{token}/")
    with _listening(pages, port) as bound:
        started(f"http://{HOST}:{bound}/{token}/")
        runtime.run(_forever())


async def _forever() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


@contextlib.contextmanager
def _listening(pages: "_Pages", port: int) -> Iterator[int]:
    try:
        server = _Server((HOST, port), pages)
    except OSError as error:
        why = error.strerror or error
        raise PermanentError(f"port {port} of {HOST} cannot be served on ({why}): choose another --port") from error
    thread = Thread(target=server.serve_forever, name="browse", kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Pages:
    """The answers to requests. They come from threads; storage and decoder belong to the loop of the runtime."""

    def __init__(self, runtime: Runtime, job_id: int, prefix: str) -> None:
        self._runtime, self._job_id = runtime, job_id
        self._prefix = prefix
        self._reads = asyncio.Semaphore(_MAX_READS)

    def answer(self, path: str) -> _Answer:
        """Return the answer to a request for a path."""
        prefix, rest = path[: len(self._prefix)], path[len(self._prefix) :]
        if not hmac.compare_digest(prefix.encode("latin-1", "replace"), self._prefix.encode()):
            return _said(HTTPStatus.NOT_FOUND, "not found: the URL of the page is what the command has printed")
        if not rest:
            return self._page()
        kind, _, name = rest.partition("/")
        if kind not in _SIDES or not (name.isascii() and name.isdigit()) or len(name) > _MAX_DIGITS:
            return _said(HTTPStatus.NOT_FOUND, "not found")
        return self._image(int(name), side=_SIDES[kind])

    def _page(self) -> _Answer:
        found = content.read(self._runtime, self._job_id)
        page = document.head(f"Images: {found.job.name}", content.to_json(found, None), served=True)
        return _Answer(HTTPStatus.OK, _HTML, page.encode(errors="replace") + document.END)

    def _image(self, image_id: int, *, side: int) -> _Answer:
        url = transact(
            self._runtime.sessions, lambda session: browsed_images.storage_url(session, self._job_id, image_id)
        )
        making = thumbnails.thumbnail(self._runtime, self._runtime.decoder, image_id, url, self._reads, side=side)
        if self._runtime.loop.is_closed():
            making.close()
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, "the server ends")
        try:
            body = asyncio.run_coroutine_threadsafe(making, self._runtime.loop).result(_IMAGE_SECONDS)
        except MissingThumbnailError as missing:
            return _said(HTTPStatus.NOT_FOUND, str(missing))
        except (TimeoutError, CancelledError):
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, "not read in time")
        return _Answer(HTTPStatus.OK, _JPEG, body, _CACHED)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # Two commands never share a port, of which one would not know.
    allow_reuse_address = True
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], pages: _Pages) -> None:
        self.pages = pages
        super().__init__(address, _Handler)

    @property
    def hosts(self) -> frozenset[str]:
        """What a request may name as its host. Another name would be one that a foreign page has for this address."""
        port = self.server_address[1]
        return frozenset({f"{HOST}:{port}", f"localhost:{port}"})

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: a browser that closes a connection is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pixcrawler", ""
    timeout = _IDLE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        self._send(self._answer(), has_body=True)

    def do_HEAD(self) -> None:
        self._send(self._answer(), has_body=False)

    def _answer(self) -> _Answer:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            return _said(HTTPStatus.MISDIRECTED_REQUEST, f"this server is {HOST}")
        try:
            return self.server.pages.answer(self.path)
        except WorkerError as error:
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except Exception:
            log.exception("a page could not be made: internal error", path=self.path.rpartition("/")[2])
            return _said(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error: see the terminal")

    def _send(self, answer: _Answer, *, has_body: bool) -> None:
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.type,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": answer.cache,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Log nothing: the path has the token."""


def _said(status: HTTPStatus, text: str) -> _Answer:
    return _Answer(status, _TEXT, text.encode())

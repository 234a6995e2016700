"""A real S3 server, rclone's, over a folder; and what may stand in front of one.

    with s3.serving(folder) as server:
        server.variables   # what obstore reads from the environment
        server.bucket      # a folder that is served as the bucket of that name

It checks signatures, keeps unfinished uploads to itself, and forgets them when it ends.
"""

import contextlib
import hashlib
import http.client
import re
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pixcrawler_worker.storage import multipart
from pixcrawler_worker.storage.multipart import Keys, Request

KEYS = Keys(name="pixcrawler-key", secret="pixcrawler-hidden")
_PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Server:
    """Where an S3 server answers, and the folder that is its one bucket."""

    endpoint: str
    bucket: Path

    @property
    def variables(self) -> dict[str, str]:
        return variables(self.endpoint)

    def unfinished(self) -> list[Path]:
        """What has arrived of uploads that have not ended."""
        return list(self.bucket.rglob(".rclone_temp_multipart_*"))


def variables(endpoint: str) -> dict[str, str]:
    """What the environment says of an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEYS.name,
        "AWS_SECRET_ACCESS_KEY": KEYS.secret,
        "AWS_REGION": KEYS.region,
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def serving(folder: Path, *, checks: bool = True) -> Iterator[Server]:
    """Serve a folder as long as the context lasts; unless it checks signatures, anybody may do anything."""
    root, log = folder / "served", folder / "rclone.log"
    (root / "bucket").mkdir(parents=True)
    program = Path(sysconfig.get_path("scripts"), "rclone")
    known = ["--auth-key", f"{KEYS.name},{KEYS.secret}"] if checks else []
    command = [str(program), "serve", "s3", "--config", "", "--addr", "127.0.0.1:0", *known, str(root)]
    with log.open("wb") as written, subprocess.Popen(command, stdout=written, stderr=written) as process:
        try:
            yield Server(_endpoint(process, log), root / "bucket")
        finally:
            process.terminate()
            process.wait()


def _endpoint(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the server answers, at a port that it chose and tells in its log."""
    late = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < late and process.poll() is None:
        if told := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            with contextlib.suppress(OSError):
                there = http.client.HTTPConnection(urlsplit(told[0]).netloc, timeout=5)
                with contextlib.closing(there):
                    there.request("GET", "/")
                    there.getresponse()
                return told[0]
        time.sleep(0.05)
    raise RuntimeError(f"no S3 server: {log.read_text()}")


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """Answer every request with that status, at the address that is given."""

    class Handler(_Handler):
        def answer(self) -> None:
            self.give(status, b"")

    with _listening(Handler) as address:
        yield address


@contextmanager
def mounted(server: Server, path: str) -> Iterator[str]:
    """Mount a server that checks no signatures under a path, and check them here, as one mounted there would.

    What clients sign is the path that they see.
    """
    behind = urlsplit(server.endpoint).netloc

    class Handler(_Handler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = parse_qsl(parts.query, keep_blank_values=True)
            headers = {name.lower(): value for name, value in self.headers.items()}
            if not parts.path.startswith(f"{path}/") or not _is_signed(self.command, parts.path, query, headers, body):
                self.give(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
                return
            plain = urlencode([one for one in query if not one[0].startswith("X-Amz-")], quote_via=quote)
            passed = {name: value for name, value in headers.items() if name in {"content-type", "range"}}
            connection = http.client.HTTPConnection(behind, timeout=_PATIENCE_SECONDS)
            with contextlib.closing(connection):
                connection.request(self.command, f"{parts.path.removeprefix(path)}?{plain}", body, passed)
                answer = connection.getresponse()
                self.give(answer.status, answer.read(), dict(answer.getheaders()))

    with _listening(Handler) as address:
        yield f"{address}{path}"


def _is_signed(method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str], body: bytes) -> bool:
    by_query = dict(query)
    if "X-Amz-Signature" in by_query:
        names, found, payload = by_query["X-Amz-SignedHeaders"], by_query["X-Amz-Signature"], "UNSIGNED-PAYLOAD"
        date = by_query["X-Amz-Date"]
    else:
        told = re.search(r"SignedHeaders=([\w;-]+), ?Signature=(\w+)", headers.get("authorization", ""))
        if told is None or headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest():
            return False
        names, found, payload, date = told[1], told[2], headers["x-amz-content-sha256"], headers["x-amz-date"]
    request = Request(
        method=method,
        path=path,
        query=urlencode(sorted(one for one in query if one[0] != "X-Amz-Signature"), quote_via=quote, safe=""),
        headers={name: headers[name] for name in names.split(";")},
        payload=payload,
    )
    return found == multipart.signature(request, KEYS, datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        raise NotImplementedError

    def give(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        kept = {name: value for name, value in (headers or {}).items() if name in {"Content-Type", "Etag"}}
        # The answer to a HEAD tells the size of what a GET would bring.
        size = (headers or {}).get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        self.send_response(status)
        for name, value in {**kept, "Last-Modified": self.date_time_string(), "Content-Length": size}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)


@contextmanager
def _listening(handler: type[_Handler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

"""A real S3 server, rclone's, over a folder; and proxies in front of one.

    with s3.serving(folder) as server:
        server.variables   # what obstore reads from the environment
        server.bucket      # a folder that is served as the bucket of that name

It checks signatures, does not list unfinished uploads, and loses them when it ends.
"""

import contextlib
import hashlib
import http.client
import re
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fakes import threaded

from pixcrawler_worker.storage import multipart
from pixcrawler_worker.storage.multipart import CanonicalRequest, Credentials

CREDENTIALS = Credentials(key_id="pixcrawler-key", secret="pixcrawler-hidden")
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Server:
    """The endpoint of an S3 server, and the folder that is its only bucket."""

    endpoint: str
    bucket: Path

    @property
    def variables(self) -> dict[str, str]:
        return variables(self.endpoint)

    def unfinished(self) -> list[Path]:
        """Return the files of the parts of unfinished uploads."""
        return list(self.bucket.rglob(".rclone_temp_multipart_*"))


def variables(endpoint: str) -> dict[str, str]:
    """Return the variables of the environment for an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": CREDENTIALS.key_id,
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret,
        "AWS_REGION": CREDENTIALS.region,
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def serving(folder: Path, *, checks: bool = True) -> Iterator[Server]:
    """Serve a folder in the context; without checks of signatures, every request is allowed."""
    root, log = folder / "served", folder / "rclone.log"
    (root / "bucket").mkdir(parents=True)
    program = Path(sysconfig.get_path("scripts"), "rclone")
    known = ["--auth-key", f"{CREDENTIALS.key_id},{CREDENTIALS.secret}"] if checks else []
    command = [str(program), "serve", "s3", "--config", "", "--addr", "127.0.0.1:0", *known, str(root)]
    with log.open("wb") as written, subprocess.Popen(command, stdout=written, stderr=written) as process:
        try:
            yield Server(_endpoint(process, log), root / "bucket")
        finally:
            process.terminate()
            process.wait()


def _endpoint(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the server responds; return its endpoint, whose port is in its log."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection(urlsplit(found[0]).netloc, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", "/")
                    connection.getresponse()
                return found[0]
        time.sleep(0.05)
    raise RuntimeError(f"no S3 server: {log.read_text()}")


@contextmanager
def responding(status: int) -> Iterator[str]:
    """Respond to every request with that status; yield the endpoint."""

    class Handler(_Handler):
        def respond(self) -> None:
            self.send(status, b"")

    with threaded.serving(Handler) as endpoint:
        yield endpoint


@contextmanager
def mounted(server: Server, path: str) -> Iterator[str]:
    """Serve a server without checks of signatures under a path, and check them here, as a server under that path would.

    Clients sign the path that they request.
    """
    target = urlsplit(server.endpoint).netloc

    class Handler(_Handler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = parse_qsl(parts.query, keep_blank_values=True)
            headers = {name.lower(): value for name, value in self.headers.items()}
            if not parts.path.startswith(f"{path}/") or not _is_signed(self.command, parts.path, query, headers, body):
                self.send(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
                return
            plain = urlencode([one for one in query if not one[0].startswith("X-Amz-")], quote_via=quote)
            passed = {name: value for name, value in headers.items() if name in {"content-type", "range"}}
            connection = http.client.HTTPConnection(target, timeout=_TIMEOUT_SECONDS)
            with contextlib.closing(connection):
                connection.request(self.command, f"{parts.path.removeprefix(path)}?{plain}", body, passed)
                response = connection.getresponse()
                self.send(response.status, response.read(), dict(response.getheaders()))

    with threaded.serving(Handler) as endpoint:
        yield f"{endpoint}{path}"


@dataclass
class Front:
    """What clients of a server request instead of it; with a status, that is the response to everything."""

    endpoint: str = ""
    status: int | None = None


@contextmanager
def fronted(server: Server) -> Iterator[Front]:
    """Serve a server that checks no signatures through a front."""
    front = Front()
    target = urlsplit(server.endpoint).netloc

    class Handler(_Handler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if front.status is not None:
                self.send(front.status, b"<Error><Code>Outage</Code></Error>")
                return
            passed = {name: value for name, value in self.headers.items() if name.lower() in {"content-type", "range"}}
            connection = http.client.HTTPConnection(target, timeout=_TIMEOUT_SECONDS)
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, passed)
                response = connection.getresponse()
                self.send(response.status, response.read(), dict(response.getheaders()))

    with threaded.serving(Handler) as endpoint:
        front.endpoint = endpoint
        yield front


def _is_signed(method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str], body: bytes) -> bool:
    by_query = dict(query)
    if "X-Amz-Signature" in by_query:
        names, found, payload = by_query["X-Amz-SignedHeaders"], by_query["X-Amz-Signature"], "UNSIGNED-PAYLOAD"
        date = by_query["X-Amz-Date"]
    else:
        signed = re.search(r"SignedHeaders=([\w;-]+), ?Signature=(\w+)", headers.get("authorization", ""))
        if signed is None or headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest():
            return False
        names, found, payload, date = signed[1], signed[2], headers["x-amz-content-sha256"], headers["x-amz-date"]
    request = CanonicalRequest(
        method=method,
        path=path,
        query=urlencode(sorted(one for one in query if one[0] != "X-Amz-Signature"), quote_via=quote, safe=""),
        headers={name: headers[name] for name in names.split(";")},
        payload=payload,
    )
    return found == multipart.signature(
        request, CREDENTIALS, datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        raise NotImplementedError

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        kept = {name: value for name, value in (headers or {}).items() if name in {"Content-Type", "Etag"}}
        # The response to a HEAD has the Content-Length of that to a GET.
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
            return self.respond
        raise AttributeError(name)

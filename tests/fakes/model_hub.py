"""A stand-in for the hub of Hugging Face that serves the files of one model."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ModelHub:
    """What is served.

    Attributes:
        name: of the repository.
        files: by path.
        endpoint: URL of the server.
        status: of every response; None for the right ones.
        requests: method and path of each, in their order.
    """

    name: str
    files: Mapping[str, bytes]
    endpoint: str = ""
    status: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def serving(name: str, files: Mapping[str, bytes]) -> Iterator[ModelHub]:
    served = ModelHub(name, files)

    class Handler(_Handler):
        hub = served

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def _answer(self, method: str) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.requests.append((method, path))
        about, file = f"/api/models/{hub.name}", path.removeprefix(f"/{hub.name}/resolve/{COMMIT}/")
        if hub.status:
            self._send(method, hub.status, b"{}")
        elif path in {f"{about}/revision/{revision}" for revision in ("main", COMMIT, "v1")}:
            siblings = [{"rfilename": one} for one in hub.files]
            self._send(method, 200, json.dumps({"id": hub.name, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"{about}/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": one, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for one, body in hub.files.items()
            ]
            self._send(method, 200, json.dumps(listed).encode())
        elif file in hub.files:
            self._send(method, 200, hub.files[file])
        else:
            self._send(method, 404, b"{}")

    def _send(self, method: str, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if method == "GET":
            self.wfile.write(body)

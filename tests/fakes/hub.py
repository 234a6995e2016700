"""A stand-in for the Hugging Face Hub: datasets, uploads by LFS, and commits, as huggingface_hub requests them.

Source of the requests and responses: `hf_api.py`, `_commit_api.py` and `lfs.py` of huggingface_hub 2.4.
"""

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: Files that are larger, or are no text, are uploaded by LFS, as the hub has it.
_MAX_REGULAR = 1 << 20
#: In the URLs for uploads, which are presigned.
SIGNATURE = "5ec4e7"


@dataclass
class Hub:
    """What the stand-in has, and how it responds.

    Attributes:
        endpoint: its URL.
        token: that may write.
        repositories: files by path, by the name of the dataset.
        private: names of datasets that only their owner sees.
        objects: what was uploaded by LFS, by SHA-256.
        uploads: number of uploads of objects.
        commits: number of commits.
        heads: number of the newest commit of a dataset, by its name; none before the first one that was pushed.
        cards: texts of cards that were checked.
        before: called with method and path of each request; returns a status to respond with, or
            None to respond as the hub does.
        after_commit: called when a commit is done, before its response.
    """

    endpoint: str = ""
    token: str = "hf_right"
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0
    commits: int = 0
    heads: dict[str, int] = field(default_factory=dict)
    cards: list[str] = field(default_factory=list)
    before: Callable[[str, str], int | None] | None = None
    after_commit: Callable[[], None] | None = None


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub on loopback in the context."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        """Log nothing."""

    def do_GET(self) -> None:
        self._respond("GET")

    def do_POST(self) -> None:
        self._respond("POST")

    def do_PUT(self) -> None:
        self._respond("PUT")

    def _respond(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if self.hub.before and (status := self.hub.before(method, path)):
            self._send(status, {"error": "as the test has it"})
            return
        if path.startswith("/objects/"):
            self._upload(path.removeprefix("/objects/"), body)
        elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._send(401, {"error": "Invalid username or password."})
        else:
            self._route(method, path, body)

    def _route(self, method: str, path: str, body: bytes) -> None:
        if (method, path) == ("POST", "/api/repos/create"):
            self._create(json.loads(body))
        elif (method, path) == ("POST", "/api/validate-yaml"):
            self.hub.cards.append(json.loads(body)["content"])
            self._send(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/datasets/(.+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(preupload|commit|revision|tree)/(?:main|[0-9a-f]{40}).*)?", path
        ):
            self._dataset(found[1], found[2], body)
        else:
            self._send(404, {"error": f"no route {path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.hub.endpoint}/datasets/{name}"
        if name in self.hub.repositories:
            self._send(409, {"error": "You already created this dataset repo", "url": url})
            return
        self.hub.repositories[name] = {".gitattributes": b"*.jpg filter=lfs\n"}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        self._send(200, {"url": url, "name": name, "id": name})

    def _dataset(self, name: str, what: str | None, body: bytes) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif what == "preupload":
            request = json.loads(body)
            wanted = request["files"]
            # As in a file of that name: only patterns such as `*.jpg`.
            patterns = request.get("gitIgnore", files.get(".gitignore", b"").decode()).split()
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "regular" if one["size"] < _MAX_REGULAR and _is_text(one["sample"]) else "lfs",
                    "shouldIgnore": any(fnmatch.fnmatch(one["path"], pattern) for pattern in patterns),
                    "oid": _oid(files.get(one["path"]), is_text=_is_text(one["sample"])),
                }
                for one in wanted
            ]
            self._send(200, {"files": modes})
        elif what == "commit":
            self._commit(name, files, body)
        elif what == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": "0"} for path, content in files.items()
            ]
            self._send(200, entries)
        else:
            siblings = [{"rfilename": path} for path in files]
            sha = self._head(name)
            self._send(200, {"id": name, "sha": sha, "siblings": siblings, "private": name in self.hub.private})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for one in wanted["objects"]:
            found: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                signed = f"{self.hub.endpoint}/objects/{one['oid']}?X-Amz-Signature={SIGNATURE}"
                found["actions"] = {"upload": {"href": signed}}
            objects.append(found)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self, digest: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.objects[digest] = body
        self.hub.uploads += 1
        self._send(200, {})

    def _commit(self, name: str, files: dict[str, bytes], body: bytes) -> None:
        changed = dict(files)
        header, *lines = map(json.loads, body.splitlines())
        if header["value"].get("parentCommit", self._head(name)) != self._head(name):
            self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changed[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del changed[value["path"]]
        self.hub.repositories[name] = changed
        self.hub.commits += 1
        self.hub.heads[name] = self.hub.commits
        if self.hub.after_commit:
            self.hub.after_commit()
        self._send(200, {"commitUrl": f"{self.hub.endpoint}/datasets/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})

    def _head(self, name: str) -> str:
        return f"{self.hub.heads.get(name, 0):040x}"

    def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _oid(content: bytes | None, *, is_text: bool) -> str | None:
    """Return what identifies the content of a file that is there: of git for text, and of LFS otherwise."""
    if content is None:
        return None
    if is_text:
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    return hashlib.sha256(content).hexdigest()


def _is_text(sample: str) -> bool:
    return b"\0" not in base64.b64decode(sample)

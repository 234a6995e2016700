"""URL lists on web servers and in object stores, read a part at a time.

A list that ends early would be a shorter list, and no one would notice. So a list is read to the length that its server
states, a part that is cut off is requested again, and what has changed meanwhile is an error.
"""

import asyncio
import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit

from pixcrawler_worker.domain.explanations import EXPLANATIONS
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.storage.objects import StoredObject
from pixcrawler_worker.web.downloader import ApiResponse, Downloader
from pixcrawler_worker.web.failures import of_status

#: Bytes of a list. One of this size has hundreds of millions of rows.
MAX_BYTES = 64 << 30
#: Bytes of a list that its server sends only as a whole.
MAX_WHOLE_BYTES = 64 << 20
#: Time for one request: some 100 kB/s.
DEADLINE = timedelta(minutes=10)
#: Bytes that are requested at a time.
_PART = 8 << 20
#: Attempts at one part, and the seconds between them.
_ATTEMPTS, _FIRST_PAUSE = 5, 0.5
_OK, _PARTIAL, _EMPTY = 200, 206, 416
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", re.ASCII)


class _Parts(Protocol):
    """Something of a known size that is read in parts."""

    @property
    def size(self) -> int:
        """Return its bytes."""

    def read(self, start: int, size: int) -> bytes:
        """Return the next bytes, from this position on: at least one, and about so many."""


def is_remote(where: str) -> bool:
    """Return whether this is a URL and no path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", where, re.IGNORECASE) is not None


def name(url: str) -> str:
    """Return the name of a list at a URL, for messages."""
    parts = urlsplit(url)
    return unquote(PurePosixPath(parts.path).name) or parts.netloc


@contextlib.contextmanager
def opened(url: str, downloader: Downloader, *, part: int = _PART, pause: float = _FIRST_PAUSE) -> Iterator[BinaryIO]:
    """Yield the list at a URL as a file.

    Args:
        url: http, https or s3.
        downloader: for what has to be requested from hosts; it may take bodies of `MAX_WHOLE_BYTES`.
        part: bytes that are requested at a time.
        pause: seconds before the second attempt at a part, and half of those before the third.

    Raises:
        PermanentError: when it cannot be read, or not as a whole, in the context, too; the message says why.
    """
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise PermanentError(f"{url} is no URL: {error}") from None
    if scheme == "s3":
        yield _file(StoredObject(url), part)
    elif scheme in {"http", "https"}:
        with asyncio.Runner() as runner:
            try:
                yield _file(_Response.begin(_Requests(runner, downloader, url, pause), part), part)
            finally:
                runner.run(downloader.aclose())
    else:
        raise PermanentError(
            f"a list is a file, - for stdin, or a URL with http://, https:// or s3://, not {scheme}://"
        )


def _file(parts: _Parts, part: int) -> BinaryIO:
    if parts.size > MAX_BYTES:
        raise PermanentError(f"the list has {parts.size:,} bytes, and the limit is {MAX_BYTES:,}: divide it")
    return cast("BinaryIO", io.BufferedReader(_Reader(parts, part), 1 << 16))


class _Reader(io.RawIOBase):
    """What is read in parts, as a file."""

    def __init__(self, parts: _Parts, part: int) -> None:
        self._parts, self._part = parts, part
        self._block, self._at, self._next = memoryview(b""), 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]  # of any buffer
        if self._at == len(self._block) and self._next < self._parts.size:
            size = min(self._part, self._parts.size - self._next)
            self._block, self._at = memoryview(self._parts.read(self._next, size)), 0
            self._next += len(self._block)
        taken = self._block[self._at : self._at + len(buffer)]
        buffer[: len(taken)] = taken
        self._at += len(taken)
        return len(taken)


@dataclass(frozen=True, slots=True)
class _Version:
    """What says whether a list is still the same."""

    size: int
    etag: str
    modified: str


@dataclass(frozen=True, slots=True)
class _Requests:
    """Requests for a list on a web server."""

    runner: asyncio.Runner
    downloader: Downloader
    url: str
    pause: float

    @property
    def shown(self) -> str:
        """The URL without its query, which may hold a signature."""
        return urlsplit(self.url)._replace(query="", fragment="").geturl()

    def part(self, start: int, size: int) -> ApiResponse:
        """Return the response to the request for a part, which may have another one, or all."""
        return self.runner.run(self._tried({"Range": f"bytes={start}-{start + size - 1}"}))

    def whole(self) -> ApiResponse:
        """Return the response to the request for all."""
        return self.runner.run(self._tried({}))

    async def _tried(self, headers: dict[str, str]) -> ApiResponse:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self.downloader.request("GET", self.url, headers={"Accept": "*/*", **headers})
            except RejectedError as error:
                why, may_pass = _reason(error), error.reason.is_retriable
            except TransientError as error:
                why, may_pass = str(error), True
            else:
                if response.status in {_OK, _PARTIAL, _EMPTY}:
                    return response
                reason = of_status(response.status)
                why, may_pass = f"it answered {response.status}", reason.is_retriable
                if reason in {Reason.NOT_FOUND, Reason.FORBIDDEN}:
                    why += ": is the URL right, and may it be read without a login?"
            if not may_pass or attempt == _ATTEMPTS:
                break
            await asyncio.sleep(self.pause * 2 ** (attempt - 1))
        tried = f" after {attempt} attempts" if attempt > 1 else ""
        raise PermanentError(f"{self.shown} cannot be read{tried}: {why}")


class _Response:
    """A list on a web server, of which the beginning was read."""

    def __init__(self, requests: _Requests, version: _Version, begin: bytes) -> None:
        self._requests, self._version, self._begin = requests, version, begin

    @property
    def size(self) -> int:
        return self._version.size

    @classmethod
    def begin(cls, requests: _Requests, part: int) -> "_Response":
        """Request the first part of a list; all of it where its server sends no parts."""
        response = requests.part(0, part)
        if response.status == _EMPTY:
            return cls(requests, _Version(0, "", ""), b"")
        if response.status == _PARTIAL:
            if version := _version(response):
                return cls(requests, version, _part(response, requests.shown, 0))
            response = requests.whole()
        body = _whole(response, requests.shown)
        return cls(requests, _Version(len(body), "", ""), body)

    def read(self, start: int, size: int) -> bytes:
        if start < len(self._begin):
            found, self._begin = self._begin[start:], b""
            return found
        response = self._requests.part(start, size)
        if response.status != _PARTIAL or _version(response) != self._version:
            raise PermanentError(f"{self._requests.shown} has changed while it was read: try again")
        return _part(response, self._requests.shown, start)


def _part(response: ApiResponse, shown: str, start: int) -> bytes:
    first, last = _range(response) or (-1, -1)
    if first != start or len(response.body) != last - first + 1:
        raise PermanentError(f"{shown} sends other parts than it says: download it, and give the file")
    return response.body


def _whole(response: ApiResponse, shown: str) -> bytes:
    headers = _headers(response)
    if "content-length" not in headers and headers.get("transfer-encoding", "").lower() != "chunked":
        raise PermanentError(
            f"{shown} does not say how long it is, so that a part may be missing: download it, and give the file"
        )
    return response.body


def _reason(error: RejectedError) -> str:
    match error.reason:
        case Reason.TOO_MANY_BYTES:
            return (
                f"its server sends it only as a whole, of which {MAX_WHOLE_BYTES >> 20} MiB are read: download it, and "
                "give the file"
            )
        case Reason.TRUNCATED | Reason.RESET | Reason.TOO_MANY_REDIRECTS | Reason.BAD_RESPONSE:
            # Their detail is the name of an error.
            return f"{EXPLANATIONS[error.reason].meaning} ({error.detail})"
    return error.detail


def _headers(response: ApiResponse) -> dict[str, str]:
    return {key.decode("latin-1").lower(): value.decode("latin-1").strip() for key, value in response.headers}


def _version(response: ApiResponse) -> _Version | None:
    """Return the version that a part is of; None for one that is encoded, or of something of unknown size."""
    headers = _headers(response)
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if found is None or headers.get("content-encoding", "identity") != "identity":
        return None
    return _Version(int(found[3]), headers.get("etag", ""), headers.get("last-modified", ""))


def _range(response: ApiResponse) -> tuple[int, int] | None:
    found = _CONTENT_RANGE.fullmatch(_headers(response).get("content-range", ""))
    return None if found is None else (int(found[1]), int(found[2]))

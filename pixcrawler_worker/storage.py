"""Where bytes rest: a folder, an object store, or memory, by one address."""

import asyncio
import contextlib
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore import parse_scheme
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, ObjectStore, S3Store, from_url

from pixcrawler_worker import uploads
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError

T = TypeVar("T")

#: Under what is no key, one that leads out of the storage say, there is nothing either.
_MISSING = (NotFoundError, FileNotFoundError, InvalidPathError, ValueError)
_PERMANENT = (NotSupportedError, PermissionDeniedError, UnauthenticatedError, PermissionError)
_EXAMPLES = "file:///srv/pixcrawler, s3://bucket/prefix or memory://"
#: Bytes that are uploaded at a time: the smallest of which 10,000, the most there may be, hold an archive.
_UPLOAD_PART = 16 * 1024 * 1024
#: Parts that are uploaded at once: they share the line, and each has to arrive before the storage counts as silent.
_UPLOADS_AT_ONCE = 2
#: Bytes of a large file that are read at a time.
_DOWNLOAD_PART = 4 * 1024 * 1024
#: Signed links of S3 last no longer (AWS, "Sharing objects with presigned URLs").
_LONGEST_LINK = timedelta(days=7)
#: How long an object store may be silent. Left to itself, obstore tells of one that is away after three minutes, and
#: gives a request 30 seconds in all, which is too short for large files.
_PATIENCE = {"connect_timeout": "5s", "read_timeout": "25s", "timeout": "1h"}
_RETRIES = {"retry_timeout": timedelta(seconds=20), "backoff": {"max_backoff": timedelta(seconds=5)}}
#: How the names of each provider's variables begin, and how those end that obstore's HTTP clients understand.
_VARIABLES = {"s3": "AWS", "gcs": "GOOGLE", "azure": "AZURE"}
_CLIENT_VARIABLES = (
    *("allow_http", "allow_invalid_certificates", "connect_timeout", "http1_only", "http2_only", "pool_idle_timeout"),
    *("pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url", "read_timeout", "timeout"),
    "user_agent",
)
#: What stands in the name of a file that is not finished.
UNFINISHED = ".unfinished-"

#: A key as `Storage` describes it, whose parts neither begin with a dot nor are empty.
_KEY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)

_REFUSED = re.compile(r"status code: 40[13]\b")
#: What went wrong, in a server's answer.
_CODE = re.compile(r"<Code>(\w+)</Code>", re.ASCII)


class FileMissingError(PermanentError):
    """Nothing is stored under that key."""


class Storage:
    """Files by key. A key is a relative path of ASCII letters, digits, `-`, `_` and `.`, with `/` between its parts.

    Args:
        url: `file:///folder` (made when it is missing), `s3://bucket/prefix` and what else obstore understands,
            or `memory://`. Credentials come from the environment, as the provider's own tools read them.
            The address is kept in rows and shown in logs, so it may not hold any.

    Raises:
        PermanentError: when the address is of no kind that is known, or the folder cannot be made.
    """

    def __init__(self, url: str) -> None:
        self._store = _open(url)
        base = url.rstrip("/")
        self._base = f"{base}//" if base.endswith(":") else base
        self._folder = local_path(url)

    def url(self, key: str) -> str:
        """Return the address that a row keeps for the key."""
        return f"{self._base}/{key}"

    def key(self, url: str) -> str:
        """Return the key behind an address made by `url`.

        Raises:
            PermanentError: when the address belongs to another storage.
        """
        if not url.startswith(f"{self._base}/") or url == f"{self._base}/":
            raise PermanentError(f"{url} does not lie in the configured storage {self._base}")
        return url[len(self._base) + 1 :]

    async def put(self, key: str, body: bytes) -> None:
        """Store the bytes under the key, whole or not at all, in place of what was there.

        Raises:
            TransientError: when the storage is full, busy or away.
            PermanentError: when it refuses us.
        """
        with _translated(f"{self.url(key)} could not be written"):
            await obstore.put_async(self._store, key, body)

    @contextlib.asynccontextmanager
    async def writing(self, key: str) -> AsyncIterator["Sink"]:
        """Write a file of any size from front to back; it is there as a whole once the context has ended well.

        Raises:
            TransientError, PermanentError: as for `put`, also from the sink.
        """
        what = f"{self.url(key)} could not be written"
        if self._folder is None:
            upload = obstore.open_writer_async(
                self._store, key, buffer_size=_UPLOAD_PART, max_concurrency=_UPLOADS_AT_ONCE
            )
            async with contextlib.AsyncExitStack() as stack:
                with _translated(what):
                    writer = await stack.enter_async_context(_aborted_at_worst(upload))
                # What is raised inside is the caller's own, and no trouble of the storage.
                yield _Upload(writer, what)
                with _translated(what):
                    await stack.pop_all().aclose()
            return
        path = self._folder / key
        unfinished = path.with_name(f"{path.name}{UNFINISHED}{secrets.token_hex(8)}")
        try:
            with _translated(what):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = unfinished.open("xb", buffering=0)
            with file:
                yield _Local(file, what)
            with _translated(what):
                unfinished.replace(path)
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)

    async def size(self, key: str) -> int | None:
        """Return how many bytes are stored under the key; None when nothing is. Raises as `put`."""
        with _translated(f"{self.url(key)} could not be looked at"):
            try:
                return (await obstore.head_async(self._store, key))["size"]
            except (NotFoundError, FileNotFoundError):
                return None

    def link(self, key: str, *, lives: timedelta) -> tuple[str, timedelta]:
        """Return an address from which anybody can fetch the file, and how long it works.

        Links to object stores are signed, and work for a week at most; a file's address works as long as the file.
        """
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            return self.url(key), lives
        signed = min(lives, _LONGEST_LINK)
        with _translated(f"no link to {self.url(key)} could be signed"):
            return obstore.sign(self._store, "GET", key, signed), signed

    async def get(self, key: str, *, most: int | None = None) -> bytes:
        """Return what is stored under the key.

        Args:
            key: of the file.
            most: bytes that are read at all; any number when left out.

        Raises:
            FileMissingError: when nothing is.
            RejectedError: TOO_MANY_BYTES when there are more than `most`.
            TransientError, PermanentError: as for `put`.
        """
        if path := self._path(key):
            # A twentieth of what the store takes for it.
            return await asyncio.to_thread(_read, path, most)
        with _translated(f"{self.url(key)} could not be read"):
            answer = await obstore.get_async(self._store, key)
            if most is not None and answer.meta["size"] > most:
                raise RejectedError(Reason.TOO_MANY_BYTES, f"{self.url(key)} has more than {most} bytes")
            return bytes(await answer.bytes_async())

    async def get_all(
        self, keys: Sequence[str], use: Callable[[bytes], T], *, most: int
    ) -> list[T | FileMissingError | RejectedError]:
        """Return what `use` makes of each file, or why there is none: many small files for the price of one thread.

        Args:
            keys: of the files.
            use: called with each file's bytes, in a thread.
            most: bytes that a file may have.

        Raises:
            TransientError, PermanentError: as for `put`.
        """
        paths = [self._path(key) for key in keys]
        if all(paths):
            return await asyncio.to_thread(lambda: [_used(use, path, most) for path in paths if path])
        # They are fetched one beside the other.
        bodies = await asyncio.gather(*(self._get_or_why(key, most) for key in keys))
        return await asyncio.to_thread(lambda: [use(body) if isinstance(body, bytes) else body for body in bodies])

    async def _get_or_why(self, key: str, most: int) -> bytes | FileMissingError | RejectedError:
        try:
            return await self.get(key, most=most)
        except (FileMissingError, RejectedError) as error:
            return error

    def _path(self, key: str) -> str | None:
        """Return the path of a file that this machine has; None for what is left to the store.

        A row may say anything: what is no key of ours is left to the store, which leads nowhere outside of the folder.
        """
        return f"{self._folder}/{key}" if self._folder is not None and _KEY.fullmatch(key) else None

    async def blocks(self, key: str) -> AsyncIterator[bytes]:
        """Yield what is stored under the key, a piece at a time. Raises as `get`."""
        with _translated(f"{self.url(key)} could not be read"):
            answer = await obstore.get_async(self._store, key)
            async for block in answer.stream(min_chunk_size=_DOWNLOAD_PART):
                yield bytes(block)

    @contextlib.contextmanager
    def opened(self, key: str) -> Iterator[FileIO | None]:
        """Keep the file under the key open for whoever can read it by itself; None where files are not on this machine.

        The system is told that all of it will be read: several files that are open are read from the disk at once.

        Raises:
            FileMissingError, TransientError, PermanentError: as for `get`.
        """
        if (path := self._path(key)) is None:
            yield None
            return
        with _translated(f"{self.url(key)} could not be read"):
            try:
                file = FileIO(path, opener=_open_at_once)
            except (IsADirectoryError, NotADirectoryError) as error:
                raise FileNotFoundError(str(error)) from error
        with file:
            if hasattr(os, "posix_fadvise"):  # macOS has none
                with contextlib.suppress(OSError):  # a pipe takes no advice
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            yield file

    async def delete(self, keys: Collection[str]) -> None:
        """Delete what is stored under the keys; a key without a file is no error."""
        if keys:
            with _translated("files could not be deleted"):
                try:
                    await obstore.delete_async(self._store, sorted(keys))
                except (NotFoundError, FileNotFoundError):
                    # A folder gives up at the first one that is missing, and leaves the others.
                    for key in keys:
                        with contextlib.suppress(NotFoundError, FileNotFoundError):
                            await obstore.delete_async(self._store, key)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Yield every key below the prefix, which ends at a `/`."""
        async for key, _ in self.sizes(prefix):
            yield key

    async def sizes(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """Yield every key below the prefix, which ends at a `/`, and the bytes that are stored under it."""
        with _translated(f"{self.url(prefix)} could not be listed"):
            async for batch in obstore.list(self._store, prefix):
                for found in batch:
                    yield found["path"], found["size"]

    async def abort_uploads(self, prefix: str, *, older: timedelta) -> int:
        """Abort uploads to keys below the prefix that dead workers left unfinished, and return how many there were.

        S3 keeps what was uploaded of them, for money and out of sight. No other storage is asked.

        Args:
            prefix: of the keys; ends at a `/`.
            older: how long ago they must have begun.

        Raises:
            TransientError, PermanentError: as for `put`.
        """
        if not isinstance(self._store, S3Store):
            return 0
        above = f"{self._store.prefix}/" if self._store.prefix else ""
        return await uploads.abort(self._store.config["bucket"], f"{above}{prefix}", older=older)


class Sink(Protocol):
    """A file that is being written."""

    async def write(self, blocks: Sequence[bytes]) -> None:
        """Append the blocks."""
        ...


class _Writer(Protocol):
    async def write(self, buffer: bytes, /) -> int: ...


class _Upload:
    """A file in an object store, uploaded in parts."""

    def __init__(self, writer: _Writer, what: str) -> None:
        self._writer = writer
        self._what = what

    async def write(self, blocks: Sequence[bytes]) -> None:
        with _translated(self._what):
            for block in blocks:
                await self._writer.write(block)


@contextlib.asynccontextmanager
async def _aborted_at_worst(upload: contextlib.AbstractAsyncContextManager[_Writer]) -> AsyncIterator[_Writer]:
    """End an upload well, or have it aborted; what was raised in the context is what leaves it.

    Parts that are still under way can make the server refuse to abort, which says nothing of why it should.
    """
    raised: BaseException | None = None
    try:
        async with upload as writer:
            try:
                yield writer
            except BaseException as error:
                raised = error
                raise
    except (BaseError, OSError, ValueError):
        if raised is not None:
            raise raised from None
        raise


class _Local:
    """A file on this machine: the store would copy every block twice."""

    def __init__(self, file: FileIO, what: str) -> None:
        self._file = file
        self._what = what

    async def write(self, blocks: Sequence[bytes]) -> None:
        with _translated(self._what):
            await asyncio.to_thread(self._write, blocks)

    def _write(self, blocks: Sequence[bytes]) -> None:
        # As many at once as every system takes (IOV_MAX).
        for first in range(0, len(blocks), 512):
            left = [memoryview(block) for block in blocks[first : first + 512]]
            while left:
                written = os.writev(self._file.fileno(), left)
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = left[0][written:]


def _read(path: str, most: int | None) -> bytes:
    """Return what a file holds. Plain system calls: a file object takes half as long again."""
    try:
        descriptor = _open_at_once(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError("no regular file")
            size = status.st_size
            if most is not None and size > most:
                raise RejectedError(Reason.TOO_MANY_BYTES, f"file://{path} has more than {most} bytes")
            body = os.read(descriptor, size + 1)
            while len(body) < size and (more := os.read(descriptor, size - len(body) + 1)):
                body += more
            return body
        finally:
            os.close(descriptor)
    except OSError as error:
        # Below a file there is nothing.
        what = FileNotFoundError(str(error)) if isinstance(error, NotADirectoryError) else error
        raise _told(f"file://{path} could not be read", what) from error


def _used(use: Callable[[bytes], T], path: str, most: int) -> T | FileMissingError | RejectedError:
    try:
        return use(_read(path, most))
    except (FileMissingError, RejectedError) as error:
        return error


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a named pipe in its place would hold up everything."""
    return os.open(path, flags | os.O_NONBLOCK)


def local_path(url: str) -> Path | None:
    """Return the path behind a `file://` address; None for any other kind."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _open(url: str) -> ObjectStore:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PermanentError(f"the storage's address cannot be read; use {_EXAMPLES}") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise PermanentError(
            "the storage's address may hold no credentials, `?` or `#`: credentials belong in the environment, "
            f"and other characters are written as %23; use {_EXAMPLES}"
        )
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise PermanentError(f"the storage {url} names no folder: it takes three slashes, as file:///srv/pixcrawler")
    try:
        if folder := local_path(url):
            return LocalStore(folder, mkdir=True)
        return from_url(url, **_manners(parse_scheme(url)))
    except (BaseError, OSError, ValueError) as error:
        raise PermanentError(f"the storage {url} cannot be opened ({_brief(error)}); use {_EXAMPLES}") from error


def _manners(scheme: str) -> dict[str, Any]:
    """Return how an object store is spoken to: as the environment says, else as we do.

    Client options that are handed over take the place of all that obstore would read from the environment.
    """
    told = {name: os.environ.get(f"{_VARIABLES.get(scheme, '')}_{name.upper()}") for name in _CLIENT_VARIABLES}
    return {
        "client_options": _PATIENCE | {name: value for name, value in told.items() if value},
        "retry_config": _RETRIES,
    }


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _told(what, error) from error


def _told(what: str, error: Exception) -> TransientError | PermanentError:
    if "<Code>NoSuchBucket</Code>" in str(error):
        return PermanentError(f"{what}: there is no such bucket")
    if isinstance(error, _MISSING):
        return FileMissingError(f"{what}: there is no such file")
    # Some requests, lists among them, have no error of their own for what they were refused.
    if isinstance(error, _PERMANENT) or _REFUSED.search(str(error)):
        return PermanentError(f"{what}: {_brief(error)}")
    return TransientError(f"{what}: {_brief(error)}")


def _brief(error: Exception) -> str:
    """Return what happened, without obstore's dump of its own internals on the lines below.

    A server answers with a document, of which the code is for people.
    """
    brief = str(error).partition("\n")[0].partition(": <")[0]
    code = _CODE.search(str(error))
    return f"{brief}: {code[1]}" if code else brief

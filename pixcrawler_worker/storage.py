"""Where bytes rest: a folder, an object store, or memory, by one address."""

import contextlib
import os
import re
from collections.abc import AsyncIterator, Collection, Iterator
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from pixcrawler_worker.domain.reasons import Reason, RefusedError
from pixcrawler_worker.errors import PermanentError, TransientError

_PERMANENT = (NotSupportedError, PermissionDeniedError, UnauthenticatedError)
_EXAMPLES = "file:///srv/pixcrawler, s3://bucket/prefix or memory://"


#: A key as `Storage` describes it, whose parts neither begin with a dot nor are empty.
_KEY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)


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

    async def get(self, key: str, *, most: int | None = None) -> bytes:
        """Return what is stored under the key.

        Args:
            key: of the file.
            most: bytes that are read at all; any number when left out.

        Raises:
            FileMissingError: when nothing is.
            RefusedError: TOO_MANY_BYTES when there are more than `most`.
            TransientError, PermanentError: as for `put`.
        """
        with _translated(f"{self.url(key)} could not be read"):
            answer = await obstore.get_async(self._store, key)
            if most is not None and answer.meta["size"] > most:
                raise RefusedError(Reason.TOO_MANY_BYTES, f"{self.url(key)} has more than {most} bytes")
            return bytes(await answer.bytes_async())

    @contextlib.contextmanager
    def opened(self, key: str) -> Iterator[FileIO | None]:
        """Keep the file under the key open for whoever can read it by itself; None where files are not on this machine.

        The system is told that all of it will be read: several files that are open are read from the disk at once.

        Raises:
            FileMissingError, TransientError, PermanentError: as for `get`.
        """
        # A row may say anything: what is no key of ours is left to `get`, which leads nowhere outside of the folder.
        if self._folder is None or not _KEY.fullmatch(key):
            yield None
            return
        with _translated(f"{self.url(key)} could not be read"):
            try:
                file = FileIO(f"{self._folder}/{key}", opener=_open_at_once)
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
        with _translated(f"{self.url(prefix)} could not be listed"):
            async for batch in obstore.list(self._store, prefix):
                for found in batch:
                    yield found["path"]


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
        return from_url(url)
    except (BaseError, OSError, ValueError) as error:
        raise PermanentError(f"the storage {url} cannot be opened ({_brief(error)}); use {_EXAMPLES}") from error


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError, InvalidPathError, ValueError) as error:
        # Under what is no key, one that leads out of the storage say, there is nothing either.
        raise FileMissingError(f"{what}: there is no such file") from error
    except (*_PERMANENT, PermissionError) as error:
        raise PermanentError(f"{what}: {_brief(error)}") from error
    except (BaseError, OSError) as error:
        raise TransientError(f"{what}: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """Return what happened, without obstore's dump of its own internals on the lines below."""
    return str(error).partition("\n")[0]

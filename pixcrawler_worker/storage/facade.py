"""Files by key in a folder, an object store, or memory, by one URL."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from datetime import timedelta
from io import FileIO
from itertools import islice
from typing import TypeVar

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import AzureStore, GCSStore, S3Store

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.storage import local, multipart
from pixcrawler_worker.storage.failures import FileMissingError, translated
from pixcrawler_worker.storage.keys import MAX_KEY_BYTES, is_key, key_parts, prefix_parts
from pixcrawler_worker.storage.local import LocalFolder, LocalSink
from pixcrawler_worker.storage.local_writer import LocalWriter
from pixcrawler_worker.storage.stores import open_store
from pixcrawler_worker.storage.uploads import Sink, UploadSink, aborted_on_error

T = TypeVar("T")

#: Bytes of a part of an upload: 10,000 parts, the limit of S3, are enough for any archive that is written here.
_UPLOAD_PART = 16 * 1024 * 1024
#: Concurrent uploads of parts: they share the bandwidth, and each must end before the read timeout.
_CONCURRENT_PARTS = 2
#: Minimum size of the blocks in which large files are read.
_DOWNLOAD_PART = 4 * 1024 * 1024
#: Files that are tried to find out whether any can be read, and the bytes that one of them may have.
_MAX_TRIED, _MAX_TRIED_BYTES = 4, 64 * 1024 * 1024
#: The maximum TTL of presigned URLs of S3 (AWS, "Sharing objects with presigned URLs").
_MAX_LINK_TTL = timedelta(days=7)

#: Keys of a list that are read from a folder at a time.
_LIST_PART = 1000


class Storage:
    """Files by key. A key is a relative path of ASCII letters, digits, `-`, `_` and `.`, with `/` between its parts.

    A row may have a key that another program wrote: `keys.py` says which are possible. Any other raises a
    `FileMissingError` before the storage is asked. Links in a folder are not followed.

    Args:
        url: `file:///folder` (created when it is missing), `s3://bucket/prefix` and what else obstore supports,
            or `memory://`. Credentials come from the environment variables of the provider's own tools.
            The URL is stored in rows and logged, so it must not contain any.

    Raises:
        PermanentError: when the URL is invalid, or the folder cannot be created.
    """

    def __init__(self, url: str) -> None:
        self._store = open_store(url)
        base = url.rstrip("/")
        self._base = f"{base}//" if base.endswith(":") else base
        path = local.path_of(url)
        self._folder = None if path is None else LocalFolder(path)
        self._writer = None if self._folder is None else LocalWriter(self._folder)
        # A bucket's limit holds for the prefix as well.
        prefix = getattr(self._store, "prefix", None)
        self._max_key_bytes = MAX_KEY_BYTES - (len(f"{prefix}/".encode()) if prefix else 0)

    def url(self, key: str) -> str:
        """Return the URL that a row keeps for the key."""
        return f"{self._base}/{key}"

    def key(self, url: str) -> str:
        """Return the key in a URL made by `url`.

        Raises:
            PermanentError: when the URL belongs to another storage.
        """
        if not url.startswith(f"{self._base}/") or url == f"{self._base}/":
            raise PermanentError(f"{url} is not in the configured storage {self._base}")
        return url[len(self._base) + 1 :]

    async def put(self, key: str, body: bytes) -> None:
        """Store the bytes under the key, whole or not at all, in place of what was there.

        Raises:
            OutageError: when the storage is full, read only, unavailable, or denies access.
            PermanentError: when there can be no file under that key, or the bucket does not exist.
        """
        parts = self._parts(key)
        with translated(f"{self.url(key)} could not be written"):
            if self._writer is not None:
                await self._writer.write(parts, body)
            else:
                await obstore.put_async(self._store, key, body)

    @contextlib.asynccontextmanager
    async def writing(self, key: str) -> AsyncIterator[Sink]:
        """Write a file of any size from front to back; it exists once the context has ended without an error.

        Raises:
            OutageError, PermanentError: as for `put`, also from the sink.
        """
        parts = self._parts(key)
        what = f"{self.url(key)} could not be written"
        async with contextlib.AsyncExitStack() as stack:
            with translated(what):
                sink: Sink
                if self._folder is not None:
                    sink = LocalSink(stack.enter_context(self._folder.created(parts)), what)
                else:
                    upload = obstore.open_writer_async(
                        self._store, key, buffer_size=_UPLOAD_PART, max_concurrency=_CONCURRENT_PARTS
                    )
                    sink = UploadSink(await stack.enter_async_context(aborted_on_error(upload)), what)
            # An exception from inside the context is the caller's error, and not one of the storage.
            yield sink
            with translated(what):
                await stack.pop_all().aclose()

    async def size(self, key: str) -> int | None:
        """Return the size of the file under the key in bytes; None when there is none. Raises as `put`."""
        try:
            parts = self._parts(key)
        except FileMissingError:
            return None
        with translated(f"{self.url(key)} could not be requested"):
            if self._folder is not None:
                return await asyncio.to_thread(self._folder.size, parts)
            try:
                return (await obstore.head_async(self._store, key))["size"]
            except (NotFoundError, FileNotFoundError):
                return None

    def link(self, key: str, *, ttl: timedelta) -> tuple[str, timedelta]:
        """Return a URL from which the file can be downloaded without credentials, and its TTL.

        Links to object stores are presigned and expire after a week at the latest; the URL of a local file does not.
        """
        self._parts(key)
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            return self.url(key), ttl
        link_ttl = min(ttl, _MAX_LINK_TTL)
        with translated(f"no link to {self.url(key)} could be signed"):
            return obstore.sign(self._store, "GET", key, link_ttl), link_ttl

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return the content of the file under the key.

        Args:
            key: of the file.
            max_bytes: a larger file is rejected; any size by default.

        Raises:
            FileMissingError: when there is no such file.
            RejectedError: TOO_MANY_BYTES when it has more than `max_bytes`.
            OutageError, PermanentError: as for `put`.
        """
        parts = self._parts(key)
        if self._folder is not None:
            return await asyncio.to_thread(self._folder.read, parts, max_bytes)
        with translated(f"{self.url(key)} could not be read"):
            response = await obstore.get_async(self._store, key)
            if max_bytes is not None and response.meta["size"] > max_bytes:
                raise RejectedError(Reason.TOO_MANY_BYTES, f"{self.url(key)} has more than {max_bytes} bytes")
            return bytes(await response.bytes_async())

    async def get_all(self, keys: Sequence[str], use: Callable[[bytes], T], *, max_bytes: int) -> list[T | WorkerError]:
        """Return the result of `use` for each file, or the error of reading it: many small files in one thread.

        An error in the result may be about its file alone: `FileMissingError`, `RejectedError`, another
        `PermanentError`, or an `OutageError` with `may_be_one_file`.

        Args:
            keys: of the files.
            use: called with each file's bytes, in a thread.
            max_bytes: maximum size of a file.

        Raises:
            OutageError: when the storage is unavailable, or denies all of them.
        """
        if self._folder is not None:
            return await asyncio.to_thread(self._use_all, self._folder, keys, use, max_bytes)
        # They are downloaded concurrently.
        bodies = await asyncio.gather(*(self._get_or_error(key, max_bytes) for key in keys))
        outages = [one for one in bodies if isinstance(one, OutageError)]
        if outages and len(outages) == len(bodies):
            raise outages[0]
        return await asyncio.to_thread(lambda: [use(body) if isinstance(body, bytes) else body for body in bodies])

    def _use_all(
        self, folder: LocalFolder, keys: Sequence[str], use: Callable[[bytes], T], max_bytes: int
    ) -> list[T | WorkerError]:
        possible: list[Sequence[str]] = []
        errors: dict[int, WorkerError] = {}
        for position, key in enumerate(keys):
            try:
                possible.append(self._parts(key))
            except FileMissingError as error:
                errors[position] = error
        read = iter(folder.use_all(possible, use, max_bytes))
        return [errors[position] if position in errors else next(read) for position in range(len(keys))]

    async def _get_or_error(self, key: str, max_bytes: int) -> bytes | WorkerError:
        try:
            return await self.get(key, max_bytes=max_bytes)
        except (PermanentError, RejectedError) as error:
            return error
        except OutageError as error:
            if error.may_be_one_file:
                return error
            raise

    async def has_readable(self, prefix: str, *, besides: Collection[str], answered: str | None = None) -> bool:
        """Return whether one of a few files below the prefix can be read, so that trouble with others is their own.

        Args:
            prefix: of the keys; ends with a `/`.
            besides: keys of files that are not tried.
            answered: a key for which the storage had an answer before, be it that there is no such file: tried first.
        """
        tried = 0
        try:
            if answered is not None:
                found = await self._get_or_error(answered, _MAX_TRIED_BYTES)
                if isinstance(found, bytes | RejectedError | FileMissingError):
                    return True
            async for key in self.keys(prefix):
                if key in besides:
                    continue
                found = await self._get_or_error(key, _MAX_TRIED_BYTES)
                if isinstance(found, bytes | RejectedError):
                    return True
                tried += 1
                if tried == _MAX_TRIED:
                    break
        except WorkerError:
            return False
        return False

    def _parts(self, key: str) -> list[str]:
        """Return the parts of a key.

        Raises:
            FileMissingError: when there can be no file under it, wherever the storage is.
        """
        return key_parts(key, max_bytes=self._max_key_bytes)

    async def blocks(self, key: str) -> AsyncIterator[bytes]:
        """Yield the content of the file under the key in blocks. Raises as `get`."""
        parts = self._parts(key)
        with translated(f"{self.url(key)} could not be read"):
            if self._folder is not None:
                with await asyncio.to_thread(self._folder.open, parts) as file:
                    while part := await asyncio.to_thread(file.read, _DOWNLOAD_PART):
                        yield part
                return
            response = await obstore.get_async(self._store, key)
            async for block in response.stream(min_chunk_size=_DOWNLOAD_PART):
                yield bytes(block)

    @contextlib.contextmanager
    def opened(self, key: str) -> Iterator[FileIO | None]:
        """Keep the file under the key open for another process; None when the storage is not on this machine.

        The system is advised that all of it will be read, so that it reads several open files from the disk at once.

        Raises:
            FileMissingError, OutageError, PermanentError: as for `get`.
        """
        parts = self._parts(key)
        if self._folder is None:
            yield None
            return
        with translated(f"{self.url(key)} could not be read"):
            file = self._folder.open(parts)
        with file:
            if hasattr(os, "posix_fadvise"):  # not on macOS
                with contextlib.suppress(OSError):  # some file systems do not support it
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            yield file

    async def delete(self, keys: Collection[str]) -> None:
        """Delete the files under the keys; a key without a file is not an error.

        Raises:
            FileMissingError: when there can be no file under one of the keys; no file is deleted then.
            OutageError, PermanentError: as for `put`.
        """
        if not keys:
            return
        files = [self._parts(key) for key in sorted(keys)]
        with translated("files could not be deleted"):
            if self._folder is not None:
                await asyncio.to_thread(self._folder.delete, files)
                return
            try:
                await obstore.delete_async(self._store, sorted(keys))
            except (NotFoundError, FileNotFoundError):
                # Some stores stop at the first missing file, and keep the others.
                for key in keys:
                    with contextlib.suppress(NotFoundError, FileNotFoundError):
                        await obstore.delete_async(self._store, key)

    async def keys(self, prefix: str, *, unfinished: bool = False) -> AsyncIterator[str]:
        """Yield every key below the prefix, which ends with a `/`.

        Args:
            prefix: of the keys.
            unfinished: yield also local files that are being written, or that a killed worker did not complete.

        Raises:
            OutageError, PermanentError: as for `put`.
        """
        async for key, _ in self._list(prefix):
            if unfinished or not self._is_unfinished(key):
                yield key

    async def sizes(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """Yield every key below the prefix, which ends with a `/`, and the size of its file. Raises as `put`."""
        async for key, size in self._list(prefix):
            if not self._is_unfinished(key):
                yield key, size

    def _is_unfinished(self, key: str) -> bool:
        return self._folder is not None and local.UNFINISHED in key

    async def _list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """Yield the files below a prefix that keys can name, with their sizes."""
        parts = prefix_parts(prefix)
        with translated(f"{self.url(prefix)} could not be listed"):
            if self._folder is not None:
                found = self._folder.walk(parts)
                while batch := await asyncio.to_thread(list, islice(found, _LIST_PART)):
                    for one in batch:
                        yield one
                return
            async for listed in obstore.list(self._store, prefix):
                for file in listed:
                    if is_key(file["path"]):
                        yield file["path"], file["size"]

    async def abort_uploads(self, prefix: str, *, older: timedelta) -> int:
        """Abort uploads to keys below the prefix that dead workers left unfinished, and return how many there were.

        S3 keeps and bills their parts, but does not list them. No other storage does that.

        Args:
            prefix: of the keys; ends with a `/`.
            older: their minimum age.

        Raises:
            OutageError, PermanentError: as for `put`.
        """
        if not isinstance(self._store, S3Store):
            return 0
        above = f"{self._store.prefix}/" if self._store.prefix else ""
        return await multipart.abort(self._store.config["bucket"], f"{above}{prefix}", older=older)

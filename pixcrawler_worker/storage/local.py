"""Local files, read and written without obstore, which takes many times as long for small ones.

Links are never followed: each folder on the way to a file is opened relative to the descriptor of the one above it, and
so is the file. What is exchanged for a link between two steps is an error, and leads nowhere else. Only the folder of
the storage itself may be a link.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.storage.failures import of_error, outage, translated
from pixcrawler_worker.storage.keys import is_key

T = TypeVar("T")
#: Part of the name of a file that is not complete.
UNFINISHED = ".unfinished-"
#: Blocks that every system can write in one call (IOV_MAX).
_MAX_BLOCKS = 512
#: Characters of a file's name that the name of its unfinished file begins with: both names have a limit.
_MAX_STEM = 40

#: How folders are opened that only lead to others. Linux needs no permission to read them for that.
_ROOT = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = _ROOT | os.O_NOFOLLOW
_LISTED_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
#: How files are opened: a named pipe or a device would block the worker.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o666
#: Folder, or a link to one, in the path of a file: what is not there cannot be deleted.
_NOT_THERE = (FileNotFoundError, NotADirectoryError)


class LocalSink:
    """A local file that is being written."""

    def __init__(self, file: FileIO, what: str) -> None:
        self._file = file
        self._what = what

    async def write(self, blocks: Sequence[bytes]) -> None:
        """Append the blocks."""
        with translated(self._what):
            await asyncio.to_thread(self._write, blocks)

    def _write(self, blocks: Sequence[bytes]) -> None:
        for first in range(0, len(blocks), _MAX_BLOCKS):
            left = [memoryview(block) for block in blocks[first : first + _MAX_BLOCKS]]
            while left:
                written = os.writev(self._file.fileno(), left)
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = left[0][written:]


class LocalFolder:
    """The files below a folder, by the parts of their keys, which are checked (`keys.key_parts`).

    Args:
        path: of the folder, absolute. It may be a link.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def make(self) -> None:
        """Create the folder when it is missing.

        Raises:
            OSError: when it cannot be created.
        """
        os.makedirs(self._path, exist_ok=True)  # noqa: PTH103 - the path is a text here

    def read(self, parts: Sequence[str], max_bytes: int | None) -> bytes:
        """Return the content of a file. Plain system calls: a file object takes half as long again.

        Raises:
            FileMissingError: when it does not exist, or is not a regular file.
            RejectedError: TOO_MANY_BYTES when it is larger than `max_bytes`.
            OutageError, PermanentError: when it cannot be read.
        """
        # Without context managers, which would take a tenth of its time.
        try:
            folder = self._descend(parts[:-1])
            try:
                return self._read_in(folder, parts, max_bytes)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._not_read(parts, error) from error

    def use_all(
        self, files: Sequence[Sequence[str]], use: Callable[[bytes], T], max_bytes: int
    ) -> list[T | WorkerError]:
        """Return the result of a function for the content of each file, or the error of reading it.

        Files of one folder are read one after the other without opening it again.

        Raises:
            OutageError: when the trouble is that of more than one file.
        """
        found: list[T | WorkerError] = []
        last: Sequence[str] | None = None
        folder = -1
        try:
            for parts in files:
                try:
                    if parts[:-1] != last:
                        if last is not None:
                            last = None
                            os.close(folder)
                        folder = self._descend(parts[:-1])
                        last = parts[:-1]
                    found.append(use(self._read_in(folder, parts, max_bytes)))
                except OSError as error:
                    found.append(_of_one_file(self._not_read(parts, error)))
                except (PermanentError, RejectedError) as error:
                    found.append(error)
                except OutageError as error:
                    found.append(_of_one_file(error))
        finally:
            if last is not None:
                os.close(folder)
        return found

    def _not_read(self, parts: Sequence[str], error: OSError) -> OutageError | PermanentError:
        """Return the error of reading a file; a path below a file, or below a link, does not exist."""
        cause = FileNotFoundError(str(error)) if isinstance(error, NotADirectoryError) else error
        return of_error(f"{self._url(parts)} could not be read", cause)

    def _read_in(self, folder: int, parts: Sequence[str], max_bytes: int | None) -> bytes:
        descriptor = os.open(parts[-1], _FILE, dir_fd=folder)
        try:
            size = _regular(descriptor).st_size
            if max_bytes is not None and size > max_bytes:
                raise RejectedError(Reason.TOO_MANY_BYTES, f"{self._url(parts)} has more than {max_bytes} bytes")
            body = os.read(descriptor, size + 1)
            while len(body) < size and (more := os.read(descriptor, size - len(body) + 1)):
                body += more
            return body
        finally:
            os.close(descriptor)

    def open(self, parts: Sequence[str]) -> FileIO:
        """Open a file to read it.

        Raises:
            OSError: when it does not exist, is not a regular file, or cannot be opened.
        """
        try:
            with self._folder(parts[:-1]) as folder:
                descriptor = os.open(parts[-1], _FILE, dir_fd=folder)
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from error
        try:
            _regular(descriptor)
            return FileIO(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def size(self, parts: Sequence[str]) -> int | None:
        """Return the size of a file in bytes; None when there is no regular file.

        Raises:
            OutageError: when the folder of the storage is missing.
            OSError: when it cannot be found out.
        """
        try:
            with self._folder(parts[:-1]) as folder:
                status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except _NOT_THERE:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @contextlib.contextmanager
    def created(self, parts: Sequence[str]) -> Iterator[FileIO]:
        """Open a new file that gets its name, in place of what is there, when the context ends without an error.

        Its folder is created when it is missing. Until the end, and for good when the process is killed, the content is
        in a file next to it whose name has `UNFINISHED`. A link in its place is replaced, and not what it leads to.

        Raises:
            OSError: when it cannot be created or moved.
        """
        with self._folder(parts[:-1], create=True) as folder, _created_in(folder, parts[-1]) as file:
            yield file

    def write_all(self, files: Sequence[tuple[Sequence[str], bytes]]) -> list[Exception | None]:
        """Write files, each whole or not at all; return the error of each, or None.

        Files of one folder are written one after the other without opening it again.
        """
        errors: list[Exception | None] = []
        last: Sequence[str] | None = None
        folder = -1
        try:
            for parts, body in files:
                try:
                    if parts[:-1] != last:
                        if last is not None:
                            last = None
                            os.close(folder)
                        folder = self._descend(parts[:-1], create=True)
                        last = parts[:-1]
                    _write_in(folder, parts[-1], body)
                    errors.append(None)
                except Exception as error:  # noqa: BLE001 - whatever one file raises is its own
                    errors.append(error)
        finally:
            if last is not None:
                os.close(folder)
        return errors

    def delete(self, files: Sequence[Sequence[str]]) -> None:
        """Delete files. Those that do not exist are not an error; of a link, the link alone is deleted.

        Raises:
            OutageError: when the folder of the storage is missing.
            OSError: when one cannot be deleted.
        """
        for parts in files:
            with contextlib.suppress(*_NOT_THERE), self._folder(parts[:-1]) as folder:
                os.unlink(parts[-1], dir_fd=folder)

    def walk(self, parts: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Yield the key of every regular file below a folder, and its size. Links are neither yielded nor followed.

        Raises:
            OutageError: when the folder of the storage is missing.
            OSError: when a folder cannot be read.
        """
        pending = [list(parts)]
        while pending:
            above = pending.pop()
            prefix = "".join(f"{part}/" for part in above)
            try:
                with self._folder(above, last=_LISTED_FOLDER) as folder, os.scandir(folder) as entries:
                    for entry in entries:
                        if not is_key(prefix + entry.name):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            pending.append([*above, entry.name])
                        elif entry.is_file(follow_symlinks=False):
                            with contextlib.suppress(FileNotFoundError):
                                yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
            except _NOT_THERE:
                continue

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[str], *, create: bool = False, last: int = _FOLDER) -> Iterator[int]:
        """Yield a descriptor of a folder; see `_descend`."""
        descriptor = self._descend(parts, create=create, last=last)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _descend(self, parts: Sequence[str], *, create: bool = False, last: int = _FOLDER) -> int:
        """Return a descriptor of a folder below that of the storage, which the caller closes.

        Args:
            parts: the names of the folders on the way.
            create: create those that are missing.
            last: how the last one is opened.

        Raises:
            OutageError: when the folder of the storage is missing: without its volume, every file would seem to be.
            OSError: when a folder does not exist, is a link, or cannot be opened.
        """
        descriptor = self._root(_ROOT if parts else last & ~os.O_NOFOLLOW, create=create)
        for number, part in enumerate(parts, 1):
            flags = last if number == len(parts) else _FOLDER
            above = descriptor
            try:
                descriptor = _opened(part, flags, above)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=above)
                descriptor = _opened(part, flags, above)
            finally:
                os.close(above)
        return descriptor

    def _root(self, flags: int, *, create: bool) -> int:
        try:
            return os.open(self._path, flags)
        except FileNotFoundError as error:
            if create:
                self.make()
                return os.open(self._path, flags)
            raise outage(f"the storage file://{self._path} has no folder: its volume may not be mounted") from error

    def _url(self, parts: Sequence[str]) -> str:
        return f"file://{self._path}/{'/'.join(parts)}"


@contextlib.contextmanager
def _created_in(folder: int, name: str) -> Iterator[FileIO]:
    """Open a new file in a folder as `LocalFolder.created` does."""
    unfinished = f"{name[:_MAX_STEM]}{UNFINISHED}{secrets.token_hex(8)}"
    try:
        with FileIO(os.open(unfinished, _NEW_FILE, _MODE, dir_fd=folder), "w") as file:
            yield file
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)
        raise


def _write_in(folder: int, name: str, body: bytes) -> None:
    with _created_in(folder, name) as file:
        left = memoryview(body)
        while left:
            left = left[file.write(left) :]


def _of_one_file(error: OutageError | PermanentError) -> OutageError | PermanentError:
    """Return an error that may be of one file alone, and raise any other."""
    if isinstance(error, OutageError) and not error.may_be_one_file:
        raise error
    return error


def _opened(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        # A link: Linux reports it as it does a file.
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory, but a symbolic link", name) from error
        raise


def _regular(descriptor: int) -> os.stat_result:
    """Return the status of a regular file.

    Raises:
        FileNotFoundError: when it is something else.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError("not a regular file")
    return status


def path_of(url: str) -> Path | None:
    """Return the path in a `file://` URL; None for any other kind."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None

"""Local files, read and written without obstore, which takes many times as long for small ones."""

import asyncio
import contextlib
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
from pixcrawler_worker.storage.failures import of_error, translated

T = TypeVar("T")
#: Part of the name of a file that is not complete.
UNFINISHED = ".unfinished-"
#: Blocks that every system can write in one call (IOV_MAX).
_MAX_BLOCKS = 512


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


def read(path: str, max_bytes: int | None) -> bytes:
    """Return the content of a file. Plain system calls: a file object takes half as long again.

    Raises:
        FileMissingError: when it does not exist, or is not a regular file.
        RejectedError: TOO_MANY_BYTES when it is larger than `max_bytes`.
        OutageError, PermanentError: when it cannot be read.
    """
    try:
        descriptor = open_nonblocking(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError("not a regular file")
            size = status.st_size
            if max_bytes is not None and size > max_bytes:
                raise RejectedError(Reason.TOO_MANY_BYTES, f"file://{path} has more than {max_bytes} bytes")
            body = os.read(descriptor, size + 1)
            while len(body) < size and (more := os.read(descriptor, size - len(body) + 1)):
                body += more
            return body
        finally:
            os.close(descriptor)
    except OSError as error:
        # A path below a file does not exist.
        cause = FileNotFoundError(str(error)) if isinstance(error, NotADirectoryError) else error
        raise of_error(f"file://{path} could not be read", cause) from error


@contextlib.contextmanager
def created(path: Path) -> Iterator[FileIO]:
    """Open a new file that gets its path, in place of what is there, when the context ends without an error.

    Its folder is created when it is missing. Until the end, and for good when the process is killed, the content is in
    a file beside it whose name has `UNFINISHED`.

    Raises:
        OSError: when it cannot be created or moved.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}{UNFINISHED}{secrets.token_hex(8)}")
    try:
        with FileIO(unfinished, "x") as file:
            yield file
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def write(path: str, body: bytes) -> None:
    """Write a file, whole or not at all. Raises as `created`."""
    with created(Path(path)) as file:
        left = memoryview(body)
        while left:
            left = left[file.write(left) :]


def use(function: Callable[[bytes], T], path: str, max_bytes: int) -> T | WorkerError:
    """Return the result of a function for the content of a file, or the error of reading it.

    Raises:
        OutageError: when it is of more than this file.
    """
    try:
        return function(read(path, max_bytes))
    except (PermanentError, RejectedError) as error:
        return error
    except OutageError as error:
        if error.may_be_one_file:
            return error
        raise


def open_nonblocking(path: str, flags: int) -> int:
    """Open a file without waiting: a named pipe would block the worker."""
    return os.open(path, flags | os.O_NONBLOCK)


def path_of(url: str) -> Path | None:
    """Return the path in a `file://` URL; None for any other kind."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None

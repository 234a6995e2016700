"""Small local files, written in one thread while the storage keeps up, and reported to the event loop together."""

import asyncio
import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

from pixcrawler_worker.storage.local import LocalFolder

#: Files that a thread takes at a time: it wakes the event loop once for them, and opens their folder once.
_BATCH = 16
#: Seconds that a file waits before another thread is used, and how many there can be: on a disk, a file takes a tenth
#: of a millisecond, and through a network many of them.
_MAX_WAIT, _MAX_THREADS = 0.02, 8


class _File(NamedTuple):
    parts: Sequence[str]
    body: bytes
    written: asyncio.Future[None]
    since: float


_Report = tuple[asyncio.Future[None], Exception | None]


class LocalWriter:
    """Writes files below a folder. A thread for each file would cost as much as the file.

    Threads are those of the event loop's default executor, and only while there is something to write.

    Args:
        folder: where files are written.
    """

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder
        self._waiting: deque[_File] = deque()
        self._threads = 0
        self._lock = threading.Lock()

    async def write(self, parts: Sequence[str], body: bytes) -> None:
        """Write a file, whole or not at all. Raises as `LocalFolder.created`."""
        loop = asyncio.get_running_loop()
        file = _File(parts, body, loop.create_future(), time.monotonic())
        with self._lock:
            self._waiting.append(file)
            is_late = self._threads < _MAX_THREADS and file.since - self._waiting[0].since > _MAX_WAIT
            needs_thread = not self._threads or is_late
            self._threads += needs_thread
        if needs_thread:
            try:
                loop.run_in_executor(None, self._write_waiting)
            except BaseException:
                with self._lock:
                    self._threads -= 1
                    self._waiting.remove(file)
                raise
        await file.written

    def _write_waiting(self) -> None:
        """Write until nothing waits."""
        while files := self._next():
            errors: Sequence[Exception | None]
            try:
                errors = self._folder.write_all([(file.parts, file.body) for file in files])
            except Exception as bug:  # noqa: BLE001 - each of them waits for an answer
                errors = [bug] * len(files)
            ended: defaultdict[asyncio.AbstractEventLoop, list[_Report]] = defaultdict(list)
            for file, error in zip(files, errors, strict=True):
                ended[file.written.get_loop()].append((file.written, error))
            for loop, reports in ended.items():
                with contextlib.suppress(RuntimeError):  # closed: its caller is gone
                    loop.call_soon_threadsafe(_report, reports)

    def _next(self) -> list[_File]:
        """Return the next files to write; none when this thread has to end."""
        with self._lock:
            files = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if not files:
                self._threads -= 1
            return files


def _report(reports: Sequence[_Report]) -> None:
    for written, error in reports:
        if written.done():  # cancelled
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)

"""One running decode process: its start, the socket to it, and the queue of images that were sent."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection import framing, kernel
from pixcrawler_worker.inspection.crop import MAX_SIDE
from pixcrawler_worker.inspection.framing import Operation
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.sheets import CELLS

#: The arguments of Python that start the program.
PROGRAM = ("-P", "-m", "pixcrawler_worker.inspection")
#: Queue length from which on responses are read several at a time, and the seconds that they wait for that at most.
_BATCH_FROM, _MAX_BATCH_SECONDS = 8, 0.05
#: Seconds that a start may take; it takes a quarter of one, on a loaded machine a few.
_START_SECONDS = 60.0
#: More than any response has that is not an image, and an image has besides its pixels.
_MAX_RESPONSE_BYTES = 65_536
#: Bytes of a pixel: red, green and blue.
_PIXEL_BYTES = 3
#: Signals by which a process ends because of what it does itself, that is, of its image. The others are sent to it: by
#: the kernel when memory runs out somewhere, by an operator.
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGXCPU}
)
#: Seconds that a timer may be late before the worker counts as stopped itself.
_MAX_LATE_SECONDS = 2.0
#: What Python needs to run. Everything else is left out, secrets above all.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")


@dataclass(frozen=True, slots=True)
class File:
    """An image in an open file.

    Attributes:
        descriptor: of the file, at its beginning; the caller closes it.
        max_bytes: bytes that it may have.
    """

    descriptor: int
    max_bytes: int


class ProcessEndedError(Exception):
    """The process ended at an image before this one: this one is to be sent to another process."""


@dataclass(slots=True)
class _Request:
    """An image that was sent: the response that its caller awaits, and the seconds and bytes that it may take."""

    response: asyncio.Future[bytes]
    seconds: float
    max_bytes: int = _MAX_RESPONSE_BYTES


class DecodeProcess:
    """A running decode process.

    Args:
        limits: what an image may declare and take.
        program: arguments of Python that start it.
    """

    def __init__(self, limits: Limits, program: Sequence[str] = PROGRAM) -> None:
        kernel.hide_memory()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self.images = self._answered = 0
        with theirs:
            try:
                # Not asyncio's subprocess: a socket costs a quarter less than its pipes, and Popen needs no child
                # watcher. Not multiprocessing: a Celery child is daemonic and may not use it.
                self._popen = subprocess.Popen(
                    [sys.executable, *program, json.dumps(asdict(limits))],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    process_group=0,  # A Ctrl-C is for the worker, which may finish its chunk.
                )
            except OSError as error:
                self._socket.close()
                raise TransientError(f"the image decoder could not be started: {error}") from error
        self._loop = asyncio.get_running_loop()
        # Its number and not the socket itself: for every callback, the loop would format the socket's addresses.
        self._descriptor = self._socket.fileno()
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._received = bytearray()
        # What is still to be sent, with the descriptor that goes with it.
        self._outgoing: deque[tuple[memoryview, int | None]] = deque()
        self._blocked = False
        self._queue: deque[_Request] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._started_at = self._deadline = math.inf
        self._pause: asyncio.TimerHandle | None = None
        self._retired = False
        self._max_converted_bytes = limits.max_converted_bytes
        # Its first message says that it is ready, so that a start does not count against an image's deadline.
        self._layers: dict[str, str] | None = None
        self._ready = self._loop.create_future()
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._enqueue(_Request(self._ready, _START_SECONDS))

    @property
    def pid(self) -> int:
        """Its id."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    async def started(self) -> dict[str, str]:
        """Wait until it is ready, and return the layers of its sandbox (`framing.read_ready`).

        Raises:
            TransientError: it ended before that, or hangs.
        """
        if self._layers is not None:
            return self._layers
        try:
            # Several callers may wait for it, and one of them may be cancelled.
            self._layers = framing.read_ready(await asyncio.shield(self._ready))
        except framing.DecodeProcessError as error:
            raise TransientError(f"the image decoder does not start: {error.summary}") from error
        except (ConnectionError, TimeoutError) as error:
            raise TransientError("the image decoder does not start") from error
        return self._layers

    async def request(self, body: bytes | File, operation: Operation, number: int, *, seconds: float) -> bytes:
        """Return its response to one image.

        Raises:
            ConnectionResetError: it ended at this image.
            ConnectionAbortedError: it was ended, because of what it answered to this image.
            TimeoutError: it was ended, because this image took too long.
            ProcessEndedError: it ended before it came to this image.
        """
        if self._socket.fileno() < 0:
            raise ProcessEndedError
        max_bytes = _MAX_RESPONSE_BYTES + self._max_image_bytes(operation, number)
        request = _Request(self._loop.create_future(), seconds, max_bytes)
        self.images += 1
        self._enqueue(request)
        if isinstance(body, File):
            prefix = framing.REQUEST.pack(body.max_bytes, operation, number)
            # A duplicate of the descriptor: the caller may have closed its own by the time this request is sent.
            self._outgoing.append((memoryview(prefix), os.dup(body.descriptor)))
        else:
            self._outgoing.append((memoryview(framing.REQUEST.pack(len(body), operation, number)), None))
            self._outgoing.append((memoryview(body), None))
        self._flush()
        try:
            return await request.response
        except asyncio.CancelledError:
            # The caller gave up. An image that is waited for no more is not waited for by others either; one that is
            # further back in the queue is answered, and the response is dropped.
            if self._queue and self._queue[0] is request:
                self.end(ConnectionAbortedError("the caller of the image was cancelled"))
            raise

    async def idle(self) -> None:
        """Wait until every image that was sent is answered."""
        if self._queue:
            await asyncio.wait([request.response for request in self._queue])

    def retire(self) -> None:
        """End as soon as every image that was sent is answered."""
        self._retired = True
        if not self._queue:
            self.kill()

    def end(self, error: Exception) -> None:
        """End it at the image that is first in the queue; the others are sent to another one."""
        queue, self._queue = self._queue, deque()
        self.kill()
        for place, request in enumerate(queue):
            if not request.response.done():
                request.response.set_exception(error if place == 0 else ProcessEndedError())

    def kill(self) -> None:
        """End it at once."""
        for timer in filter(None, (self._timer, self._pause)):
            timer.cancel()
        self._drop_outgoing()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._socket.close()
        self._popen.kill()

    async def exit_status(self) -> int:
        """Return its exit status, once it has one."""
        return await asyncio.to_thread(self._popen.wait)

    async def was_killed(self) -> bool:
        """Return whether it was ended by a signal that was sent to it, once it has ended."""
        status = await self.exit_status()
        return status < 0 and -status not in _CRASHES

    async def failure(self, limits: Limits) -> RejectedError:
        """Return what its end says about the image that it was at."""
        status = await self.exit_status()
        if status == -signal.SIGXCPU:
            return RejectedError(Reason.TIMEOUT, f"not decoded within {limits.seconds:g} s of CPU time")
        return RejectedError(Reason.DECODER_DIED, f"the process that decoded it ended with status {status}")

    def _max_image_bytes(self, operation: Operation, number: int) -> int:
        """Return how many bytes the image in a response may have: as many as its pixels take, where they are known."""
        match operation:
            case Operation.CONVERT:
                return self._max_converted_bytes
            case Operation.CROP:
                return _PIXEL_BYTES * MAX_SIDE**2
            case Operation.THUMBNAIL:
                return _PIXEL_BYTES * number**2
            case Operation.SHEET:
                return _PIXEL_BYTES * CELLS * number**2
            case _:
                return 0

    def _flush(self) -> None:
        """Send as much as the socket takes, and the rest as soon as it takes more."""
        try:
            while self._outgoing:
                data, descriptor = self._outgoing[0]
                if descriptor is None:
                    sent = self._socket.send(data) if data else 0
                else:
                    sent = socket.send_fds(self._socket, [data], [descriptor])
                    os.close(descriptor)
                if sent < len(data):
                    self._outgoing[0] = (data[sent:], None)
                else:
                    self._outgoing.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._descriptor, self._flush)
            self._blocked = True
            return
        except OSError:
            # It closed the connection. What it sent before is still to be read, and shows at which image.
            self._drop_outgoing()
        if self._blocked:
            self._loop.remove_writer(self._descriptor)
            self._blocked = False

    def _drop_outgoing(self) -> None:
        for _, descriptor in self._outgoing:
            if descriptor is not None:
                os.close(descriptor)
        self._outgoing.clear()

    def _enqueue(self, request: _Request) -> None:
        self._queue.append(request)
        if len(self._queue) == 1:
            self._start_clock(request)

    def _start_clock(self, request: _Request) -> None:
        """Start the clock of the image that is first in the queue."""
        self._started_at = self._loop.time()
        self._deadline = self._started_at + request.seconds
        # A timer that is set already checks again when it fires too early: setting one for every image would cost more
        # than everything else here.
        if self._timer is None or self._timer.when() > self._deadline:
            self._watch()

    def _watch(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        timer, self._timer = self._timer, None
        if self._queue and timer and self._loop.time() > timer.when() + _MAX_LATE_SECONDS:
            # The worker was stopped and continued, with this process or without it: the time did not pass for both.
            self._start_clock(self._queue[0])
        elif self._queue and self._loop.time() >= self._deadline:
            self.end(TimeoutError())
        elif self._queue:
            self._watch()

    def _on_readable(self) -> None:
        try:
            received = self._socket.recv(_MAX_RESPONSE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.end(ConnectionResetError("the image decoder closed the connection"))
            return
        self._received += received
        before, begun = len(self._queue), self._started_at
        while self._queue and (message := framing.unframe(self._received)) is not None:
            del self._received[: framing.LENGTH.size + len(message)]
            self._respond(message)
        if self._received.startswith(framing.LEAVING):
            # It may leave after it has answered: one that only ever leaves would keep an image waiting for ever.
            self.end(ProcessEndedError() if self._answered > 1 else ConnectionAbortedError("it left at once"))
            return
        max_bytes = self._queue[0].max_bytes if self._queue else 0
        if len(self._received) > max_bytes:
            self.end(ConnectionAbortedError("the image decoder sent more than a response"))
        elif (
            len(self._queue) >= _BATCH_FROM
            and max_bytes == _MAX_RESPONSE_BYTES
            and (answered := before - len(self._queue))
        ):
            self._pause_reading((self._loop.time() - begun) / answered * len(self._queue) / 2)

    def _pause_reading(self, seconds: float) -> None:
        """Read no responses until about half of the queue is done: waking up for each costs more than all else here.

        Not when the next one is an image: it may be more than the socket holds, and the process would wait.
        """
        self._loop.remove_reader(self._descriptor)
        self._pause = self._loop.call_later(
            min(seconds, _MAX_BATCH_SECONDS), self._loop.add_reader, self._descriptor, self._on_readable
        )

    def _respond(self, message: bytes) -> None:
        request = self._queue.popleft()
        self._answered += 1
        if not request.response.done():
            request.response.set_result(message)
        if self._queue:
            self._start_clock(self._queue[0])
        if self._retired and not self._queue:
            self.kill()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the same package is found again
        "OPENBLAS_NUM_THREADS": "1",  # matrices this small need no threads, and every thread needs address space
        # The thread that a decoder starts for an image would take 64 MB of address space, and leave them.
        "MALLOC_ARENA_MAX": "1",
        # Memory up to 64 MB stays with the process between two images (mallopt(3), glibc): requesting it from
        # the system again for each of them costs a fifth of the time.
        "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**2),
    }

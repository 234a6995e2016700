"""A process in which strangers' bytes are opened, so that a bomb or a crash costs one image and never a worker."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from dataclasses import asdict, dataclass

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection import framing
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.framing import Wish
from pixcrawler_worker.inspection.limits import Limits

#: Pictures a process opens before the next one takes over: leaks and fragmentation end with it. A start takes a quarter
#: of a second of CPU, of which each picture pays its part: one of 500 would pay a fifth of what opening it takes.
_LIFE = 10_000
#: Pictures before its end at which its successor starts, so that Pillow and NumPy are imported by then.
_HEAD_START = 300
#: Pictures in the line from which on answers are fetched several at a time, and the most seconds that they lie there.
_MANY, _LONGEST_REST = 8, 0.05
#: Seconds which that import may take; it takes a quarter of one, on a loaded machine a few.
_START_SECONDS = 60.0
#: More than any answer has that is no converted picture.
_MOST_ANSWER_BYTES = 65_536
#: What Python needs to run. Everything else stays behind, secrets above all.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")


@dataclass(frozen=True, slots=True)
class File:
    """A picture in an open file.

    Attributes:
        descriptor: of the file, at its beginning; the caller closes it.
        most: bytes that it may have.
    """

    descriptor: int
    most: int


class Decoder:
    """One guarded process: started on first use, replaced when it dies, renewed every ten thousand images.

    It belongs to one event loop, whose runs may come and go, and to the thread that runs it: the kernel ends the
    process with that thread. Callers are served one after the other, in their order. Pictures are sent ahead, so that
    the process never waits for the next one; what one of them does to it costs the others nothing but time.

    Args:
        limits: what a picture may declare and take. The deadline counts from a picture's turn.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: _Process | None = None
        self._successor: _Process | None = None
        self._leaving: list[_Process] = []

    @property
    def pid(self) -> int | None:
        """The process at work, if one has been started."""
        return self._process.pid if self._process else None

    async def inspect(self, body: bytes) -> ImageFacts:
        """What `body` is.

        Raises:
            RejectedError: as `inspect_bytes`; TIMEOUT when the deadline passed; DECODER_DIED when the process crashed
                or was killed over this image. The next image finds a new process.
            TransientError: no process could be started, and the image was not looked at.
        """
        return framing.facts(await self._ask(body, Wish.FACTS))

    async def measure(self, body: bytes | File, *, strict: bool, seconds: float) -> tuple[ImageFacts, Metrics]:
        """What `body` is, and what its pixels and tags say.

        Args:
            body: the whole file, or an open one that the process reads itself.
            strict: give JPEG data to a decoder that mends nothing, too.
            seconds: a deadline below that of the limits.

        Raises:
            RejectedError, TransientError: as `inspect`.
        """
        return framing.measured(await self._ask(body, Wish.METRICS, int(strict), seconds=seconds))

    async def thumbnail(self, body: bytes, *, side: int) -> bytes:
        """A JPEG of `body`, upright, at most `side` pixels long and wide. Raises as `inspect`."""
        return framing.thumbnail(await self._ask(body, Wish.THUMBNAIL, side))

    async def convert(self, body: bytes, conversion: Conversion) -> Converted | None:
        """`body` changed; None when it is already as wanted, whose pixels are not looked at then.

        Raises:
            RejectedError: as `inspect`; TOO_MANY_PIXELS and TOO_MANY_BYTES also for what it would become.
            TransientError: as `inspect`.
        """
        return framing.converted(await self._ask(framing.to_convert(conversion, body), Wish.CONVERT))

    async def aclose(self) -> None:
        """End the processes, once the images that waited before this call are done."""
        for process in filter(None, (self._process, self._successor)):
            self._dismiss(process)
        for process in self._leaving:
            await process.idle()
            process.kill()
            await process.gone()
        self._leaving.clear()

    async def _ask(self, body: bytes | File, wish: Wish, number: int = 0, *, seconds: float = math.inf) -> bytes:
        seconds = min(seconds, self._limits.seconds)
        while True:
            process = self._at_work()
            try:
                await process.started()
                return await process.ask(body, wish, number, seconds=seconds)
            except _NeighborError:
                self._forget(process)
            except ConnectionError as error:
                self._forget(process)
                raise await process.died(self._limits) from error
            except TimeoutError as error:
                self._forget(process)
                raise RejectedError(Reason.TIMEOUT, f"not decoded within {seconds:g} s") from error
            except TransientError:
                self._forget(process)
                raise

    def _at_work(self) -> "_Process":
        """The process for the next image; its successor is started in time to be ready when its life ends."""
        self._leaving = [process for process in self._leaving if process.alive]
        if self._process and (self._process.opened >= _LIFE or not self._process.alive):
            self._dismiss(self._process)
        if self._successor and not self._successor.alive:
            self._dismiss(self._successor)
        if self._process is None:
            self._process, self._successor = self._successor or _Process(self._limits), None
        if self._successor is None and self._process.opened >= _LIFE - _HEAD_START:
            self._successor = _Process(self._limits)
        return self._process

    def _dismiss(self, process: "_Process") -> None:
        """Send no more images to a process; it ends with those that it has."""
        process.retire()
        self._leaving.append(process)
        if process is self._process:
            self._process = None
        else:
            self._successor = None

    def _forget(self, process: "_Process") -> None:
        """Give up a process that has ended; several callers may find that out."""
        if process is self._process:
            self._dismiss(process)


class _NeighborError(Exception):
    """The process ended over an image that was before this one, which is to be sent to another process."""


@dataclass(slots=True)
class _Turn:
    """An image that was sent: the answer that its caller waits for, and the seconds and bytes that it may take."""

    answer: asyncio.Future[bytes]
    seconds: float
    most: int = _MOST_ANSWER_BYTES


class _Process:
    """A running `python -m pixcrawler_worker.inspection`, the socket to it, and the line of images that were sent."""

    def __init__(self, limits: Limits) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self.opened = 0
        with theirs:
            try:
                # Not asyncio's subprocess: a socket costs a quarter less than its pipes, and Popen needs no child
                # watcher. Not multiprocessing: a Celery child is daemonic and may not use it.
                self._popen = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pixcrawler_worker.inspection", json.dumps(asdict(limits))],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    process_group=0,  # A Ctrl-C is for the worker, which may finish its chunk.
                )
            except OSError as error:
                self._socket.close()
                raise TransientError(f"the image decoder could not be started: {error}") from error
        self._loop = asyncio.get_running_loop()
        # Its number and not the socket itself: the loop writes a socket's addresses into errors that nobody sees.
        self._descriptor = self._socket.fileno()
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._received = bytearray()
        # What is still to be sent, with the descriptor that goes beside it.
        self._outgoing: deque[tuple[memoryview, int | None]] = deque()
        self._blocked = False
        self._line: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._begun = self._deadline = math.inf
        self._rest: asyncio.TimerHandle | None = None
        self._retired = False
        self._most_converted = _MOST_ANSWER_BYTES + limits.max_converted_bytes
        # Its first word comes unasked, so that no image pays for a start with its deadline.
        self._greeting = self._loop.create_future()
        self._greeting.add_done_callback(lambda greeting: greeting.cancelled() or greeting.exception())
        self._enter(_Turn(self._greeting, _START_SECONDS))

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    async def started(self) -> None:
        """Wait for its first word.

        Raises:
            TransientError: it ended before that, or hangs. Its traceback is in the worker's log.
        """
        try:
            # Several may wait for it, and one of them may be cancelled.
            await asyncio.shield(self._greeting)
        except (ConnectionError, TimeoutError) as error:
            raise TransientError("the image decoder does not start") from error

    async def ask(self, body: bytes | File, wish: Wish, number: int, *, seconds: float) -> bytes:
        """Its answer to one image.

        Raises:
            ConnectionError: it ended over this image.
            TimeoutError: it was ended, because this image took too long.
            _NeighborError: it ended before it came to this image.
        """
        if self._socket.fileno() < 0:
            raise _NeighborError
        turn = _Turn(self._loop.create_future(), seconds)
        if wish is Wish.CONVERT:
            turn.most = self._most_converted
        self.opened += 1
        self._enter(turn)
        if isinstance(body, File):
            request = framing.REQUEST.pack(body.most, wish, number)
            # A descriptor of our own: the caller may be gone when its turn to be sent comes.
            self._outgoing.append((memoryview(request), os.dup(body.descriptor)))
        else:
            self._outgoing.append((memoryview(framing.REQUEST.pack(len(body), wish, number)), None))
            self._outgoing.append((memoryview(body), None))
        self._flush()
        try:
            return await turn.answer
        except asyncio.CancelledError:
            # The caller gave up. An image that is waited for no more is not waited for by others either; one that is
            # further behind in the line is answered into the void.
            if self._line and self._line[0] is turn:
                self._end(ConnectionAbortedError("nobody waits for the image any more"))
            raise

    async def idle(self) -> None:
        """Wait until every image that was sent is answered."""
        if self._line:
            await asyncio.wait([turn.answer for turn in self._line])

    def retire(self) -> None:
        """End as soon as every image that was sent is answered."""
        self._retired = True
        if not self._line:
            self.kill()

    def kill(self) -> None:
        """End at once."""
        for timer in filter(None, (self._timer, self._rest)):
            timer.cancel()
        self._drop_outgoing()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._socket.close()
        self._popen.kill()

    async def gone(self) -> int:
        """Its exit status, once it has one."""
        return await asyncio.to_thread(self._popen.wait)

    async def died(self, limits: Limits) -> RejectedError:
        """What its death says about the image it was at."""
        status = await self.gone()
        if status == -signal.SIGXCPU:
            return RejectedError(Reason.TIMEOUT, f"not decoded within {limits.seconds:g} s of CPU time")
        return RejectedError(Reason.DECODER_DIED, f"the process that decoded it ended with status {status}")

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
            # It hung up. What it answered before that is still to be read, and tells over which image.
            self._drop_outgoing()
        if self._blocked:
            self._loop.remove_writer(self._descriptor)
            self._blocked = False

    def _drop_outgoing(self) -> None:
        for _, descriptor in self._outgoing:
            if descriptor is not None:
                os.close(descriptor)
        self._outgoing.clear()

    def _enter(self, turn: _Turn) -> None:
        self._line.append(turn)
        if len(self._line) == 1:
            self._begin(turn)

    def _begin(self, turn: _Turn) -> None:
        """Start the clock of the image that is first in the line."""
        self._begun = self._loop.time()
        self._deadline = self._begun + turn.seconds
        # A timer that is set already looks again when it comes too early: setting one for every image would cost more
        # than all else that is done here.
        if self._timer is None or self._timer.when() > self._deadline:
            self._watch()

    def _watch(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if self._line and self._loop.time() >= self._deadline:
            self._end(TimeoutError())
        elif self._line:
            self._watch()

    def _on_readable(self) -> None:
        try:
            received = self._socket.recv(_MOST_ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._end(ConnectionResetError("the image decoder hung up"))
            return
        self._received += received
        before, begun = len(self._line), self._begun
        while self._line and (message := framing.unframed(self._received)) is not None:
            del self._received[: framing.LENGTH.size + len(message)]
            self._answer(message)
        most = self._line[0].most if self._line else 0
        if len(self._received) > most:
            self._end(ConnectionResetError("the image decoder says too much"))
        elif len(self._line) >= _MANY and most == _MOST_ANSWER_BYTES and (answered := before - len(self._line)):
            self._look_away((self._loop.time() - begun) / answered * len(self._line) / 2)

    def _look_away(self, seconds: float) -> None:
        """Let answers lie until about half of the line is done: being woken for each costs more than all else here.

        Not when the next one is a picture: it may be more than the socket holds, and the process would wait.
        """
        self._loop.remove_reader(self._descriptor)
        self._rest = self._loop.call_later(
            min(seconds, _LONGEST_REST), self._loop.add_reader, self._descriptor, self._on_readable
        )

    def _answer(self, message: bytes) -> None:
        turn = self._line.popleft()
        if not turn.answer.done():
            turn.answer.set_result(message)
        if self._line:
            self._begin(self._line[0])
        if self._retired and not self._line:
            self.kill()

    def _end(self, error: Exception) -> None:
        """End the process over the image that is first in the line; the others are nobody's fault."""
        line, self._line = self._line, deque()
        self.kill()
        for place, turn in enumerate(line):
            if not turn.answer.done():
                turn.answer.set_exception(error if place == 0 else _NeighborError())


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # Wherever this package was found, it is found again.
        "OPENBLAS_NUM_THREADS": "1",  # Matrices of 32x32 need no threads, and every thread wants address space.
        # Memory up to 64 MB stays with the process between two images (mallopt(3), glibc): taking it from the system
        # anew for each of them costs a fifth of the time.
        "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**2),
    }

"""A process in which strangers' bytes are opened, so that a bomb or a crash costs one image and never a worker."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict

from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RefusedError
from pixcrawler_worker.domain.verdicts import Metrics
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection import wire
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.wire import Wish

#: Pictures a process opens before the next one takes over: leaks and fragmentation end with it.
_LIFE = 500
#: Pictures before its end at which its successor starts, so that Pillow and NumPy are imported by then.
_HEAD_START = 300
#: Seconds which that import may take; it takes a quarter of one, on a loaded machine a few.
_START_SECONDS = 60.0
#: More than any answer has.
_MOST_ANSWER_BYTES = 65_536
#: What Python needs to run. Everything else stays behind, secrets above all.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")


class Decoder:
    """One guarded process: started on first use, replaced when it dies, renewed every few hundred images.

    It belongs to one event loop, whose runs may come and go, and to the thread that runs it: the kernel ends the
    process with that thread. Callers are served one after the other, in their order.

    Args:
        limits: what a picture may declare and take. The deadline counts from a picture's turn.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turn = asyncio.Lock()
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
            RefusedError: as `inspect_bytes`; TIMEOUT when the deadline passed; DECODER_DIED when the process crashed
                or was killed over this image. The next image finds a new process.
            TransientError: no process could be started, and the image was not looked at.
        """
        return wire.facts(await self._ask(body, Wish.FACTS))

    async def measure(self, body: bytes, *, strict: bool, seconds: float) -> tuple[ImageFacts, Metrics]:
        """What `body` is, and what its pixels and tags say.

        Args:
            body: the whole file.
            strict: give JPEG data to a decoder that mends nothing, too.
            seconds: a deadline below that of the limits.

        Raises:
            RefusedError, TransientError: as `inspect`.
        """
        return wire.measured(await self._ask(body, Wish.METRICS, int(strict), seconds=seconds))

    async def thumbnail(self, body: bytes, *, side: int) -> bytes:
        """A JPEG of `body`, upright, at most `side` pixels long and wide. Raises as `inspect`."""
        return wire.thumbnail(await self._ask(body, Wish.THUMBNAIL, side))

    async def aclose(self) -> None:
        """End the processes, once the images that waited before this call are done."""
        async with self._turn:
            for process in filter(None, (self._process, self._successor)):
                self._dismiss(process)
            for process in self._leaving:
                await process.gone()
            self._leaving.clear()

    async def _ask(self, body: bytes, wish: Wish, number: int = 0, *, seconds: float = math.inf) -> bytes:
        seconds = min(seconds, self._limits.seconds)
        async with self._turn:
            process = self._at_work()
            try:
                await process.started()
                async with asyncio.timeout(seconds):
                    return await process.ask(body, wish, number)
            except ConnectionError as error:
                self._dismiss(process)
                raise await process.died(self._limits) from error
            except TimeoutError as error:
                self._dismiss(process)
                raise RefusedError(Reason.TIMEOUT, f"not decoded within {seconds:g} s") from error
            except BaseException:
                # The caller gave up half-way: this image's answer must not become the next one's.
                self._dismiss(process)
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
        process.kill()
        self._leaving.append(process)
        if process is self._process:
            self._process = None
        else:
            self._successor = None


class _Process:
    """A running `python -m pixcrawler_worker.inspection` and the socket to it."""

    def __init__(self, limits: Limits) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._started = False
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

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    async def started(self) -> None:
        """Wait for its first word, so that no image pays for a start with its deadline.

        Raises:
            TransientError: it ended before that, or hangs. Its traceback is in the worker's log.
        """
        if self._started:
            return
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._receive()
        except (ConnectionError, TimeoutError) as error:
            raise TransientError("the image decoder does not start") from error
        self._started = True

    async def ask(self, body: bytes, wish: Wish, number: int) -> bytes:
        """Its answer to one image; ConnectionError when it dies instead."""
        self.opened += 1
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, wire.REQUEST.pack(len(body), wish, number))
        await loop.sock_sendall(self._socket, body)
        return await self._receive()

    async def _receive(self) -> bytes:
        loop = asyncio.get_running_loop()
        received = b""
        while (message := wire.unframed(received)) is None:
            more = await loop.sock_recv(self._socket, _MOST_ANSWER_BYTES)
            if not more or len(received) > _MOST_ANSWER_BYTES:
                raise ConnectionResetError("the image decoder hung up")
            received += more
        return message

    def kill(self) -> None:
        self._socket.close()
        self._popen.kill()

    async def gone(self) -> int:
        """Its exit status, once it has one."""
        return await asyncio.to_thread(self._popen.wait)

    async def died(self, limits: Limits) -> RefusedError:
        """What its death says about the image it was at."""
        status = await self.gone()
        if status == -signal.SIGXCPU:
            return RefusedError(Reason.TIMEOUT, f"not decoded within {limits.seconds:g} s of CPU time")
        return RefusedError(Reason.DECODER_DIED, f"the process that decoded it ended with status {status}")


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # Wherever this package was found, it is found again.
        "OPENBLAS_NUM_THREADS": "1",  # Matrices of 32x32 need no threads, and every thread wants address space.
    }

"""The sandboxed process in which untrusted bytes are opened: a bomb or a crash costs one image and never a worker."""

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from pixcrawler_worker import metrics as counted
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection import framing
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.framing import Operation
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import PROGRAM, DecodeProcess, File, ProcessEndedError
from pixcrawler_worker.inspection.sheets import CELLS, MAX_SIDE, ThumbnailSheet, join_tiles

log = structlog.get_logger()
_T = TypeVar("_T")

#: Images that a process opens before the next one replaces it: leaks and fragmentation end with it. A start takes a
#: quarter of a second of CPU; with a process for every 500 images, that would be a fifth of what opening them takes.
_MAX_IMAGES = 10_000
#: Images before that at which the successor starts, so that Pillow and NumPy are imported by then.
_HEAD_START = 300
#: Bytes from which on a file's digest is taken in a thread: it takes a millisecond.
_MIN_THREAD_BYTES = 2_000_000


class Decoder:
    """The client of one decode process: started on first use, replaced when it dies and after ten thousand images.

    It belongs to one event loop, whose runs may come and go, and to the thread that runs it: the kernel ends the
    process with that thread. Callers are served one after the other, in their order. Images are sent before the process
    needs them, so that it never waits for the next one; one that crashes the process costs the others only time.

    Args:
        limits: what an image may declare and take. The deadline counts from when an image is first in the queue.
        program: arguments of Python that start the process.
    """

    def __init__(self, limits: Limits, program: Sequence[str] = PROGRAM) -> None:
        self._limits = limits
        self._program = program
        self._process: DecodeProcess | None = None
        self._successor: DecodeProcess | None = None
        self._retiring: list[DecodeProcess] = []

    @property
    def pid(self) -> int | None:
        """The id of the current process, if one has been started."""
        return self._process.pid if self._process else None

    async def sandbox(self) -> dict[str, str]:
        """Return the layers of the process's sandbox: by name, why one is not in force, or an empty text.

        Raises:
            TransientError: no process could be started.
        """
        return await self._current().started()

    async def inspect(self, body: bytes) -> ImageFacts:
        """Return what `body` is.

        Raises:
            RejectedError: as `inspect_bytes`; TIMEOUT when the deadline passed; DECODER_DIED when the process crashed
                at this image, was killed at it twice, or answered what it never should. The next image gets a new
                process.
            TransientError: no process could be started, and the image was not opened.
        """
        facts = await self._request(body, Operation.FACTS, read=partial(_read_facts, body=body, limits=self._limits))
        return replace(facts, sha256=await _digest(body))

    async def measure(
        self, body: bytes | File, *, strict: bool = False, seconds: float = math.inf
    ) -> tuple[ImageFacts, Metrics]:
        """Return what `body` is, and what its pixels and tags say.

        Args:
            body: the whole file, or an open one that the process reads itself, which then takes its digest, too.
            strict: use a JPEG decoder that repairs nothing, too.
            seconds: a deadline below that of the limits.

        Raises:
            RejectedError, TransientError: as `inspect`.
        """
        parameter = framing.STRICT if strict else 0
        if isinstance(body, File):
            read = partial(_read_metrics_of_file, limits=self._limits)
            return await self._request(body, Operation.METRICS, parameter | framing.HASHED, read=read, seconds=seconds)
        facts, metrics = await self._request(
            body,
            Operation.METRICS,
            parameter,
            read=partial(_read_metrics, body=body, limits=self._limits),
            seconds=seconds,
        )
        return replace(facts, sha256=await _digest(body)), metrics

    async def thumbnail(self, body: bytes, *, side: int) -> bytes:
        """A JPEG of `body`, upright, at most `side` pixels long and wide. Raises as `inspect`."""
        return await self._request(body, Operation.THUMBNAIL, side, read=framing.read_thumbnail)

    async def sheet(self, tiles: Sequence[bytes], *, side: int) -> ThumbnailSheet:
        """Return thumbnails in one JPEG, for a page with many of them.

        Args:
            tiles: 1 to 16 JPEGs that `thumbnail` has made.
            side: pixels of a cell; larger thumbnails are shrunk.

        Raises:
            RejectedError, TransientError: as `inspect`.
        """
        if not 1 <= len(tiles) <= CELLS or not 1 <= side <= MAX_SIDE:
            raise ValueError(f"a sheet has 1 to {CELLS} cells of 1 to {MAX_SIDE} pixels, not {len(tiles)} of {side}")
        read = partial(framing.read_sheet, tiles=len(tiles), side=side)
        return await self._request(join_tiles(tiles), Operation.SHEET, side, read=read)

    async def crop(self, body: bytes, crop: Crop) -> bytes:
        """Return the pixels of a part of `body`, upright, on white, row by row: red, green and blue, a byte each.

        Raises as `inspect`.
        """
        parameter = framing.pack_crop(crop)
        return await self._request(body, Operation.CROP, parameter, read=partial(framing.read_crop, crop=crop))

    async def convert(self, body: bytes, conversion: Conversion) -> Converted | None:
        """Return `body` converted; None when it is like that already, and its pixels were not decoded.

        Raises:
            RejectedError: as `inspect`; TOO_MANY_PIXELS and TOO_MANY_BYTES also for the result.
            TransientError: as `inspect`.
        """
        request = framing.join_conversion(conversion, body)
        read = partial(framing.read_converted, format_=conversion.format, limits=self._limits)
        return await self._request(request, Operation.CONVERT, read=read)

    def stop(self) -> None:
        """End the processes at once: the images that they were sent are waited for no more. Close it afterwards."""
        self._dismiss_all()
        self._end_retiring()

    async def aclose(self) -> None:
        """End the processes, once the images that were sent before this call are done; at once when it is cancelled."""
        self._dismiss_all()
        try:
            for process in self._retiring:
                await process.idle()
        finally:
            self._end_retiring()
        for process in self._retiring:
            await process.exit_status()
        self._retiring.clear()

    async def _request(
        self,
        body: bytes | File,
        operation: Operation,
        parameter: int = 0,
        *,
        read: Callable[[bytes], _T],
        seconds: float = math.inf,
    ) -> _T:
        seconds = min(seconds, self._limits.seconds)
        was_killed = has_not_started = False
        while True:
            process = self._current()
            try:
                await process.started()
                return read(await process.request(body, operation, parameter, seconds=seconds))
            except ProcessEndedError:
                self._replace(process)
            except ConnectionError as error:
                self._replace(process)
                # A kill may have been meant for this image, or for whatever the process did: another try shows it.
                if isinstance(error, ConnectionResetError) and not was_killed and await process.was_killed():
                    was_killed = True
                    counted.DECODER_DEATHS.add("killed")
                    continue
                counted.DECODER_DEATHS.add("crash" if isinstance(error, ConnectionResetError) else "answer")
                raise await process.failure(self._limits) from error
            except TimeoutError as error:
                self._replace(process)
                counted.DECODER_DEATHS.add("timeout")
                raise RejectedError(Reason.TIMEOUT, f"not decoded within {seconds:g} s") from error
            except framing.DecodeProcessError as error:
                # Nothing that it says is believed any more.
                process.end(ProcessEndedError())
                self._replace(process)
                counted.DECODER_DEATHS.add("answer")
                log.error("the image decoder failed", error=error.summary, traceback=error.traceback)  # noqa: TRY400 - its own
                raise RejectedError(Reason.DECODER_DIED, error.summary) from error
            except TransientError:
                self._replace(process)
                if has_not_started:
                    raise
                has_not_started = True

    def _current(self) -> DecodeProcess:
        """Return the process for the next image; its successor is started in time to be ready when it is replaced."""
        self._retiring = [process for process in self._retiring if process.alive]
        if self._process and (self._process.images >= _MAX_IMAGES or not self._process.alive):
            self._dismiss(self._process)
        if self._successor and not self._successor.alive:
            self._dismiss(self._successor)
        if self._process is None:
            self._process, self._successor = self._successor or DecodeProcess(self._limits, self._program), None
        if self._successor is None and self._process.images >= _MAX_IMAGES - _HEAD_START:
            self._successor = DecodeProcess(self._limits, self._program)
        return self._process

    def _dismiss_all(self) -> None:
        for process in filter(None, (self._process, self._successor)):
            self._dismiss(process)

    def _end_retiring(self) -> None:
        for process in self._retiring:
            process.end(ProcessEndedError())

    def _dismiss(self, process: DecodeProcess) -> None:
        """Send no more images to a process; it ends after those that it has."""
        process.retire()
        self._retiring.append(process)
        if process is self._process:
            self._process = None
        else:
            self._successor = None

    def _replace(self, process: DecodeProcess) -> None:
        """Stop using a process that has ended; several callers may find that out."""
        if process is self._process:
            self._dismiss(process)


def _read_facts(response: bytes, *, body: bytes, limits: Limits) -> ImageFacts:
    return _of_length(framing.read_facts(response, limits), len(body))


def _read_metrics(response: bytes, *, body: bytes, limits: Limits) -> tuple[ImageFacts, Metrics]:
    facts, metrics = framing.read_metrics(response, limits)
    return _of_length(facts, len(body)), metrics


def _read_metrics_of_file(response: bytes, *, limits: Limits) -> tuple[ImageFacts, Metrics]:
    facts, metrics = framing.read_metrics(response, limits)
    if not facts.sha256:
        raise framing.InvalidResponseError("no digest")
    return facts, metrics


def _of_length(facts: ImageFacts, length: int) -> ImageFacts:
    if facts.file_size != length:
        raise framing.InvalidResponseError("the length of another file")
    return facts


async def _digest(body: bytes) -> bytes:
    """Return the SHA-256 of a file. What an image is stored under, no process says that its bytes were in."""
    if len(body) < _MIN_THREAD_BYTES:
        return hashlib.sha256(body).digest()
    return (await asyncio.to_thread(hashlib.sha256, body)).digest()

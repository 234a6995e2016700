"""Several decode processes for one piece of work, as many as there are cores for it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from pixcrawler_worker import cores
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import PROGRAM

log = structlog.get_logger()
_T = TypeVar("_T")

#: Processes that share the cores, at most.
_MAX_PROCESSES = 4
#: Pixels of the images that further processes get: converting 12 Mpx takes 0.6 GB at worst, the largest images twice as
#: much.
_MAX_PIXELS = 12_000_000
#: Pixels that each process has when a further one starts: converting them takes as long as a start. A small image
#: counts as a megapixel.
_BUSY_PIXELS, _LEAST_PIXELS = 8_000_000, 1_000_000


@dataclass(slots=True)
class _Place:
    """A decoder, and the pixels of the images that it has now."""

    decoder: Decoder
    pixels: int = 0


class Decoders:
    """A decoder, and further ones while each is busy. For work that takes long for each image.

    It belongs to an event loop, as a decoder does. Close it at the end of the work: the first decoder stays open.

    Args:
        first: the decoder of the worker.
        limits: its limits. Images that are too large for the further ones are for the first one.
        most: how many there may be, the first included.
        program: arguments of Python that start a further one.
    """

    def __init__(self, first: Decoder, limits: Limits, most: int, program: Sequence[str] = PROGRAM) -> None:
        small = replace(limits, max_pixels=min(limits.max_pixels, _MAX_PIXELS))
        # A decoder starts its process when it is first used.
        self._further = [Decoder(small, program) for _ in range(most - 1)]
        self._first = _Place(first)
        self._used = [self._first]
        self._unused = [_Place(decoder) for decoder in reversed(self._further)]

    async def run(self, work: Callable[[Decoder], Awaitable[_T]], *, pixels: int) -> _T:
        """Return what one of the decoders makes of an image.

        Args:
            work: has it decoded.
            pixels: width x height of the image, or of what is made of it if that is larger.

        Raises:
            RejectedError, TransientError: as `work` does with the first decoder.
        """
        place = self._first if pixels > _MAX_PIXELS else self._least_busy()
        try:
            return await self._run_at(place, work, pixels)
        except TransientError as error:
            if place is self._first:
                raise
            # It cannot start, and no other one is tried.
            if place in self._used:
                self._used.remove(place)
                self._unused.clear()
                log.warning("no further image decoder", reason=str(error))
        except RejectedError as error:
            # What its row says of its size may not be true.
            if place is self._first or error.reason is not Reason.TOO_MANY_PIXELS:
                raise
        return await self._run_at(self._first, work, pixels)

    async def aclose(self) -> None:
        """End the further processes."""
        # All of them before the first await: this may be cancelled.
        for decoder in self._further:
            decoder.stop()
        for decoder in self._further:
            await decoder.aclose()

    def _least_busy(self) -> _Place:
        place = min(self._used, key=lambda one: one.pixels)
        if place.pixels >= _BUSY_PIXELS and self._unused:
            place = self._unused.pop()
            self._used.append(place)
        return place

    @staticmethod
    async def _run_at(place: _Place, work: Callable[[Decoder], Awaitable[_T]], pixels: int) -> _T:
        counted = max(pixels, _LEAST_PIXELS)
        place.pixels += counted
        try:
            return await work(place.decoder)
        finally:
            place.pixels -= counted


def share_of_cores(parts: int) -> int:
    """Return how many decode processes each of so many pieces of work has, which are done at the same time."""
    return share(cores.available(), parts)


def share(available: int, parts: int) -> int:
    """Return how many of the cores each of so many pieces of work uses."""
    return max(1, min(available, _MAX_PROCESSES) // parts)

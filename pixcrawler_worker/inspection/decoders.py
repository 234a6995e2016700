"""Several decode processes for one piece of work, as many as there are cores for it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits

#: Processes that share the cores, at most, and pixels of the images that further ones get: converting 12 Mpx takes
#: half a gigabyte at worst, and the largest images three times as much.
_MAX_PROCESSES, _MAX_PIXELS = 4, 12_000_000
#: Images that wait for each process when a further one starts, which takes as long as converting twenty.
_WAITING = 8


class Decoders:
    """A decoder, and further ones while each has images waiting. For work that takes long for each image.

    It belongs to an event loop, as a decoder does. Close it at the end of the work: the first decoder stays open.

    Args:
        first: the decoder of the worker.
        limits: those of the further ones.
        most: of all of them.
    """

    def __init__(self, first: Decoder, limits: Limits, most: int) -> None:
        # A decoder starts its process when it is first used.
        self._decoders: Sequence[Decoder] = [first, *(Decoder(limits) for _ in range(most - 1))]
        self._waiting = [0]

    @contextmanager
    def chosen(self, pixels: int) -> Iterator[Decoder]:
        """Yield the decoder for one image, which waits in the context until it is done.

        Args:
            pixels: width x height of the image: large ones are for the first decoder.
        """
        number = 0 if pixels > _MAX_PIXELS else self._least_busy()
        self._waiting[number] += 1
        try:
            yield self._decoders[number]
        finally:
            self._waiting[number] -= 1

    def _least_busy(self) -> int:
        number = min(range(len(self._waiting)), key=self._waiting.__getitem__)
        if self._waiting[number] >= _WAITING and len(self._waiting) < len(self._decoders):
            number = len(self._waiting)
            self._waiting.append(0)
        return number

    async def aclose(self) -> None:
        """End the further processes, once the images that they were sent are done."""
        for decoder in self._decoders[1:]:
            await decoder.aclose()


def share_of_cores(parts: int) -> int:
    """Return how many decode processes each of so many pieces of work has, which are done at the same time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _MAX_PROCESSES) // parts)

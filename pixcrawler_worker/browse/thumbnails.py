"""Thumbnails of stored images, made in sandboxed processes: several at a time, in bounded memory."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from pixcrawler_worker.domain import explanations
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.decoders import share_of_cores
from pixcrawler_worker.inspection.sheets import CELLS
from pixcrawler_worker.runtime import Runtime, image_limits
from pixcrawler_worker.storage.failures import FileMissingError

log = structlog.get_logger()

#: Pixels of a cell of a sheet; thumbnails are shown at this size, a little smaller or larger.
SIDE = 160
#: Pixels of an image that is shown alone: in a page with few images, and by a server.
PREVIEW_SIDE, LARGE_SIDE = 640, 1_600
#: Files that are in memory at a time, and sheets that are made at a time for each process.
_MAX_READS, _MAX_SHEETS = 8, 2


class MissingThumbnailError(Exception):
    """There is no thumbnail of an image. The message says why, in words for a page."""


class Cell(NamedTuple):
    """Where a thumbnail is on a sheet, and its size in pixels."""

    cell: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ThumbnailPage:
    """A sheet of thumbnails, and what belongs to its images.

    Attributes:
        sheet: JPEG; empty when none of the images has a thumbnail.
        cells: by image.
        reasons: why others have none, by image.
        previews: larger JPEGs, by image.
    """

    sheet: bytes = b""
    cells: Mapping[int, Cell] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    previews: Mapping[int, bytes] = field(default_factory=dict)


async def sheets(
    runtime: Runtime, images: Sequence[tuple[int, str | None]], *, with_previews: bool
) -> AsyncGenerator[ThumbnailPage]:
    """Yield sheets with the thumbnails of images, in their order.

    Args:
        runtime: connects to storage and decoder.
        images: ids with the storage URLs of their files.
        with_previews: whether there are larger images, too.

    Raises:
        TransientError: when the storage does not respond, or no process can be started.
    """
    async with contextlib.AsyncExitStack() as stack:
        limits = image_limits(runtime.settings)
        others = [Decoder(limits) for _ in range(share_of_cores(1) - 1)]
        for decoder in others:
            stack.push_async_callback(decoder.aclose)
        decoders = [runtime.decoder, *others]
        reads = asyncio.Semaphore(_MAX_READS)
        running: deque[asyncio.Task[ThumbnailPage]] = deque()
        stack.push_async_callback(_cancel, running)
        for number, start in enumerate(range(0, len(images), CELLS)):
            if len(running) == _MAX_SHEETS * len(decoders):
                yield await running.popleft()
            group, decoder = images[start : start + CELLS], decoders[number % len(decoders)]
            making = _sheet(runtime, group, decoder, reads, side=PREVIEW_SIDE if with_previews else SIDE)
            running.append(asyncio.create_task(making))
        while running:
            yield await running.popleft()


async def thumbnail(  # noqa: PLR0913 - one per limit
    runtime: Runtime, decoder: Decoder, image_id: int, url: str | None, reads: asyncio.Semaphore, *, side: int
) -> bytes:
    """Return a thumbnail of a stored image as JPEG.

    Args:
        runtime: connects to storage.
        decoder: of untrusted bytes.
        image_id: for the log.
        url: storage URL of its file; None when it has none.
        reads: limits the files in memory.
        side: pixels of its longer side.

    Raises:
        MissingThumbnailError: when there is none of this image.
        TransientError: when the storage does not respond, or no process can be started.
    """
    if url is None:
        raise MissingThumbnailError("no file was stored")
    try:
        async with reads:
            body = await runtime.storage.get(runtime.storage.key(url), max_bytes=runtime.settings.max_image_bytes)
            return await decoder.thumbnail(body, side=side)
    except RejectedError as error:
        raise MissingThumbnailError(explanations.explain(error.reason).meaning) from error
    except FileMissingError as error:
        raise MissingThumbnailError("file missing in the storage") from error
    except PermanentError as error:
        raise MissingThumbnailError("file not in the configured storage") from error
    except OutageError as error:
        if not error.may_be_one_file:
            raise
        raise MissingThumbnailError("file not readable in the storage") from error
    except WorkerError:
        raise
    except Exception as error:
        log.exception("no thumbnail: internal error", image=image_id)
        raise MissingThumbnailError("internal error: see the log") from error


async def _sheet(
    runtime: Runtime, images: Sequence[tuple[int, str | None]], decoder: Decoder, reads: asyncio.Semaphore, *, side: int
) -> ThumbnailPage:
    reasons: dict[int, str] = {}

    async def made(image_id: int, url: str | None) -> bytes | None:
        try:
            return await thumbnail(runtime, decoder, image_id, url, reads, side=side)
        except MissingThumbnailError as missing:
            reasons[image_id] = str(missing)
        return None

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {image_id: group.create_task(made(image_id, url)) for image_id, url in images}
    except ExceptionGroup as errors:
        # Concurrent reads fail for the same reason: one error is enough.
        raise errors.exceptions[0] from None
    tiles = {image_id: body for image_id, task in tasks.items() if (body := task.result()) is not None}
    if not tiles:
        return ThumbnailPage(reasons=reasons)
    try:
        sheet = await decoder.sheet(list(tiles.values()), side=SIDE)
    except RejectedError as error:
        # They are the decoder's own: a process that was killed, for example.
        log.warning("no sheet of thumbnails", reason=error.reason, detail=error.detail)
        meaning = explanations.explain(error.reason).meaning
        return ThumbnailPage(reasons=reasons | dict.fromkeys(tiles, meaning))
    cells = {
        image_id: Cell(number, width, height)
        for number, (image_id, (width, height)) in enumerate(zip(tiles, sheet.sizes, strict=True))
    }
    return ThumbnailPage(sheet.body, cells, reasons, tiles if side > SIDE else {})


async def _cancel(running: Iterable[asyncio.Task[ThumbnailPage]]) -> None:
    tasks = list(running)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

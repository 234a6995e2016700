"""What an image declares, read from its bytes alone: format, size, frames, and whether it is complete.

No decoder has run yet, so nothing here costs more than a walk over the container's blocks, which ends where the limits
do: decoders do something for each block, and some of them something for each pair. Each format is a file in
`containers`, by its own specification.
"""

import struct
from collections.abc import Callable

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import sniffing
from pixcrawler_worker.inspection.containers import bmp, boxes, gif, jpeg, jxl, png, tiff, webp
from pixcrawler_worker.inspection.containers.header import Header
from pixcrawler_worker.inspection.limits import Limits

#: How a file begins, and what reads its header.
_READERS: tuple[tuple[bytes, Callable[[bytes, Limits], Header]], ...] = (
    (b"\xff\xd8\xff", jpeg.read),
    (b"\x89PNG\r\n\x1a\n", png.read),
    (b"GIF87a", gif.read),
    (b"GIF89a", gif.read),
    (b"BM", bmp.read),
    (b"II*\0", tiff.read),
    (b"MM\0*", tiff.read),
    (b"II+\0", tiff.read),
    (b"MM\0+", tiff.read),
    (jxl.CODESTREAM, jxl.read),
    (jxl.CONTAINER, jxl.read),
)


def read(body: bytes, limits: Limits) -> Header:
    """Return the header of an image in one of the formats that are decoded.

    Args:
        body: the whole file.
        limits: how many parts the container may have. Frames are counted to one more than the limit; neither they nor
            the size are checked.

    Raises:
        RejectedError: NOT_AN_IMAGE when it is something else, UNSUPPORTED_FORMAT when it is an image of another format,
            in a variant that is not decoded, or of a format whose extra is not installed, CORRUPT when the container is
            broken or truncated, TOO_COMPLEX when it has more parts than allowed.
    """
    reader = _reader(body)
    if reader is None:
        raise sniffing.rejection(body)
    try:
        return reader(body, limits)
    except (struct.error, IndexError) as error:
        raise RejectedError(Reason.CORRUPT, "the file ends inside its header") from error


def _reader(body: bytes) -> Callable[[bytes, Limits], Header] | None:
    for magic, reader in _READERS:
        if body.startswith(magic):
            return reader
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return webp.read
    if body[4:8] == b"ftyp":
        brands = set(sniffing.brands(body))
        if brands & {b"avif", b"avis"}:
            return boxes.read_avif
        if brands & sniffing.HEIC_BRANDS:
            return boxes.read_heic
    return None

"""WebP (RFC 9649)."""

import struct
from collections.abc import Iterator

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.containers.header import Header, truncated
from pixcrawler_worker.inspection.limits import Limits

#: Memory by whether there are lossless pixels and alpha: `inspection/webp.py` scales a large image down as it decodes.
_PIXEL_BYTES = {(False, False): 1.0, (False, True): 3.0, (True, False): 4.0, (True, True): 4.0}
#: Two canvases, and what is made of them: as a rule 16, with alpha 20.
_ANIMATED_BYTES = 20.0


def read(body: bytes, limits: Limits) -> Header:
    """Read the first chunk and count ANMF chunks (RFC 9649, 2)."""
    (riff_size,) = struct.unpack_from("<I", body, 4)
    end = riff_size + 8
    if end > len(body):
        raise truncated(f"{end - len(body)} bytes early")
    width, height = canvas_size(body)
    kinds: set[bytes] = set()
    frames = blocks = 0
    max_blocks = limits.max_blocks_of(len(body))
    position = 12
    while position + 8 <= end:
        kind, size = struct.unpack_from("<4sI", body, position)
        kinds.add(kind)
        frames += kind == b"ANMF"
        blocks += 1
        if blocks > max_blocks:
            raise limits.too_many_blocks(len(body))
        position += 8 + size + (size & 1)
    pixel_bytes = _ANIMATED_BYTES if frames else _PIXEL_BYTES[b"VP8L" in kinds, b"ALPH" in kinds]
    return Header(format="webp", width=width, height=height, frames=max(1, frames), pixel_bytes=pixel_bytes)


def parts(body: bytes) -> Iterator[bytes]:
    """Yield the names of the chunks of a WebP, and an empty one if there are bytes behind them."""
    position, end = 12, struct.unpack_from("<I", body, 4)[0] + 8
    while position + 8 <= end:
        kind, size = struct.unpack_from("<4sI", body, position)
        yield kind
        position += 8 + size + (size & 1)
    if len(body) > end:
        yield b""


def canvas_size(body: bytes) -> tuple[int, int]:
    """Return width and height of a WebP from its first chunk, whose content begins at byte 20."""
    match body[12:16]:
        case b"VP8 " if body[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", body, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L" if body[20:21] == b"\x2f":
            (bits,) = struct.unpack_from("<I", body, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X" if len(body) >= 30:  # noqa: PLR2004 - where the canvas size ends
            return int.from_bytes(body[24:27], "little") + 1, int.from_bytes(body[27:30], "little") + 1
    raise RejectedError(Reason.CORRUPT, "its first chunk has no image")

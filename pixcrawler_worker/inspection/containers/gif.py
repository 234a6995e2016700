"""GIF89a."""

import struct

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.containers.header import Header, truncated
from pixcrawler_worker.inspection.limits import Limits


def read(body: bytes, limits: Limits) -> Header:
    """Walk the blocks to the trailer (GIF89a, 17 to 27)."""
    width, height, flags = struct.unpack_from("<HHB", body, 6)
    position = 13 + _colors(flags)
    frames = 0
    blocks = limits.max_blocks_of(len(body))
    while frames <= limits.max_frames:
        block = body[position : position + 1]
        if not block:
            raise truncated("before its trailer")
        if block == b";":
            break
        position += 1
        blocks -= 1
        if block == b"!":
            position, blocks = _after_data(body, position + 1, blocks)
        elif block == b",":
            left, top, across, down, flags = struct.unpack_from("<HHHHB", body, position)
            if frames == 0:  # Decoders widen the screen to hold the first frame.
                width, height = max(width, left + across), max(height, top + down)
            frames += 1
            position, blocks = _after_data(body, position + 10 + _colors(flags), blocks)
        # Anything else between blocks is skipped, as decoders do.
        if blocks <= 0:
            raise limits.too_many_blocks(len(body))
    if frames == 0:
        raise RejectedError(Reason.CORRUPT, "a GIF without a frame")
    return Header(format="gif", width=width, height=height, frames=frames, pixel_bytes=2.0)


def _colors(flags: int) -> int:
    """Return the bytes of the color table that `flags` declare."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_data(body: bytes, position: int, blocks: int) -> tuple[int, int]:
    """Return where the chain of sub-blocks at `position` ends, and how many of `blocks` are left then."""
    while blocks > 0 and (size := body[position]):
        position += size + 1
        blocks -= 1
    return position + 1, blocks

"""PNG (3rd edition)."""

import struct

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.containers.header import BYTE, Header, truncated
from pixcrawler_worker.inspection.limits import Limits

#: Chunks of which few bytes may be a megabyte.
_COMPRESSED = frozenset({b"iCCP", b"zTXt", b"iTXt"})


def read(body: bytes, limits: Limits) -> Header:
    """Walk the chunks to IEND; acTL holds the frames of an APNG (PNG 3rd edition, 5 and 11)."""
    kind, width, height = struct.unpack_from(">4sII", body, 12)
    if kind == b"CgBI":
        raise RejectedError(Reason.UNSUPPORTED_FORMAT, "it is a PNG of Apple's own kind (CgBI), which is not supported")
    if kind != b"IHDR":
        raise RejectedError(Reason.CORRUPT, "its first chunk is not IHDR")
    frames = 1
    blocks = compressed = 0
    max_blocks = limits.max_blocks_of(len(body))
    position = 8
    while kind != b"IEND":
        if position >= len(body):
            raise truncated("before its IEND chunk")
        size, kind = struct.unpack_from(">I4s", body, position)
        if kind == b"acTL" and size >= 8:  # noqa: PLR2004 - two numbers
            frames = max(1, struct.unpack_from(">I", body, position + 8)[0])
        compressed += kind in _COMPRESSED
        blocks += 1
        if blocks > max_blocks:
            raise limits.too_many_blocks(len(body))
        position += size + 12
    limits.check_compressed_chunks(compressed)
    if position > len(body):
        raise truncated("inside its IEND chunk")
    bits, color = body[24], body[25]
    pixel_bytes = {0: 3.0 if bits > BYTE else 1.0, 3: 1.0}.get(color, 4.0)  # gray, a palette
    return Header(format="png", width=width, height=height, frames=frames, pixel_bytes=pixel_bytes)

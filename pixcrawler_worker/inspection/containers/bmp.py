"""BMP (BITMAPINFOHEADER)."""

import struct

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.containers.header import BYTE, Header
from pixcrawler_worker.inspection.limits import Limits

_CORE_HEADER, _OS2_SHORT_HEADER = 12, 16
_HOLDS = {4: "JPEG", 5: "PNG"}
_RUN_LENGTHS = frozenset({1, 2})
#: More than a header and 256 colors have.
_MAX_HEADERS = 65_536


def read(body: bytes, _: Limits) -> Header:
    """BITMAPCOREHEADER has two shorts; every later header has two longs, a negative height meaning top-down."""
    (header_size,) = struct.unpack_from("<I", body, 14)
    width, height = struct.unpack_from("<HH" if header_size == _CORE_HEADER else "<ii", body, 18)
    bits = 24
    if header_size > _CORE_HEADER:
        bits, compression = struct.unpack_from("<HI", body, 28) if header_size > _OS2_SHORT_HEADER else (24, 0)
        if name := _HOLDS.get(compression):
            raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is a BMP that holds a {name}, which is not supported")
        plain = (abs(width) * bits // 8 + 4) * abs(height) + _MAX_HEADERS
        if compression in _RUN_LENGTHS and len(body) > plain:
            # Pillow decodes them in Python.
            raise RejectedError(
                Reason.TOO_COMPLEX, f"{len(body):,} bytes of run lengths, for {plain:,} at most without them"
            )
    return Header(format="bmp", width=width, height=abs(height), pixel_bytes=4.0 if bits > BYTE else 1.0)

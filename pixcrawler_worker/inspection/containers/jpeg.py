"""JPEG (T.81)."""

import re
import struct
from dataclasses import replace

import numpy as np

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.containers.header import Header, truncated
from pixcrawler_worker.inspection.limits import Limits

#: A Huffman code has at least one bit, and a block of 8x8 pixels at least one code (T.81, F.1.2): 512 pixels a byte.
_MAX_PIXELS_PER_BYTE = 512
#: Bytes that are looked at together: what comparing all of a large file takes would stay with the process.
_COUNTED = 262_144
#: A marker with a length behind it, or the end of the image: not a fill byte, a stuffed one, TEM, RSTn or another SOI.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SCAN, _END, _BITS = b"\xff\xda", 0xD9, 8
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_ARITHMETIC, _PROGRESSIVE = frozenset({0xC9, 0xCA}), frozenset({0xC2, 0xCA})
_COEFFICIENT_BYTES = 2
_UNSUPPORTED = {
    0xC3: "lossless JPEG (SOF3)",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"),
    0xCB: "lossless arithmetic JPEG (SOF11)",
    0xF7: "JPEG-LS",
}


def read(body: bytes, limits: Limits) -> Header:
    """Walk the segments to the first scan (T.81, B.1 and B.2.2)."""
    header: Header | None = None
    segments = padding = frame = 0
    position = 2
    while True:
        begin, marker = _marker(body, position)
        padding += begin - position
        limits.check_padding(padding)
        if marker in (_SCAN[1], _END):
            break
        segments += 1
        limits.check_segments(segments)
        if marker in _START_OF_FRAME:
            header, frame = (header, frame) if header else (_frame(body, begin, marker), begin)
        position = begin + 2 + struct.unpack_from(">H", body, begin + 2)[0]
    if header is None:
        raise RejectedError(Reason.CORRUPT, "its data begins before a frame header")
    header = replace(header, pixel_bytes=_pixel_bytes(body, frame, begin))
    # Entropy-coded data has no such bytes (T.81, F.1.2.3), metadata and what follows the image may.
    most = limits.max_scans_of(header.width, header.height, arithmetic=body[frame + 1] in _ARITHMETIC)
    if _count_scans(body, begin) > most:
        _check_scans(body, begin, most, limits)
    return header


def _marker(body: bytes, position: int) -> tuple[int, int]:
    """Return where the next segment begins and its marker.

    Decoders skip stray bytes and fill bytes (0xFF) before a marker, and markers that are no segment, so this does.
    """
    found = _MARKER.search(body, position)
    if found is None:
        raise truncated("before its first scan")
    return found.start(), body[found.start() + 1]


def _frame(body: bytes, position: int, marker: int) -> Header:
    precision, height, width = struct.unpack_from(">BHH", body, position + 4)
    if name := _UNSUPPORTED.get(marker):
        raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is a {name}, which is not supported")
    if precision != _BITS:
        raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is a JPEG of {precision} bits, which is not supported")
    if marker not in _ARITHMETIC and width * height > _MAX_PIXELS_PER_BYTE * len(body):
        raise RejectedError(Reason.CORRUPT, f"{len(body)} bytes cannot hold a JPEG of {width}x{height}")
    return Header(format="jpg", width=width, height=height)


def _pixel_bytes(body: bytes, frame: int, scan: int) -> float:
    """Return the memory of a JPEG's coefficients for each pixel: decoders keep all of them if there are several scans.

    Its pixels take next to nothing, because it is scaled down while it is decoded.
    """
    components, scanned = body[frame + 9], body[scan + 4]
    if body[frame + 1] not in _PROGRESSIVE and scanned >= components:
        return 0.0
    samplings = [body[frame + 11 + 3 * number] for number in range(components)]
    across = max((sampling >> 4 for sampling in samplings), default=0)
    down = max((sampling & 15 for sampling in samplings), default=0)
    samples = sum((sampling >> 4) * (sampling & 15) for sampling in samplings)
    return _COEFFICIENT_BYTES * samples / max(across * down, 1)


def _count_scans(body: bytes, position: int) -> int:
    """Return how often the marker of a scan is in the rest of a file: `bytes.count` takes six times as long."""
    data = np.frombuffer(body, np.uint8)
    scans = 0
    for first in range(position, len(body) - 1, _COUNTED):
        last = min(first + _COUNTED, len(body) - 1)
        is_marker = (data[first:last] == _SCAN[0]) & (data[first + 1 : last + 1] == _SCAN[1])
        scans += int(np.count_nonzero(is_marker))
    return scans


def _check_scans(body: bytes, position: int, most: int, limits: Limits) -> None:
    """Count the scans exactly, to the end of the image."""
    scans = 0
    while found := _MARKER.search(body, position):
        position, marker = found.start(), body[found.start() + 1]
        if marker == _END:
            return
        scans += marker == _SCAN[1]
        limits.check_scans(scans, most)
        if position + 4 > len(body):
            return
        position += 2 + struct.unpack_from(">H", body, position + 2)[0]

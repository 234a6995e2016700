"""TIFF 6.0 and BigTIFF."""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.containers.header import BYTE, Header
from pixcrawler_worker.inspection.limits import Limits


class _Layout(NamedTuple):
    """Where the numbers of a directory are (TIFF 6.0, 2; the same of BigTIFF).

    Attributes:
        first: position of the offset of the first directory.
        offset: type of an offset.
        entries: type of the number of entries.
        entry: bytes of an entry.
        value: position of the value in an entry.
        types: of the values that are read by their numbers: BYTE, SHORT, LONG, LONG8.
    """

    first: int
    offset: str
    entries: str
    entry: int
    value: int
    types: Mapping[int, str]


_CLASSIC = _Layout(4, "I", "H", 12, 8, {1: "B", 3: "H", 4: "I"})
_BIG = _Layout(8, "Q", "Q", 20, 12, {1: "B", 3: "H", 4: "I", 16: "Q"})
_SIZE, _COMPRESSION, _PHOTOMETRIC, _REDUCED, _CHILDREN = (256, 257), 259, 262, 254, 330
_BITS, _SAMPLES, _STRIP_ROWS, _DNG_VERSION = 258, 277, 278, 50706
#: Colors before they are made from what a sensor saw: CFA and LinearRaw (DNG 1.7).
_RAW = frozenset({32803, 34892})
#: What Pillow has a decoder for, WebP not among them: libtiff is built without it.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34676, 34677, 34925, 50000})


def read(body: bytes, limits: Limits) -> Header:
    """Read the first directory and follow the chain of the others."""
    order = "<" if body.startswith(b"II") else ">"
    layout = _BIG if b"+" in body[2:4] else _CLASSIC
    if layout is _BIG and order == ">":
        raise RejectedError(
            Reason.UNSUPPORTED_FORMAT, "it is a BigTIFF with the highest byte first, which is not supported"
        )
    (offset,) = struct.unpack_from(order + layout.offset, body, layout.first)
    first = _directory(body, order, layout, offset, limits)
    if name := _unsupported(body, first):
        raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is {name}, which is not supported")
    seen = {0}
    while offset not in seen and len(seen) <= limits.max_frames + 1:
        seen.add(offset)
        (entries,) = _unpack(order + layout.entries, body, offset)
        limits.check_tags(entries)
        after = offset + struct.calcsize(order + layout.entries) + layout.entry * entries
        (offset,) = _unpack(order + layout.offset, body, after)
    width, height = (first.get(tag, 0) for tag in _SIZE)
    is_small = first.get(_SAMPLES, 1) == 1 and first.get(_BITS, 1) <= BYTE
    pixel_bytes = 1.0 if is_small else 4.0
    if first.get(_COMPRESSION, 1) != 1:
        # A strip is decompressed as a whole.
        rows = min(first.get(_STRIP_ROWS, height), height)
        pixel_bytes += max(1, first.get(_SAMPLES, 1)) * rows / max(1, height)
    return Header(format="tiff", width=width, height=height, frames=len(seen) - 1, pixel_bytes=pixel_bytes)


def _directory(body: bytes, order: str, layout: _Layout, offset: int, limits: Limits) -> dict[int, int]:
    """Return the first values of the entries by tag, 0 for types that are not read."""
    values = {}
    (entries,) = _unpack(order + layout.entries, body, offset)
    limits.check_tags(entries)
    begin = offset + struct.calcsize(order + layout.entries)
    for position in range(begin, begin + layout.entry * entries, layout.entry):
        tag, kind = struct.unpack_from(f"{order}HH", body, position)
        values[tag] = 0
        if code := layout.types.get(kind):
            (values[tag],) = struct.unpack_from(order + code, body, position + layout.value)
    return values


def _unsupported(body: bytes, first: Mapping[int, int]) -> str | None:
    """Return the name of a TIFF that is not decoded. Of a raw image, decoders would take the thumbnail for it."""
    if body[8:10] == b"CR":
        return "a Canon raw image (CR2)"
    if _DNG_VERSION in first:
        return "a raw image (DNG)"
    if first.get(_PHOTOMETRIC) in _RAW or (first.get(_REDUCED, 0) & 1 and _CHILDREN in first):
        return "a raw image of a camera (NEF, ARW or another one that is built like a TIFF)"
    compression = first.get(_COMPRESSION, 1)
    return None if compression in _COMPRESSIONS else f"a TIFF of compression {compression}"


def _unpack(layout: str, body: bytes, position: int) -> tuple[int, ...]:
    """Return numbers of a body at a position that is stated in it, and may be larger than any."""
    if position > len(body):
        raise IndexError
    return struct.unpack_from(layout, body, position)

"""AVIF and HEIC (ISO/IEC 14496-12 and 23008-12): the largest image that their boxes declare, and its bounds."""

import struct
from collections.abc import Iterator

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import extras
from pixcrawler_worker.inspection.containers.header import Header
from pixcrawler_worker.inspection.limits import Limits

#: Boxes that hold boxes on the way to those that are read, and the bytes before the first of them.
_CONTAINERS = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
}


#: Memory that decoders take for a pixel of usual images (4:2:0, no alpha): their frame, the same as RGB, a copy of it,
#: and Pillow's image, which a HEIC goes without (`inspection/heic.py`). Those that take more are rejected when there is
#: none left.
_AVIF_BYTES, _HEIC_BYTES = 9.0, 6.0


def read_avif(body: bytes, limits: Limits) -> Header:
    """Return the bounds of what is in an AVIF. Raises as `largest`."""
    width, height, frames = largest(body, limits)
    return Header(format="avif", width=width, height=height, frames=frames, pixel_bytes=_AVIF_BYTES)


def read_heic(body: bytes, limits: Limits) -> Header:
    """Return the bounds of what is in a HEIC. Raises as `largest`; UNSUPPORTED_FORMAT where it is not decoded."""
    extras.require("heic")
    width, height, frames = largest(body, limits)
    return Header(format="heic", width=width, height=height, frames=frames, pixel_bytes=_HEIC_BYTES)


def largest(body: bytes, limits: Limits) -> tuple[int, int, int]:
    """Return the largest width, height and number of frames that the boxes declare.

    Which image is decoded is the decoder's choice, so the limits are for the largest. A coded frame that is larger than
    all of them is decoded and scaled down (libavif does); the decode process limits that.

    Raises:
        RejectedError: CORRUPT when a box is broken or truncated, TOO_COMPLEX when there are too many of them, or of the
            items in them.
        struct.error: the body ends inside a box.
    """
    width, height, frames = 0, 0, 1
    for kind, start, end in _boxes(body, limits):
        if kind == b"ispe":
            across, down = struct.unpack_from(">II", body, start + 4)
            width, height = max(width, across), max(height, down)
        elif kind == b"tkhd":  # 16.16 fixed point, the last eight bytes of the box
            across, down = struct.unpack_from(">II", body, end - 8)
            width, height = max(width, across >> 16), max(height, down >> 16)
        elif kind == b"stsz":
            frames = max(frames, struct.unpack_from(">I", body, start + 8)[0])
    return width, height, frames


def box_at(body: bytes, position: int, end: int) -> tuple[bytes, int, int]:
    """Return kind, start of the content and end of a box, as it says itself (ISO/IEC 14496-12, 4.2).

    Args:
        body: the whole file.
        position: where the box begins.
        end: of what it is in; a box without a size ends there.

    Raises:
        struct.error: the body ends inside its header.
    """
    size, kind = struct.unpack_from(">I4s", body, position)
    start = position + 8
    if size == 1:
        (size,) = struct.unpack_from(">Q", body, start)
        start += 8
    return kind, start, position + size if size else end


def parts(body: bytes) -> Iterator[bytes]:
    """Yield the kinds of the outermost boxes, of a file for which `largest` returned."""
    position = 0
    while position < len(body):
        kind, _, position = box_at(body, position, len(body))
        yield kind


def _items(body: bytes, kind: bytes, start: int, end: int, limits: Limits) -> int:
    """Return how many items a box names. Its first byte is the version of its layout."""
    if kind in _COUNTS:
        offset, short, long = _COUNTS[kind]
        (count,) = struct.unpack_from(long if body[start] else short, body, start + offset)
        return int(count)
    if kind == b"iloc":
        return _located(body, start, limits)
    if kind == b"iref":
        return _listed(body, start + 4, end, _LONG_REFERENCE if body[start] else _REFERENCE, limits)
    if kind == b"grpl":
        return _listed(body, start, end, _GROUP, limits)
    return 0


#: Boxes that begin with the number of their entries: where it is, and its type in version 0 and in later ones.
_COUNTS = {b"iinf": (4, ">H", ">I"), b"ipma": (4, ">I", ">I")}
#: Boxes of `iref`, with ids of two bytes and of four, and of `grpl`: their size and the number of their items.
_REFERENCE, _LONG_REFERENCE, _GROUP = struct.Struct(">I6xH"), struct.Struct(">I8xH"), struct.Struct(">I12xI")


def _listed(body: bytes, position: int, end: int, layout: struct.Struct, limits: Limits) -> int:
    """Return the items in a chain of boxes, each of which has a number of them."""
    items = 0
    while position < end:
        size, count = layout.unpack_from(body, position)
        items += 1 + int(count)
        limits.check_items(items)
        position += max(size, 8)
    return items


def _located(body: bytes, position: int, limits: Limits) -> int:
    """Return the items and extents of an `iloc` box (ISO/IEC 14496-12, 8.11.3); an extent may have no bytes at all."""
    version, sizes, more_sizes = body[position], body[position + 4], body[position + 5]
    (items,) = struct.unpack_from(">I" if version > 1 else ">H", body, position + 6)
    limits.check_items(items)
    position += 10 if version > 1 else 8
    # Its id, construction method, data reference and base offset are before the number of its extents.
    before = (4 if version > 1 else 2) + (2 if version else 0) + 2 + (more_sizes >> 4)
    extent = (sizes >> 4) + (sizes & 15) + (more_sizes & 15 if version else 0)
    count = int(items)
    for _ in range(items):
        (extents,) = struct.unpack_from(">H", body, position + before)
        count += extents
        limits.check_items(count)
        position += before + 2 + extents * extent
    return count


def _boxes(body: bytes, limits: Limits) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start of the content and end of every box, containers unfolded."""
    ends = [len(body)]
    position = blocks = items = 0
    max_blocks = limits.max_blocks_of(len(body))
    while ends:
        end = ends[-1]
        if position >= end:
            position = ends.pop()
            continue
        blocks += 1
        if blocks > max_blocks:
            raise limits.too_many_blocks(len(body))
        kind, start, box_end = box_at(body, position, end)
        if box_end > end:
            raise RejectedError(Reason.CORRUPT, f"the file ends inside its {kind.decode('latin-1')} box")
        if box_end < start:
            raise RejectedError(Reason.CORRUPT, "a box is smaller than its own header")
        items += _items(body, kind, start, box_end, limits)
        limits.check_items(items)
        yield kind, start, box_end
        if kind in _CONTAINERS:
            ends.append(box_end)
            limits.check_box_depth(len(ends) - 1)
            position = start + _CONTAINERS[kind]
        else:
            position = box_end

"""What an image declares, read from its bytes alone: format, size, frames, and whether it is complete.

No decoder has run yet, so nothing here costs more than a walk over the container's blocks. The sources are the
formats' own specifications: T.81 (JPEG), PNG 3rd edition, GIF89a, RFC 9649 (WebP), BITMAPINFOHEADER, TIFF 6.0,
ISO/IEC 14496-12 and 23008-12 (AVIF).
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import sniffing

#: A Huffman code has at least one bit, and a block of 8x8 pixels at least one code (T.81, F.1.2): 512 pixels a byte.
_JPEG_MAX_PIXELS_PER_BYTE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a container declares; the decoder may still find that it is not true.

    Attributes:
        format: extension in lower case, as in `ImageFacts`.
        width: pixels of the canvas as stored; the largest image of an AVIF.
        height: pixels, likewise.
        frames: frames or pages; `read` stops counting at `enough_frames`.
    """

    format: str
    width: int
    height: int
    frames: int = 1


def read(body: bytes, *, enough_frames: int) -> Header:
    """Return the header of an image in one of the seven formats.

    Args:
        body: the whole file.
        enough_frames: where to stop counting, so that a long chain of frames costs no more than the limit.

    Raises:
        RejectedError: NOT_AN_IMAGE when it is something else, CORRUPT when the container is broken or truncated.
    """
    reader = _reader(body)
    if reader is None:
        raise RejectedError(Reason.NOT_AN_IMAGE, f"it looks like {sniffing.describe(body)}")
    try:
        return reader(body, enough_frames)
    except (struct.error, IndexError) as error:
        raise RejectedError(Reason.CORRUPT, "the file ends inside its header") from error


def _reader(body: bytes) -> Callable[[bytes, int], Header] | None:
    for magic, reader in _READERS:
        if body.startswith(magic):
            return reader
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return _webp
    if body[4:8] == b"ftyp" and {b"avif", b"avis"} & set(sniffing.brands(body)):
        return _avif
    return None


def _truncated(where: str) -> RejectedError:
    return RejectedError(Reason.CORRUPT, f"the file ends {where}")


def _jpeg(body: bytes, _: int) -> Header:
    """Walk the segments to the start of frame (T.81, B.1 and B.2.2)."""
    position = 2
    while True:
        # Decoders skip stray bytes and fill bytes (0xFF) before a marker, so this does.
        position = body.find(b"\xff", position)
        if position < 0:
            raise _truncated("before its frame header")
        marker = body[position + 1]
        if marker in _JPEG_START_OF_FRAME:
            height, width = struct.unpack_from(">HH", body, position + 5)
            if width * height > _JPEG_MAX_PIXELS_PER_BYTE * len(body):
                raise RejectedError(Reason.CORRUPT, f"{len(body)} bytes cannot hold a JPEG of {width}x{height}")
            return Header(format="jpg", width=width, height=height)
        if marker in _JPEG_AFTER_HEADER:
            raise RejectedError(Reason.CORRUPT, "its data begins before a frame header")
        if marker in _JPEG_WITHOUT_LENGTH:
            position += 1 if marker == _JPEG_FILL else 2
        else:
            position += 2 + struct.unpack_from(">H", body, position + 2)[0]


_JPEG_FILL = 0xFF
_JPEG_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_AFTER_HEADER = frozenset({0xD9, 0xDA})
_JPEG_WITHOUT_LENGTH = frozenset({0x00, 0x01, _JPEG_FILL, *range(0xD0, 0xD9)})


def _png(body: bytes, _: int) -> Header:
    """Walk the chunks to IEND; acTL holds the frames of an APNG (PNG 3rd edition, 5 and 11)."""
    kind, width, height = struct.unpack_from(">4sII", body, 12)
    if kind != b"IHDR":
        raise RejectedError(Reason.CORRUPT, "its first chunk is not IHDR")
    frames = 1
    position = 8
    while kind != b"IEND":
        if position >= len(body):
            raise _truncated("before its IEND chunk")
        size, kind = struct.unpack_from(">I4s", body, position)
        if kind == b"acTL":
            frames = max(1, struct.unpack_from(">I", body, position + 8)[0])
        position += size + 12
    if position > len(body):
        raise _truncated("inside its IEND chunk")
    return Header(format="png", width=width, height=height, frames=frames)


def _gif(body: bytes, enough: int) -> Header:
    """Walk the blocks to the trailer (GIF89a, 17 to 27)."""
    width, height, flags = struct.unpack_from("<HHB", body, 6)
    position = 13 + _gif_colors(flags)
    frames = 0
    while frames < enough:
        block = body[position : position + 1]
        if not block:
            raise _truncated("before its trailer")
        if block == b";":
            break
        position += 1
        if block == b"!":
            position = _gif_after_data(body, position + 1)
        elif block == b",":
            left, top, across, down, flags = struct.unpack_from("<HHHHB", body, position)
            if frames == 0:  # Decoders widen the screen to hold the first frame.
                width, height = max(width, left + across), max(height, top + down)
            frames += 1
            position = _gif_after_data(body, position + 10 + _gif_colors(flags))
        # Anything else between blocks is skipped, as decoders do.
    if frames == 0:
        raise RejectedError(Reason.CORRUPT, "a GIF without a frame")
    return Header(format="gif", width=width, height=height, frames=frames)


def _gif_colors(flags: int) -> int:
    """Return the bytes of the color table that `flags` declare."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_after_data(body: bytes, position: int) -> int:
    """Return where the chain of sub-blocks at `position` ends."""
    while size := body[position]:
        position += size + 1
    return position + 1


def _webp(body: bytes, _: int) -> Header:
    """Read the first chunk and count ANMF chunks (RFC 9649, 2)."""
    (riff_size,) = struct.unpack_from("<I", body, 4)
    end = riff_size + 8
    if end > len(body):
        raise _truncated(f"{end - len(body)} bytes early")
    width, height = _webp_size(body)
    frames = 0
    position = 12
    while position + 8 <= end:
        kind, size = struct.unpack_from("<4sI", body, position)
        frames += kind == b"ANMF"
        position += 8 + size + (size & 1)
    return Header(format="webp", width=width, height=height, frames=max(1, frames))


def _webp_size(body: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk, whose content begins at byte 20."""
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


def _bmp(body: bytes, _: int) -> Header:
    """BITMAPCOREHEADER has two shorts; every later header has two longs, a negative height meaning top-down."""
    (header_size,) = struct.unpack_from("<I", body, 14)
    width, height = struct.unpack_from("<HH" if header_size == _BMP_CORE_HEADER else "<ii", body, 18)
    return Header(format="bmp", width=width, height=abs(height))


_BMP_CORE_HEADER = 12


def _tiff(body: bytes, enough: int) -> Header:
    """Read the first directory and follow the chain of the others (TIFF 6.0, 2)."""
    order = "<" if body.startswith(b"II") else ">"
    (offset,) = struct.unpack_from(f"{order}I", body, 4)
    first = _tiff_directory(body, order, offset)
    seen = {0}
    while offset not in seen and len(seen) <= enough:
        seen.add(offset)
        (entries,) = struct.unpack_from(f"{order}H", body, offset)
        (offset,) = struct.unpack_from(f"{order}I", body, offset + 2 + 12 * entries)
    return Header(format="tiff", width=first.get(256, 0), height=first.get(257, 0), frames=len(seen) - 1)


def _tiff_directory(body: bytes, order: str, offset: int) -> dict[int, int]:
    """Values of the entries that are one BYTE, SHORT or LONG (types 1, 3 and 4), by tag."""
    values = {}
    (entries,) = struct.unpack_from(f"{order}H", body, offset)
    for position in range(offset + 2, offset + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", body, position)
        if code := {1: "B", 3: "H", 4: "I"}.get(kind):
            (values[tag],) = struct.unpack_from(order + code, body, position + 8)
    return values


def _avif(body: bytes, _: int) -> Header:
    """Take the largest image and the longest track that the boxes declare.

    Which of them is decoded is the decoder's choice, so the limits are applied to the largest. A coded frame
    that is larger than all of them is decoded and scaled down (libavif does); the decode process limits that.
    """
    widths, heights, frames = [0], [0], [1]
    for kind, start, end in _boxes(body, 0, len(body)):
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", body, start + 4)
        elif kind == b"tkhd":  # 16.16 fixed point, the last eight bytes of the box
            width, height = (side >> 16 for side in struct.unpack_from(">II", body, end - 8))
        elif kind == b"stsz":
            frames.append(struct.unpack_from(">I", body, start + 8)[0])
            continue
        else:
            continue
        widths.append(width)
        heights.append(height)
    return Header(format="avif", width=max(widths), height=max(heights), frames=max(frames))


#: Boxes that hold boxes on the way to ispe, tkhd and stsz, and the bytes before the first of them.
_AVIF_CONTAINERS = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
}


def _boxes(body: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start of the content and end of every box between two positions, containers unfolded."""
    while position < end:
        size, kind = struct.unpack_from(">I4s", body, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", body, start)
            start += 8
        box_end = position + size if size else end
        if box_end > end:
            raise _truncated(f"inside its {kind.decode('latin-1')} box")
        if box_end < start:
            raise RejectedError(Reason.CORRUPT, "a box is smaller than its own header")
        yield kind, start, box_end
        if kind in _AVIF_CONTAINERS:
            yield from _boxes(body, start + _AVIF_CONTAINERS[kind], box_end)
        position = box_end


_READERS: tuple[tuple[bytes, Callable[[bytes, int], Header]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)

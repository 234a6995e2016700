"""What an image declares, read from its bytes alone: format, size, frames, and whether it is complete.

No decoder has run yet, so nothing here costs more than a walk over the container's blocks, which ends where the limits
do: decoders do something for each block, and some of them something for each pair. The sources are the formats' own
specifications: T.81 (JPEG), PNG 3rd edition, GIF89a, RFC 9649 (WebP), BITMAPINFOHEADER, TIFF 6.0; AVIF and HEIC are in
`boxes`, JPEG XL is in `jxl`.
"""

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import boxes, extras, jxl, sniffing
from pixcrawler_worker.inspection.limits import Limits

#: A Huffman code has at least one bit, and a block of 8x8 pixels at least one code (T.81, F.1.2): 512 pixels a byte.
_JPEG_MAX_PIXELS_PER_BYTE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a container declares; the decoder may still find that it is not true.

    Attributes:
        format: extension in lower case, as in `ImageFacts`.
        width: pixels of the canvas as stored; the largest image of an AVIF or HEIC.
        height: pixels, likewise.
        frames: frames or pages; `read` stops counting above the limit.
        pixel_bytes: memory that decoding it takes for each pixel, besides the file: for most, that of Pillow's image.
    """

    format: str
    width: int
    height: int
    frames: int = 1
    pixel_bytes: float = 4.0


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
        return _webp
    if body[4:8] == b"ftyp":
        brands = set(sniffing.brands(body))
        if brands & {b"avif", b"avis"}:
            return _avif
        if brands & sniffing.HEIC_BRANDS:
            return _heic
    return None


def _truncated(where: str) -> RejectedError:
    return RejectedError(Reason.CORRUPT, f"the file ends {where}")


def _jpeg(body: bytes, limits: Limits) -> Header:
    """Walk the segments to the first scan (T.81, B.1 and B.2.2)."""
    header: Header | None = None
    segments = padding = frame = 0
    position = 2
    while True:
        begin, marker = _jpeg_marker(body, position)
        padding += begin - position
        limits.check_padding(padding)
        if marker in (_JPEG_SCAN[1], _JPEG_END):
            break
        segments += 1
        limits.check_segments(segments)
        if marker in _JPEG_START_OF_FRAME:
            header, frame = (header, frame) if header else (_jpeg_frame(body, begin, marker), begin)
        position = begin + 2 + struct.unpack_from(">H", body, begin + 2)[0]
    if header is None:
        raise RejectedError(Reason.CORRUPT, "its data begins before a frame header")
    header = replace(header, pixel_bytes=_jpeg_pixel_bytes(body, frame, begin))
    # Entropy-coded data has no such bytes (T.81, F.1.2.3), metadata and what follows the image may.
    most = limits.max_scans_of(header.width, header.height, arithmetic=body[frame + 1] in _JPEG_ARITHMETIC)
    if _count_scans(body, begin) > most:
        _check_scans(body, begin, most, limits)
    return header


def _jpeg_marker(body: bytes, position: int) -> tuple[int, int]:
    """Return where the next segment begins and its marker.

    Decoders skip stray bytes and fill bytes (0xFF) before a marker, and markers that are no segment, so this does.
    """
    found = _JPEG_MARKER.search(body, position)
    if found is None:
        raise _truncated("before its first scan")
    return found.start(), body[found.start() + 1]


def _jpeg_frame(body: bytes, position: int, marker: int) -> Header:
    precision, height, width = struct.unpack_from(">BHH", body, position + 4)
    if name := _JPEG_UNSUPPORTED.get(marker):
        raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is a {name}, which is not supported")
    if precision != _JPEG_BITS:
        raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is a JPEG of {precision} bits, which is not supported")
    if marker not in _JPEG_ARITHMETIC and width * height > _JPEG_MAX_PIXELS_PER_BYTE * len(body):
        raise RejectedError(Reason.CORRUPT, f"{len(body)} bytes cannot hold a JPEG of {width}x{height}")
    return Header(format="jpg", width=width, height=height)


def _jpeg_pixel_bytes(body: bytes, frame: int, scan: int) -> float:
    """Return the memory of a JPEG's coefficients for each pixel: decoders keep all of them if there are several scans.

    Its pixels take next to nothing, because it is scaled down while it is decoded.
    """
    components, scanned = body[frame + 9], body[scan + 4]
    if body[frame + 1] not in _JPEG_PROGRESSIVE and scanned >= components:
        return 0.0
    samplings = [body[frame + 11 + 3 * number] for number in range(components)]
    across = max((sampling >> 4 for sampling in samplings), default=0)
    down = max((sampling & 15 for sampling in samplings), default=0)
    samples = sum((sampling >> 4) * (sampling & 15) for sampling in samplings)
    return _JPEG_COEFFICIENT_BYTES * samples / max(across * down, 1)


def _count_scans(body: bytes, position: int) -> int:
    """Return how often the marker of a scan is in the rest of a file: `bytes.count` takes six times as long."""
    data = np.frombuffer(body, np.uint8)
    scans = 0
    for first in range(position, len(body) - 1, _COUNTED):
        last = min(first + _COUNTED, len(body) - 1)
        is_marker = (data[first:last] == _JPEG_SCAN[0]) & (data[first + 1 : last + 1] == _JPEG_SCAN[1])
        scans += int(np.count_nonzero(is_marker))
    return scans


#: Bytes that are looked at together: what comparing all of a large file takes would stay with the process.
_COUNTED = 262_144


def _check_scans(body: bytes, position: int, most: int, limits: Limits) -> None:
    """Count the scans exactly, to the end of the image."""
    scans = 0
    while found := _JPEG_MARKER.search(body, position):
        position, marker = found.start(), body[found.start() + 1]
        if marker == _JPEG_END:
            return
        scans += marker == _JPEG_SCAN[1]
        limits.check_scans(scans, most)
        if position + 4 > len(body):
            return
        position += 2 + struct.unpack_from(">H", body, position + 2)[0]


#: A marker with a length behind it, or the end of the image: not a fill byte, a stuffed one, TEM, RSTn or another SOI.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_SCAN, _JPEG_END, _JPEG_BITS = b"\xff\xda", 0xD9, 8
_JPEG_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_JPEG_ARITHMETIC, _JPEG_PROGRESSIVE = frozenset({0xC9, 0xCA}), frozenset({0xC2, 0xCA})
_JPEG_COEFFICIENT_BYTES = 2
_JPEG_UNSUPPORTED = {
    0xC3: "lossless JPEG (SOF3)",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"),
    0xCB: "lossless arithmetic JPEG (SOF11)",
    0xF7: "JPEG-LS",
}


def _png(body: bytes, limits: Limits) -> Header:
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
            raise _truncated("before its IEND chunk")
        size, kind = struct.unpack_from(">I4s", body, position)
        if kind == b"acTL" and size >= 8:  # noqa: PLR2004 - two numbers
            frames = max(1, struct.unpack_from(">I", body, position + 8)[0])
        compressed += kind in _PNG_COMPRESSED
        blocks += 1
        if blocks > max_blocks:
            raise limits.too_many_blocks(len(body))
        position += size + 12
    limits.check_compressed_chunks(compressed)
    if position > len(body):
        raise _truncated("inside its IEND chunk")
    bits, color = body[24], body[25]
    pixel_bytes = {0: 3.0 if bits > _BYTE else 1.0, 3: 1.0}.get(color, 4.0)  # gray, a palette
    return Header(format="png", width=width, height=height, frames=frames, pixel_bytes=pixel_bytes)


#: Chunks of which few bytes may be a megabyte.
_PNG_COMPRESSED = frozenset({b"iCCP", b"zTXt", b"iTXt"})


def _gif(body: bytes, limits: Limits) -> Header:
    """Walk the blocks to the trailer (GIF89a, 17 to 27)."""
    width, height, flags = struct.unpack_from("<HHB", body, 6)
    position = 13 + _gif_colors(flags)
    frames = 0
    blocks = limits.max_blocks_of(len(body))
    while frames <= limits.max_frames:
        block = body[position : position + 1]
        if not block:
            raise _truncated("before its trailer")
        if block == b";":
            break
        position += 1
        blocks -= 1
        if block == b"!":
            position, blocks = _gif_after_data(body, position + 1, blocks)
        elif block == b",":
            left, top, across, down, flags = struct.unpack_from("<HHHHB", body, position)
            if frames == 0:  # Decoders widen the screen to hold the first frame.
                width, height = max(width, left + across), max(height, top + down)
            frames += 1
            position, blocks = _gif_after_data(body, position + 10 + _gif_colors(flags), blocks)
        # Anything else between blocks is skipped, as decoders do.
        if blocks <= 0:
            raise limits.too_many_blocks(len(body))
    if frames == 0:
        raise RejectedError(Reason.CORRUPT, "a GIF without a frame")
    return Header(format="gif", width=width, height=height, frames=frames, pixel_bytes=2.0)


def _gif_colors(flags: int) -> int:
    """Return the bytes of the color table that `flags` declare."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_after_data(body: bytes, position: int, blocks: int) -> tuple[int, int]:
    """Return where the chain of sub-blocks at `position` ends, and how many of `blocks` are left then."""
    while blocks > 0 and (size := body[position]):
        position += size + 1
        blocks -= 1
    return position + 1, blocks


def _webp(body: bytes, limits: Limits) -> Header:
    """Read the first chunk and count ANMF chunks (RFC 9649, 2)."""
    (riff_size,) = struct.unpack_from("<I", body, 4)
    end = riff_size + 8
    if end > len(body):
        raise _truncated(f"{end - len(body)} bytes early")
    width, height = webp_size(body)
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
    pixel_bytes = _ANIMATED_WEBP_BYTES if frames else _WEBP_BYTES[b"VP8L" in kinds, b"ALPH" in kinds]
    return Header(format="webp", width=width, height=height, frames=max(1, frames), pixel_bytes=pixel_bytes)


#: By whether there are lossless pixels and alpha: a large image is scaled down while it is decoded (`webp`).
_WEBP_BYTES = {(False, False): 1.0, (False, True): 3.0, (True, False): 4.0, (True, True): 4.0}
#: Two canvases, and what is made of them: as a rule 16, with alpha 20.
_ANIMATED_WEBP_BYTES = 20.0


def webp_size(body: bytes) -> tuple[int, int]:
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


def _bmp(body: bytes, _: Limits) -> Header:
    """BITMAPCOREHEADER has two shorts; every later header has two longs, a negative height meaning top-down."""
    (header_size,) = struct.unpack_from("<I", body, 14)
    width, height = struct.unpack_from("<HH" if header_size == _BMP_CORE_HEADER else "<ii", body, 18)
    bits = 24
    if header_size > _BMP_CORE_HEADER:
        bits, compression = struct.unpack_from("<HI", body, 28) if header_size > _OS2_SHORT_HEADER else (24, 0)
        if name := _BMP_HOLDS.get(compression):
            raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is a BMP that holds a {name}, which is not supported")
        plain = (abs(width) * bits // 8 + 4) * abs(height) + _BMP_MAX_HEADERS
        if compression in _BMP_RUN_LENGTHS and len(body) > plain:
            # Pillow decodes them in Python.
            raise RejectedError(
                Reason.TOO_COMPLEX, f"{len(body):,} bytes of run lengths, for {plain:,} at most without them"
            )
    return Header(format="bmp", width=width, height=abs(height), pixel_bytes=4.0 if bits > _BYTE else 1.0)


_BMP_CORE_HEADER, _OS2_SHORT_HEADER = 12, 16
_BMP_HOLDS = {4: "JPEG", 5: "PNG"}
_BMP_RUN_LENGTHS = frozenset({1, 2})
#: More than a header and 256 colors have.
_BMP_MAX_HEADERS = 65_536


class _TiffLayout(NamedTuple):
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


_TIFF = _TiffLayout(4, "I", "H", 12, 8, {1: "B", 3: "H", 4: "I"})
_BIG_TIFF = _TiffLayout(8, "Q", "Q", 20, 12, {1: "B", 3: "H", 4: "I", 16: "Q"})
_TIFF_SIZE, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC, _TIFF_REDUCED, _TIFF_CHILDREN = (256, 257), 259, 262, 254, 330
_TIFF_BITS, _TIFF_SAMPLES, _TIFF_STRIP_ROWS, _DNG_VERSION = 258, 277, 278, 50706
#: Bits of a sample that Pillow keeps in one byte.
_BYTE = 8
#: Colors before they are made from what a sensor saw: CFA and LinearRaw (DNG 1.7).
_TIFF_RAW = frozenset({32803, 34892})
#: What Pillow has a decoder for, WebP not among them: libtiff is built without it.
_TIFF_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34676, 34677, 34925, 50000})


def _tiff(body: bytes, limits: Limits) -> Header:
    """Read the first directory and follow the chain of the others."""
    order = "<" if body.startswith(b"II") else ">"
    layout = _BIG_TIFF if b"+" in body[2:4] else _TIFF
    if layout is _BIG_TIFF and order == ">":
        raise RejectedError(
            Reason.UNSUPPORTED_FORMAT, "it is a BigTIFF with the highest byte first, which is not supported"
        )
    (offset,) = struct.unpack_from(order + layout.offset, body, layout.first)
    first = _tiff_directory(body, order, layout, offset, limits)
    if name := _tiff_unsupported(body, first):
        raise RejectedError(Reason.UNSUPPORTED_FORMAT, f"it is {name}, which is not supported")
    seen = {0}
    while offset not in seen and len(seen) <= limits.max_frames + 1:
        seen.add(offset)
        (entries,) = _unpack(order + layout.entries, body, offset)
        limits.check_tags(entries)
        after = offset + struct.calcsize(order + layout.entries) + layout.entry * entries
        (offset,) = _unpack(order + layout.offset, body, after)
    width, height = (first.get(tag, 0) for tag in _TIFF_SIZE)
    is_small = first.get(_TIFF_SAMPLES, 1) == 1 and first.get(_TIFF_BITS, 1) <= _BYTE
    pixel_bytes = 1.0 if is_small else 4.0
    if first.get(_TIFF_COMPRESSION, 1) != 1:
        # A strip is decompressed as a whole.
        rows = min(first.get(_TIFF_STRIP_ROWS, height), height)
        pixel_bytes += max(1, first.get(_TIFF_SAMPLES, 1)) * rows / max(1, height)
    return Header(format="tiff", width=width, height=height, frames=len(seen) - 1, pixel_bytes=pixel_bytes)


def _tiff_directory(body: bytes, order: str, layout: _TiffLayout, offset: int, limits: Limits) -> dict[int, int]:
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


def _tiff_unsupported(body: bytes, first: Mapping[int, int]) -> str | None:
    """Return the name of a TIFF that is not decoded. Of a raw image, decoders would take the thumbnail for it."""
    if body[8:10] == b"CR":
        return "a Canon raw image (CR2)"
    if _DNG_VERSION in first:
        return "a raw image (DNG)"
    if first.get(_TIFF_PHOTOMETRIC) in _TIFF_RAW or (first.get(_TIFF_REDUCED, 0) & 1 and _TIFF_CHILDREN in first):
        return "a raw image of a camera (NEF, ARW or another one that is built like a TIFF)"
    compression = first.get(_TIFF_COMPRESSION, 1)
    return None if compression in _TIFF_COMPRESSIONS else f"a TIFF of compression {compression}"


def _unpack(layout: str, body: bytes, position: int) -> tuple[int, ...]:
    """Return numbers of a body at a position that is stated in it, and may be larger than any."""
    if position > len(body):
        raise IndexError
    return struct.unpack_from(layout, body, position)


def _avif(body: bytes, limits: Limits) -> Header:
    width, height, frames = boxes.largest(body, limits)
    return Header(format="avif", width=width, height=height, frames=frames, pixel_bytes=_AVIF_BYTES)


def _heic(body: bytes, limits: Limits) -> Header:
    extras.require("heic")
    width, height, frames = boxes.largest(body, limits)
    return Header(format="heic", width=width, height=height, frames=frames, pixel_bytes=_HEIC_BYTES)


def _jxl(body: bytes, limits: Limits) -> Header:
    extras.require("jxl")
    width, height, is_plain = jxl.size(body, limits)
    return Header(format="jxl", width=width, height=height, pixel_bytes=_PLAIN_JXL_BYTES if is_plain else _JXL_BYTES)


#: Memory that decoders take for a pixel of usual images (4:2:0, no alpha): their frame, the same as RGB, a copy of it,
#: and Pillow's image, which a HEIC goes without (`heic`). Those that take more are rejected when there is none left;
#: libjxl ends its process then.
_AVIF_BYTES, _HEIC_BYTES, _PLAIN_JXL_BYTES, _JXL_BYTES = 9.0, 6.0, 9.0, 12.0


_READERS: tuple[tuple[bytes, Callable[[bytes, Limits], Header]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"II+\0", _tiff),
    (b"MM\0+", _tiff),
    (jxl.CODESTREAM, _jxl),
    (jxl.CONTAINER, _jxl),
)

"""Images for tests, valid and hostile."""

import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any

import pillow_heif
import pillow_jxl  # noqa: F401 - teaches Pillow the format
from PIL import Image, ImageDraw

from pixcrawler_worker.domain.reasons import Reason

pillow_heif.register_heif_opener()

#: Every way of writing a format that a reader has to distinguish, by a name for the test's report.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "jpg-progressive": ("JPEG", {"progressive": True}),
    "jpg-444": ("JPEG", {"subsampling": 0, "quality": 95}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "webp-extended": ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_deflate"}),
    "avif": ("AVIF", {"speed": 10}),
    "heic": ("HEIF", {}),
    "jxl": ("JXL", {}),
    "jxl-boxes": ("JXL", {"use_container": True}),
}

AVIF_MAGIC = b"\0\0\0\x10ftypavif\0\0\0\0"


def scene(width: int = 160, height: int = 120, *, seed: int = 0) -> Image.Image:
    """An image with large shapes and fine texture, another one for every seed."""
    image = Image.merge(
        "RGB",
        [
            Image.linear_gradient("L").resize((width, height)),
            Image.radial_gradient("L").resize((width, height)),
            Image.linear_gradient("L").rotate(90).resize((width, height)),
        ],
    )
    draw = ImageDraw.Draw(image)
    for step in range(6):
        left = (seed * 37 + step * 53) % width
        top = (seed * 71 + step * 29) % height
        draw.ellipse((left - 15, top - 15, left + 25, top + 20), fill=(step * 40, seed * 23 % 256, 255 - step * 30))
    for x in range(0, width, 7):
        draw.line((x, 0, x + height // 3, height), fill=(x % 256, 90, 40))
    return image


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002 - Pillow's word
    if format == "HEIF":  # it is the decoder that is tested
        options.setdefault("enc_params", {"preset": "ultrafast"})
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@cache
def variant(name: str, width: int = 160, height: int = 120) -> bytes:
    format_, options = VARIANTS[name]
    return encoded(scene(width, height), format_, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"", bits: int = 8) -> bytes:
    """A gray PNG that declares a size, whatever its rows hold."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def jpeg_declaring(width: int, height: int) -> bytes:
    body = bytearray(encoded(Image.new("L", (16, 16), 90), "JPEG"))
    frame = body.index(b"\xff\xc0")
    body[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(body)


def webp_of_one_color(width: int, height: int) -> bytes:
    """A valid lossless WebP of any size in a few dozen bytes: only its header knows how large it is."""
    body = bytearray(encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "WEBP", lossless=True))
    body[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(body)


def jpeg_of_two_headers(width: int, height: int) -> bytes:
    """A small frame header in front of the one that Pillow believes."""
    body = jpeg_declaring(width, height) + bytes(width * height // 512)
    frame = body.index(b"\xff\xc0")
    return body[:frame] + jpeg_declaring(16, 16)[frame : frame + 13] + body[frame:]


def avif_sequence_declaring(width: int, height: int) -> bytes:
    body = bytearray(encoded(scene(64, 64), "AVIF", save_all=True, append_images=[scene(64, 64, seed=1)], speed=10))
    box = body.index(b"tkhd")
    end = box - 4 + struct.unpack_from(">I", body, box - 4)[0]
    body[end - 8 : end] = struct.pack(">II", width << 16, height << 16)
    return bytes(body)


def avif_declaring(width: int, height: int, *, variant_name: str = "avif") -> bytes:
    body = bytearray(variant(variant_name))
    box = body.index(b"ispe")
    body[box + 8 : box + 16] = struct.pack(">II", width, height)
    return bytes(body)


def gif(width: int, height: int, *, frames: int, frame_at: tuple[int, int] = (0, 0)) -> bytes:
    """A GIF with frames of one pixel."""
    frame = b"," + struct.pack("<HHHHB", *frame_at, 1, 1, 0) + b"\2\2D\1\0"
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + screen + frame * frames + b";"


def webp_animation(frames: int) -> bytes:
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + b"\x0f\0\0" * 2
    body = b"WEBP" + canvas + (b"ANMF" + struct.pack("<I", 16) + bytes(16)) * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width: int, height: int, *, pages: int, loop: bool = False) -> bytes:
    """A chain of directories with a size and nothing else; the last one may lead back to the first."""
    size = 2 + 2 * 12 + 4
    body = b"II*\0" + struct.pack("<I", 8)
    for page in range(pages):
        following = 8 + (page + 1) * size if page + 1 < pages else 8 * loop
        body += struct.pack("<H HHII HHII I", 2, 256, 4, 1, width, 257, 4, 1, height, following)
    return body


def icon_holding(content: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(content), 22) + content


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(more: bytes, *, before: bytes = b"\xff\xc0") -> bytes:
    """A JPEG with more bytes before its frame header, or before another marker."""
    body = variant("jpg")
    place = body.index(before)
    return body[:place] + more + body[place:]


def jpeg_of_scans(scans: int, *, extra: bytes = b"") -> bytes:
    """A progressive JPEG with empty passes over its pixels, and what comes after its end."""
    body = encoded(scene().convert("L"), "JPEG", progressive=True)
    second = body.index(b"\xff\xda", body.index(b"\xff\xda") + 1)
    # One Huffman code, for the end of 32,767 blocks; then scans of it.
    table = jpeg_segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    scan = jpeg_segment(0xDA, b"\1\1\0\1\x3f\0") + b"\x7f\x7f"
    return body[:second] + table + scan * (scans - 1) + b"\xff\xd9" + extra


def jpeg_lossless(width: int, height: int) -> bytes:
    """A gray lossless JPEG (SOF3): no pixel differs from the predicted one."""
    frame = jpeg_segment(0xC3, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    table = jpeg_segment(0xC4, b"\0\1\1" + bytes(14) + b"\0\1")
    scan = jpeg_segment(0xDA, b"\1\1\0\1\0\0")
    return b"\xff\xd8" + frame + table + scan + bytes(-(-width * height // 8)) + b"\xff\xd9"


def jpeg_of_frame(marker: int, *, bits: int = 8) -> bytes:
    """A JPEG whose frame header names another process or precision."""
    body = bytearray(variant("jpg"))
    frame = body.index(b"\xff\xc0")
    body[frame + 1], body[frame + 4] = marker, bits
    return bytes(body)


def png_with(*chunks: bytes) -> bytes:
    return png(90, 90, *chunks, rows=bytes(91 * 90))


def gif_with(blocks: bytes) -> bytes:
    """A GIF with blocks before its first frame."""
    body = gif(9, 9, frames=2)
    return body[:19] + blocks + body[19:]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def avif_with(boxes: bytes) -> bytes:
    """An AVIF with more boxes before its metadata."""
    body = variant("avif")
    place = body.index(b"meta") - 4
    return body[:place] + boxes + body[place:]


def nested_boxes(depth: int) -> bytes:
    boxes = b""
    for _ in range(depth):
        boxes = box(b"moov", boxes)
    return boxes


def tiff_of_tags(tags: int) -> bytes:
    entries = b"".join(struct.pack("<HHII", 256 + tag, 3, 1, 9) for tag in range(tags))
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4)


def tiff_of(  # noqa: PLR0913 - what a TIFF may be
    tags: Mapping[int, tuple[int, list[int]]],
    *,
    bits: tuple[int, ...] = (8, 8, 8),
    pixels: bytes | None = None,
    order: str = "<",
    big: bool = False,
    more: bytes = b"",
) -> bytes:
    """A TIFF or BigTIFF of 16x16 pixels in one strip, with tags (type and values) in place of the usual ones.

    Args:
        more: bytes between the header and the first directory.
    """
    pixels = bytes(range(256)) * sum(bits) if pixels is None else pixels
    size = 16 * 16 * sum(bits) // 8
    used: dict[int, tuple[int, list[int]]] = {
        256: (3, [16]),
        257: (3, [16]),
        258: (3, list(bits)),
        259: (3, [1]),
        262: (3, [1 if len(bits) == 1 else 2]),
        273: (4, [0]),
        277: (3, [len(bits)]),
        278: (3, [16]),
        279: (4, [size]),
        **tags,
    }
    number, entry = ("Q", "HHQ") if big else ("I", "HHI")
    room = 8 if big else 4
    first = (16 if big else 8) + len(more)
    values = first + (8 + 20 * len(used) + 8 if big else 2 + 12 * len(used) + 4)
    long = sum(
        struct.calcsize(_TIFF_TYPES[kind]) * len(given)
        for kind, given in used.values()
        if struct.calcsize(_TIFF_TYPES[kind]) * len(given) > room
    )
    directory = pool = b""
    for tag, (kind, given) in sorted(used.items()):
        placed = [offset + values + long for offset in given] if tag in (273, 324) else given
        packed = struct.pack(f"{order}{len(placed)}{_TIFF_TYPES[kind]}", *placed)
        if len(packed) > room:
            pool += packed
            packed = struct.pack(order + number, values + len(pool) - len(packed))
        directory += struct.pack(order + entry, tag, kind, len(given)) + packed.ljust(room, b"\0")
    name = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, first) if big else struct.pack(order + "HI", 42, first)
    return (
        name
        + head
        + more
        + struct.pack(order + ("Q" if big else "H"), len(used))
        + directory
        + bytes(room)
        + pool
        + pixels
    )


#: Formats of numbers by the types of a TIFF: BYTE, SHORT, LONG and LONG8.
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


def bmp_of(
    *, header: int = 40, compression: int = 0, bits: int = 24, masks: tuple[int, ...] = (), height: int = 4
) -> bytes:
    """A bitmap of 4x4 pixels; `masks` are the bits of red, green, blue and alpha."""
    pixels = bytes(range(4 * 4 * max(bits, 8) // 8))
    fields = struct.pack("<IiiHHIIIIII", header, 4, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)[:header]
    described = (fields + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    return b"BM" + struct.pack("<III", 14 + len(described) + len(pixels), 0, 14 + len(described)) + described + pixels


def bmp_of_run_lengths(width: int, height: int, codes: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    return b"BM" + struct.pack("<III", 1078 + len(codes), 0, 1078) + header + bytes(1024) + codes


def too_complex() -> dict[str, Callable[[], bytes]]:
    """What makes small images of more parts than a limit allows; each takes its decoder seconds when there are many."""
    bomb = zlib.compress(bytes(1_000_000), 9)
    return {
        "jpeg of scans": lambda: jpeg_of_scans(501),
        "jpeg of segments": lambda: jpeg_with(jpeg_segment(0xE1, b"Exif\0\0a") * 1_001),
        "jpeg of tables": lambda: jpeg_with(
            jpeg_segment(0xC4, b"\0\1" + bytes(15) + b"\0") * 1_001, before=b"\xff\xda"
        ),
        "jpeg of fill bytes": lambda: jpeg_with(b"\xff" * 1_000_001),
        "jpeg of stray bytes": lambda: jpeg_with(bytes(1_000_001), before=b"\xff\xda"),
        "png of chunks": lambda: png_with(png_chunk(b"abCd", b"") * 90_000),
        "png of profiles": lambda: png_with(png_chunk(b"iCCP", b"a\0\0" + bomb) * 257),
        "png of texts": lambda: png_with(png_chunk(b"zTXt", b"a\0\0" + bomb) * 257),
        "png of international texts": lambda: png_with(png_chunk(b"iTXt", b"a\0\1\0\0\0" + bomb) * 257),
        "gif of comments": lambda: gif_with(b"!\xfe\1a\0" * 90_000),
        "gif of sub-blocks": lambda: gif_with(b"!\xff" + b"\1a" * 90_000 + b"\0"),
        "gif of data in single bytes": lambda: gif(9, 9, frames=1)[:-2] + b"\1\0" * 90_000 + b"\0;",
        "gif of stray bytes": lambda: gif_with(b"a" * 90_000),
        "webp of chunks": lambda: webp_of_chunks(90_000),
        "avif of boxes": lambda: avif_with(box(b"free", b"") * 90_000),
        "avif of nested boxes": lambda: avif_with(nested_boxes(5_000)),
        "avif of items": lambda: avif_with(box(b"iinf", b"\1\0\0\0" + struct.pack(">I", 900_000))),
        "avif of locations": lambda: avif_with(box(b"iloc", b"\2\0\0\0\0\0" + struct.pack(">I", 900_000))),
        "avif of empty extents": lambda: avif_with(
            box(b"iloc", b"\1\0\0\0\0\0\0\2" + struct.pack(">HHHH", 1, 0, 0, 65_535) * 2)
        ),
        "avif of references": lambda: avif_with(
            box(b"iref", b"\1\0\0\0" + box(b"dimg", struct.pack(">IH", 1, 5_000) + bytes(20_000)) * 5)
        ),
        "avif of properties": lambda: avif_with(box(b"iprp", box(b"ipma", b"\1\0\0\0" + struct.pack(">I", 3_000_000)))),
        "avif of groups": lambda: avif_with(box(b"grpl", box(b"altr", bytes(8) + struct.pack(">I", 3_000_000)))),
        "tiff of tags": lambda: tiff_of_tags(4_097),
        "bmp of run lengths": lambda: bmp_of_run_lengths(1, 1, b"\0\0" * 50_000),
    }


def webp_of_chunks(chunks: int) -> bytes:
    """A WebP with empty chunks after its image."""
    body = variant("webp-extended")[8:] + (b"abcd" + bytes(4)) * chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def hostile() -> dict[str, tuple[Callable[[], bytes], Reason]]:
    """What makes bodies that cost much when they are opened naively, and the reason each is rejected for."""
    too_much, corrupt, unsupported = Reason.TOO_MANY_PIXELS, Reason.CORRUPT, Reason.UNSUPPORTED_FORMAT
    return {name: (make, Reason.TOO_COMPLEX) for name, make in too_complex().items()} | {
        "webp 16383x5400 of one color": (lambda: webp_of_one_color(16383, 5400), too_much),
        "webp within the limits, of one color": (lambda: webp_of_one_color(7000, 7000), too_much),
        "avif 8000x8000": (lambda: avif_declaring(8000, 8000), too_much),
        "avif 100000x10": (lambda: avif_declaring(100_000, 10), too_much),
        "jpeg with an edited header": (lambda: jpeg_declaring(9400, 9400), corrupt),
        "jpeg with an edited header, within the limits": (lambda: jpeg_declaring(6000, 6000), corrupt),
        "jpeg with a second header": (lambda: jpeg_of_two_headers(9400, 9400), too_much),
        "avif sequence 9400x9400": (lambda: avif_sequence_declaring(9400, 9400), too_much),
        "jpeg 65535x1": (lambda: jpeg_declaring(65_535, 1), too_much),
        "png 1x80,000,000": (lambda: png(1, 80_000_000), too_much),
        "png 0x10": (lambda: png(0, 10), corrupt),
        "png of endless frames": (lambda: png(9, 9, png_chunk(b"acTL", struct.pack(">II", 2**31, 0))), too_much),
        "icon holding a png": (lambda: icon_holding(png(9400, 9400)), unsupported),
        "gif of 1000 tiny frames": (lambda: gif(5000, 5000, frames=1000), too_much),
        "gif of 400 frames on a large screen": (lambda: gif(2000, 2000, frames=400), too_much),
        "gif with a frame far off its screen": (lambda: gif(5, 5, frames=1, frame_at=(60_000, 60_000)), too_much),
        "gif without a frame": (lambda: gif(5, 5, frames=0), corrupt),
        "webp of 501 frames": (lambda: webp_animation(501), too_much),
        "tiff of 501 pages": (lambda: tiff(10, 10, pages=501), too_much),
        "tiff whose pages go round": (lambda: tiff(10, 10, pages=3, loop=True), corrupt),
        "tiff 16384x16384": (lambda: tiff(16_384, 16_384, pages=1), too_much),
        "bigtiff 16384x16384": (
            lambda: tiff_of({256: (3, [16_384]), 257: (16, [16_384])}, big=True),
            too_much,
        ),
        "bigtiff of a width beyond any": (lambda: tiff_of({256: (16, [2**63])}, big=True), too_much),
        "bigtiff whose directory is beyond its end": (lambda: b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(99), corrupt),
        "bigtiff of endless tags": (
            lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**63) + bytes(99),
            Reason.TOO_COMPLEX,
        ),
        "heic 8000x8000": (lambda: avif_declaring(8000, 8000, variant_name="heic"), too_much),
        "heic whose box claims to be larger than the file": (lambda: variant("heic")[:-1], corrupt),
        "jxl of one color": (
            lambda: encoded(Image.new("RGB", (5000, 4000), (1, 2, 3)), "JXL", lossless=True, effort=1)[:900],
            too_much,
        ),
        "jxl of 2^30 rows": (lambda: b"\xff\x0a" + (3 << 1 | (2**30 - 1) << 3).to_bytes(12, "little"), too_much),
        "jxl of nothing": (lambda: b"\xff\x0a", corrupt),
        "bmp of minus two thousand million rows": (
            lambda: b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 10, -(2**31), 1, 24, 0) + bytes(40),
            too_much,
        ),
        "avif whose box claims to be larger than the file": (lambda: variant("avif")[:-1], corrupt),
        "avif whose box is smaller than its header": (lambda: AVIF_MAGIC + b"\0\0\0\7meta", corrupt),
        "avif whose box leads to itself": (lambda: AVIF_MAGIC + b"\0\0\0\1free" + bytes(8), corrupt),
    }

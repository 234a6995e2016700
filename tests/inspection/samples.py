"""Images for tests, valid and hostile."""

import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw

from pixcrawler_worker.domain.reasons import Reason

#: Every way of writing a format that a reader has to tell apart, by a name for the test's report.
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
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@cache
def variant(name: str, width: int = 160, height: int = 120) -> bytes:
    format_, options = VARIANTS[name]
    return encoded(scene(width, height), format_, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    """A gray PNG that declares a size, whatever its rows hold."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
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


def avif_declaring(width: int, height: int) -> bytes:
    body = bytearray(variant("avif"))
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


def hostile() -> dict[str, tuple[bytes, Reason]]:
    """Bodies that cost much when they are opened naively, and the reason each is rejected for."""
    too_much, corrupt, no_image = Reason.TOO_MANY_PIXELS, Reason.CORRUPT, Reason.NOT_AN_IMAGE
    return {
        "webp 16383x5400 of one color": (webp_of_one_color(16383, 5400), too_much),
        "webp within the limits, of one color": (webp_of_one_color(7000, 7000), too_much),
        "avif 8000x8000": (avif_declaring(8000, 8000), too_much),
        "avif 100000x10": (avif_declaring(100_000, 10), too_much),
        "jpeg with an edited header": (jpeg_declaring(9400, 9400), corrupt),
        "jpeg with an edited header, within the limits": (jpeg_declaring(6000, 6000), corrupt),
        "jpeg with a second header": (jpeg_of_two_headers(9400, 9400), too_much),
        "avif sequence 9400x9400": (avif_sequence_declaring(9400, 9400), too_much),
        "jpeg 65535x1": (jpeg_declaring(65_535, 1), too_much),
        "png 1x80,000,000": (png(1, 80_000_000), too_much),
        "png 0x10": (png(0, 10), corrupt),
        "png of endless frames": (png(9, 9, png_chunk(b"acTL", struct.pack(">II", 2**31, 0))), too_much),
        "icon holding a png": (icon_holding(png(9400, 9400)), no_image),
        "gif of 1000 tiny frames": (gif(5000, 5000, frames=1000), too_much),
        "gif of 400 frames on a large screen": (gif(2000, 2000, frames=400), too_much),
        "gif with a frame far off its screen": (gif(5, 5, frames=1, frame_at=(60_000, 60_000)), too_much),
        "gif without a frame": (gif(5, 5, frames=0), corrupt),
        "webp of 501 frames": (webp_animation(501), too_much),
        "tiff of 501 pages": (tiff(10, 10, pages=501), too_much),
        "tiff whose pages go round": (tiff(10, 10, pages=3, loop=True), corrupt),
        "tiff 16384x16384": (tiff(16_384, 16_384, pages=1), too_much),
        "bmp of minus two thousand million rows": (
            b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 10, -(2**31), 1, 24, 0) + bytes(40),
            too_much,
        ),
        "avif whose box claims to be larger than the file": (variant("avif")[:-1], corrupt),
        "avif whose box is smaller than its header": (AVIF_MAGIC + b"\0\0\0\7meta", corrupt),
        "avif whose box leads to itself": (AVIF_MAGIC + b"\0\0\0\1free" + bytes(8), corrupt),
    }

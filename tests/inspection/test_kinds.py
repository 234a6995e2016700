"""Valid files of every kind that encoders, cameras and old programs write: accepted, or rejected for what is true."""

import struct
import zlib
from collections.abc import Mapping

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import headers
from pixcrawler_worker.inspection.conversion import Conversion
from pixcrawler_worker.inspection.inspector import convert, inspect_bytes, measure_bytes, thumbnail
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
SCENE = samples.scene(64, 48)
OTHER = samples.scene(64, 48, seed=3)
BOMB = zlib.compress(bytes(5_000_000), 9)


def saved(image: Image.Image, format_: str, *others: Image.Image, **options: object) -> bytes:
    """An image in a file, with other images as its further frames or pages."""
    # Copies: what one encoder leaves in an image confuses the next.
    if others:
        options |= {"save_all": True, "append_images": [other.copy() for other in others]}
    return samples.encoded(image.copy(), format_, **options)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


JPEG = saved(SCENE, "JPEG")
CMYK = saved(SCENE.convert("CMYK"), "JPEG")
MPO = saved(SCENE, "MPO", OTHER)
PNG = saved(SCENE, "PNG")
GIF = saved(SCENE, "GIF")
WEBP = saved(SCENE, "WEBP")


def jpeg_with(marker: int, content: bytes) -> bytes:
    return JPEG[:2] + samples.jpeg_segment(marker, content) + JPEG[2:]


def jpeg_without(body: bytes, marker: bytes) -> bytes:
    """A JPEG without its first segment of that marker."""
    begin = body.index(marker)
    return body[:begin] + body[begin + 2 + struct.unpack_from(">H", body, begin + 2)[0] :]


def changed(body: bytes, place: int, content: bytes) -> bytes:
    return body[:place] + content + body[place + len(content) :]


JPEGS: dict[str, bytes] = {
    "baseline": JPEG,
    "progressive": saved(SCENE, "JPEG", progressive=True),
    "gray": saved(SCENE.convert("L"), "JPEG"),
    "RGB instead of YCbCr": saved(SCENE, "JPEG", keep_rgb=True),
    "with restart markers": saved(SCENE, "JPEG", restart_marker_blocks=4),
    "without JFIF": jpeg_without(JPEG, b"\xff\xe0"),
    "with garbage behind its end": JPEG + b"\0garbage\xff" * 50,
    "with a video behind its end": JPEG + b"\0\0\0\x18ftypmp42" + bytes(100),
    "with another JPEG behind its end": JPEG + JPEG,
    "with EXIF that points nowhere": jpeg_with(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff garbage"),
    "with EXIF that is no TIFF": jpeg_with(0xE1, b"Exif\0\0garbage"),
    "with empty EXIF": jpeg_with(0xE1, b"Exif\0\0"),
    "with an orientation of 99": jpeg_with(
        0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHII", 0x0112, 3, 1, 99 << 16) + bytes(4)
    ),
    "with a broken profile": jpeg_with(0xE2, b"ICC_PROFILE\0\7\1broken"),
    "with broken IPTC": jpeg_with(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04broken"),
    "multi-image": MPO,
    "multi-image with an index that points nowhere": changed(MPO, MPO.index(b"MPF\0") + 8, b"\xff\xff\xff\xff"),
    "multi-image without its second image": MPO[: len(JPEG) + 200],
    "CMYK of Adobe": CMYK,
    "CMYK, progressive": saved(SCENE.convert("CMYK"), "JPEG", progressive=True),
    "CMYK without Adobe's marker": jpeg_without(CMYK, b"\xff\xee"),
    "YCCK of Adobe": changed(CMYK, CMYK.index(b"Adobe") + 11, b"\2"),
}


def png_with(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def broken_sum(kind: bytes, content: bytes) -> bytes:
    return samples.png_chunk(kind, content)[:-4] + b"!sum"


def png_of(color: int, bits: int, *, more: bytes = b"", rows: bytes | None = None, interlaced: int = 0) -> bytes:
    """A PNG of 16x8 pixels."""
    row = b"\0" + bytes(range(16 * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] // 8))
    header = struct.pack(">IIBBBBB", 16, 8, bits, color, 0, 0, interlaced)
    data = samples.png_chunk(b"IDAT", zlib.compress(row * 8 if rows is None else rows))
    return b"\x89PNG\r\n\x1a\n" + samples.png_chunk(b"IHDR", header) + more + data + samples.png_chunk(b"IEND", b"")


#: Rows of the seven passes of 16x8 gray pixels, each with its filter.
ADAM7 = b"".join(bytes(1 + across) * down for across, down in ((2, 1), (2, 1), (4, 1), (4, 2), (8, 2), (8, 4), (16, 4)))
PALETTE = samples.png_chunk(b"PLTE", bytes(range(48)))
chunk = samples.png_chunk
PNGS: dict[str, bytes] = {
    **{f"gray of {bits} bits": png_of(0, bits) for bits in (1, 2, 4, 8, 16)},
    **{f"palette of {bits} bits": png_of(3, bits, more=PALETTE) for bits in (1, 2, 4)},
    "palette with transparency": png_of(3, 4, more=PALETTE + chunk(b"tRNS", bytes(16))),
    "16 bits of color": png_of(2, 16),
    "gray with alpha": png_of(4, 8),
    "16 bits of gray with alpha": png_of(4, 16),
    "16 bits of color with alpha": png_of(6, 16),
    "16 bits of gray with a transparent one": png_of(0, 16, more=chunk(b"tRNS", b"\0\1")),
    "interlaced": png_of(0, 8, rows=ADAM7, interlaced=1),
    "profile of an unknown method": png_with(chunk(b"iCCP", b"a\0\7abc")),
    "profile without a method": png_with(chunk(b"iCCP", b"a\0")),
    "profile without an end of its name": png_with(chunk(b"iCCP", b"abc")),
    "empty profile": png_with(chunk(b"iCCP", b"")),
    "profile that is not compressed": png_with(chunk(b"iCCP", b"a\0\0abc")),
    "profile that becomes too large": png_with(chunk(b"iCCP", b"a\0\0" + BOMB)),
    "text of an unknown method": png_with(chunk(b"zTXt", b"a\0\7abc")),
    "text that is not compressed": png_with(chunk(b"zTXt", b"a\0\0abc")),
    "text that becomes too large": png_with(chunk(b"zTXt", b"a\0\0" + BOMB)),
    "empty texts": png_with(chunk(b"zTXt", b""), chunk(b"tEXt", b""), chunk(b"iTXt", b"")),
    "texts without an end of their names": png_with(chunk(b"zTXt", b"abc"), chunk(b"iTXt", b"abc")),
    "international text of an unknown method": png_with(chunk(b"iTXt", b"a\0\1\7en\0a\0abc")),
    "international text that is no UTF-8": png_with(chunk(b"iTXt", b"a\0\0\0\xff\xfe\0\xff\0\xff\xff")),
    "international text without its parts": png_with(chunk(b"iTXt", b"a\0\0\0abc")),
    "large text": png_with(chunk(b"tEXt", b"a\0" + b"x" * 2_000_000)),
    **{
        f"wrong checksum of {kind.decode()}": png_with(broken_sum(kind, content))
        for kind, content in {
            b"tEXt": b"a\0b",
            b"zTXt": b"a\0\0" + zlib.compress(b"b"),
            b"gAMA": b"\0\0\xb1\x8f",
            b"eXIf": b"MM\0*\0\0\0\x08\0\0",
            b"tIME": bytes(7),
            b"abCd": b"private",
        }.items()
    },
    **{
        f"{kind.decode()} of one byte": png_with(chunk(kind, b"a"))
        for kind in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tRNS", b"bKGD", b"sBIT", b"hIST", b"tIME", b"acTL", b"fcTL")
    },
    "broken EXIF": png_with(chunk(b"eXIf", b"garbage")),
    "frame that is larger than the image": png_with(
        chunk(b"acTL", struct.pack(">II", 1, 0)),
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 99, 99, 9, 9, 1, 1, 0, 0)),
    ),
    "animation": saved(SCENE, "PNG", OTHER),
    "wrong checksum of the pixels": PNG[:-16] + b"!sum" + PNG[-12:],
    "garbage behind its end": PNG + b"garbage",
    "private chunk": png_with(chunk(b"prVt", b"private")),
}


def webp_with(flags: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """An extended WebP with chunks around its image."""
    canvas = bytes([flags, 0, 0, 0]) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    body = b"WEBP"
    for kind, content in ((b"VP8X", canvas), *chunks):
        body += kind + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


PIXELS = (b"VP8 ", WEBP[20 : 20 + struct.unpack_from("<I", WEBP, 16)[0]])
WEBPS: dict[str, bytes] = {
    "lossy": WEBP,
    "lossless": saved(SCENE, "WEBP", lossless=True),
    "with alpha": saved(with_alpha(SCENE), "WEBP"),
    "lossless with alpha": saved(with_alpha(SCENE), "WEBP", lossless=True),
    "animation": saved(SCENE, "WEBP", OTHER),
    "with broken EXIF": webp_with(8, PIXELS, (b"EXIF", b"garbage")),
    "with EXIF that is announced only": webp_with(8, PIXELS),
    "with a broken profile": webp_with(32, (b"ICCP", b"garbage"), PIXELS),
    "with an unknown chunk": webp_with(0, (b"abcd", b"123"), PIXELS),
    "with garbage behind its end": WEBP + b"garbage",
}

MASKS_565, MASKS_8888 = (0xF800, 0x7E0, 0x1F), (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
BMPS: dict[str, bytes] = {
    "OS/2": b"BM" + struct.pack("<IHHI", 38, 0, 0, 26) + struct.pack("<IHHHH", 12, 3, 1, 1, 24) + bytes(12),
    "OS/2 2.0": samples.bmp_of(header=64),
    "V2": samples.bmp_of(header=52),
    "V3": samples.bmp_of(header=56),
    "V4": samples.bmp_of(header=108),
    "V5": samples.bmp_of(header=124),
    "V5 with alpha": samples.bmp_of(header=124, compression=3, bits=32, masks=MASKS_8888),
    "top-down": samples.bmp_of(height=-4),
    "16 bits": samples.bmp_of(bits=16),
    "16 bits with masks": samples.bmp_of(bits=16, compression=3, masks=MASKS_565),
    "32 bits": samples.bmp_of(bits=32),
    "1 bit": saved(SCENE.convert("1"), "BMP"),
    "palette": saved(SCENE.convert("P"), "BMP"),
    "gray": saved(SCENE.convert("L"), "BMP"),
    "run lengths": samples.bmp_of_run_lengths(4, 4, b"\4\1\0\0" * 4 + b"\0\1"),
    "run lengths without an end": samples.bmp_of_run_lengths(4, 4, b"\4\1\0\0" * 4),
    "no file size": changed(samples.bmp_of(), 2, bytes(4)),
}

GIFS: dict[str, bytes] = {
    "plain": GIF,
    "GIF87a": changed(GIF, 3, b"87a"),
    "interlaced": saved(SCENE, "GIF", interlace=1),
    "transparent": saved(with_alpha(SCENE), "GIF"),
    "animation": saved(SCENE, "GIF", OTHER),
    "garbage behind its end": GIF + b"garbage",
}

FLOATS = {339: (3, [3])}
TILES: Mapping[int, tuple[int, list[int]]] = {
    256: (3, [32]),
    257: (3, [32]),
    322: (3, [16]),
    323: (3, [16]),
    324: (4, [0, 768, 1536, 2304]),
    325: (4, [768] * 4),
}
PLANES: Mapping[int, tuple[int, list[int]]] = {273: (4, [0, 256, 512]), 279: (4, [256] * 3), 284: (3, [2])}
of = samples.tiff_of
TIFFS: dict[str, bytes] = {
    **{
        f"{name}, {order}": of(tags, bits=bits, order=order)
        for order in "<>"
        for name, bits, tags in (
            ("color", (8, 8, 8), {}),
            ("16 bits of color", (16, 16, 16), {}),
            ("16 bits of gray", (16,), {}),
            ("floats", (32,), FLOATS),
        )
    },
    "32 bits of gray": of({}, bits=(32,)),
    **{f"{bits} bits of gray": of({}, bits=(bits,)) for bits in (2, 4, 12)},
    "signed 16 bits of gray": of({339: (3, [2])}, bits=(16,)),
    "white is zero": of({262: (3, [0])}, bits=(8,)),
    "alpha": of({338: (3, [2])}, bits=(8,) * 4),
    "premultiplied alpha": of({338: (3, [1])}, bits=(8,) * 4),
    "four bands without a word on the last": of({}, bits=(8,) * 4),
    "five bands": of({338: (3, [0, 0])}, bits=(8,) * 5),
    "gray with alpha (LA)": of({338: (3, [2]), 262: (3, [1])}, bits=(8, 8)),
    "gray with premultiplied alpha (La)": of({338: (3, [1]), 262: (3, [1])}, bits=(8, 8)),
    "CMYK of 16 bits": of({262: (3, [5])}, bits=(16,) * 4),
    "CIELab": of({262: (3, [8])}),
    "tiles": of(TILES),
    "planes": of(PLANES),
    "no sizes of its strips": of({279: (4, [0])}),
    "invalid text": of({270: (1, [255, 254, 253, 252, 251])}),
    "pages": saved(SCENE, "TIFF", OTHER, SCENE),
    **{
        f"{compression}": saved(SCENE, "TIFF", compression=compression)
        for compression in ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")
    },
    **{
        f"{compression}": saved(SCENE.convert("1"), "TIFF", compression=compression)
        for compression in ("group3", "group4", "tiff_ccitt")
    },
    **{f"mode {mode}": saved(SCENE.convert(mode), "TIFF") for mode in ("RGBA", "CMYK", "P", "F", "LAB", "YCbCr", "1")},
    "BigTIFF": of({}, big=True),
    "BigTIFF with offsets of 64 bits": of({273: (16, [0]), 279: (16, [768])}, big=True),
    "BigTIFF of Pillow": saved(SCENE, "TIFF", big_tiff=True),
    "BigTIFF of several pages": saved(SCENE, "TIFF", OTHER, big_tiff=True),
}

AVIFS: dict[str, bytes] = {
    **{sampling: saved(SCENE, "AVIF", speed=10, subsampling=sampling) for sampling in ("4:4:4", "4:2:2", "4:0:0")},
    "alpha": saved(with_alpha(SCENE), "AVIF", speed=10),
    "sequence": saved(SCENE, "AVIF", OTHER, speed=10),
    "free space behind it": saved(SCENE, "AVIF", speed=10) + samples.box(b"free", bytes(10)),
}
HEICS: dict[str, bytes] = {
    "plain": saved(SCENE, "HEIF"),
    "alpha": saved(with_alpha(SCENE), "HEIF"),
    "gray": saved(SCENE.convert("L"), "HEIF"),
    "4:4:4": saved(SCENE, "HEIF", chroma=444),
    "several images": saved(SCENE, "HEIF", OTHER),
    "tiles": saved(samples.scene(1100, 600), "HEIF", grid_tile_size=512),
    "a major brand of all HEIF": saved(SCENE, "HEIF").replace(b"ftypheic", b"ftypmif1", 1),
    "garbage behind it": saved(SCENE, "HEIF") + samples.box(b"free", bytes(10)),
}
JXLS: dict[str, bytes] = {
    "plain": saved(SCENE, "JXL"),
    "lossless": saved(SCENE, "JXL", lossless=True),
    "boxes": saved(SCENE, "JXL", use_container=True),
    "alpha": saved(with_alpha(SCENE), "JXL"),
    "gray": saved(SCENE.convert("L"), "JXL"),
    "16 bits of gray": saved(Image.new("I;16", (64, 48), 30_000), "JXL"),
    "garbage behind it": saved(SCENE, "JXL") + b"garbage",
}

KINDS = {
    "jpg": JPEGS,
    "png": PNGS,
    "webp": WEBPS,
    "bmp": BMPS,
    "gif": GIFS,
    "tiff": TIFFS,
    "avif": AVIFS,
    "heic": HEICS,
    "jxl": JXLS,
}
ALL = [
    pytest.param(format_, body, id=f"{format_}: {name}") for format_ in KINDS for name, body in KINDS[format_].items()
]


@pytest.mark.parametrize(("format_", "body"), ALL)
def test_a_valid_file_is_accepted_measured_shown_and_converted(format_: str, body: bytes) -> None:
    facts = inspect_bytes(body, LIMITS)
    measured, _ = measure_bytes(body, LIMITS, strict=True)

    assert facts.format == format_
    assert (measured.width, measured.height, measured.mode) == (facts.width, facts.height, facts.mode)
    assert thumbnail(body, 32, LIMITS).startswith(b"\xff\xd8\xff")
    small = convert(body, Conversion(format="jpg", mode="fit", size=10), LIMITS)
    assert small is not None
    assert max(small.width, small.height) <= 10


@pytest.mark.parametrize(
    "name", [name for name in PNGS if "of one byte" in name or "checksum" in name or "text" in name]
)
def test_what_is_left_out_of_a_png_changes_no_pixel(name: str) -> None:
    facts, plain = inspect_bytes(PNGS[name], LIMITS), inspect_bytes(PNG, LIMITS)

    assert (facts.width, facts.height, facts.phash, facts.dhash) == (64, 48, plain.phash, plain.dhash)


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (samples.jpeg_lossless(16, 16), Reason.UNSUPPORTED_FORMAT, "lossless JPEG"),
        (of({}, bits=(32, 32, 32)), Reason.UNSUPPORTED_FORMAT, "a TIFF of a kind that is not supported"),
        (of({339: (3, [3])}, bits=(16,)), Reason.UNSUPPORTED_FORMAT, "a TIFF of a kind that is not supported"),
        (of(FLOATS, bits=(64,)), Reason.UNSUPPORTED_FORMAT, "a TIFF of a kind that is not supported"),
        (of({262: (3, [9])}), Reason.UNSUPPORTED_FORMAT, "a TIFF of a kind that is not supported"),
        (of({262: (3, [1])}, bits=(8,) * 8), Reason.UNSUPPORTED_FORMAT, "a TIFF of a kind that is not supported"),
        (of({}, big=True, order=">"), Reason.UNSUPPORTED_FORMAT, "a BigTIFF with the highest byte first"),
        (
            b"BM" + struct.pack("<IHHI", 42, 0, 0, 30) + struct.pack("<IiiHH", 16, 3, 1, 1, 24) + bytes(12),
            Reason.UNSUPPORTED_FORMAT,
            "a BMP of a kind that is not supported",
        ),
        (png_of(3, 4), Reason.CORRUPT, ""),
        (GIF[:-1], Reason.CORRUPT, "the file ends before its trailer"),
        (JPEG[:-2], Reason.CORRUPT, "truncated"),
        (changed(PNG, PNG.index(b"IDAT") + 8, bytes(40)), Reason.CORRUPT, ""),
    ],
)
def test_others_are_rejected_for_what_is_true(body: bytes, reason: Reason, words: str) -> None:
    with pytest.raises(RejectedError) as rejected:
        inspect_bytes(body, LIMITS)

    assert rejected.value.reason is reason
    assert words in rejected.value.detail


@pytest.mark.parametrize(("format_", "orientation"), [("HEIF", 6), ("JXL", 6), ("JXL", 3)])
def test_the_size_of_what_its_decoder_turns_is_the_one_that_is_shown(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    facts: ImageFacts = inspect_bytes(saved(SCENE, format_, exif=exif.tobytes()), LIMITS)
    shown = convert(saved(SCENE, format_, exif=exif.tobytes()), Conversion(format="png"), LIMITS)

    assert shown is not None
    assert (shown.width, shown.height) == (facts.width, facts.height)


def test_a_bigtiff_is_counted_and_limited_as_a_tiff_is() -> None:
    pages = saved(SCENE, "TIFF", *[OTHER] * 4, big_tiff=True)

    assert inspect_bytes(pages, LIMITS).frames == 5
    assert headers.read(pages, Limits(max_frames=3)).frames == 4
    with pytest.raises(RejectedError, match="too_complex"):
        inspect_bytes(of({}, big=True), Limits(max_tags=8))

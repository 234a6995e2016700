import struct
import zlib
from io import BytesIO

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.inspection.conversion import Conversion
from pixcrawler_worker.inspection.inspector import convert, inspect_bytes, measure_bytes
from pixcrawler_worker.inspection.limits import Limits

BOMB = zlib.compress(bytes(5_000_000), 9)


@pytest.mark.parametrize(
    "chunks",
    [
        [samples.png_chunk(b"zTXt", b"a\0\7abc")],
        [samples.png_chunk(b"zTXt", b"a\0\0" + BOMB)],
        [samples.png_chunk(b"iTXt", b"a\0\1\0en\0a\0" + BOMB)],
        [samples.png_chunk(b"iTXt", b"a\0\1\7en\0a\0abc")],
        [samples.png_chunk(b"iCCP", b"a\0\7abc")],
        [samples.png_chunk(b"iCCP", b"a\0\0" + BOMB)],
        [samples.png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 100,
    ],
    ids=["method", "text", "international", "its method", "profile's method", "profile", "many"],
)
def test_texts_that_a_png_decoder_does_not_take_cost_no_pixel(chunks: list[bytes]) -> None:
    facts = inspect_bytes(samples.png_with(*chunks), Limits())
    plain = inspect_bytes(samples.png_with(), Limits())

    assert (facts.width, facts.phash, facts.file_size > plain.file_size) == (90, plain.phash, True)


def test_texts_that_a_png_decoder_takes_stay() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    text = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode()
    chunks = [samples.png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))]
    broken = samples.png_chunk(b"zTXt", b"a\0\7abc")

    for body in (samples.png_with(*chunks), samples.png_with(broken, *chunks, broken)):
        _, measured = measure_bytes(body, Limits(), strict=False)
        assert measured.orientation == 6


def alphas(body: bytes, target: str, *columns: int) -> list[int]:
    """Return how opaque some columns of an image are once it is converted."""
    converted = convert(body, Conversion(format=target, strip=True), Limits())
    assert converted is not None
    alpha = Image.open(BytesIO(converted.body)).convert("RGBA").getchannel("A")
    return [alpha.getpixel((column, 4)) for column in columns]  # type: ignore[misc]  # numbers, since it has one band


@pytest.mark.parametrize("target", ["png", "gif", "webp", "tiff", "avif"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_gray_that_is_transparent_stays_so(target: str, bits: int) -> None:
    black_and_white = b"\0" + bytes(2 * bits) + b"\xff" * 2 * bits  # 16 pixels of each
    for transparent, expected in ((0, [0, 255]), ((1 << bits) - 1, [255, 0])):
        chunk = samples.png_chunk(b"tRNS", struct.pack(">H", transparent))
        body = samples.png(32, 8, chunk, rows=black_and_white * 8, bits=bits)

        assert alphas(body, target, 4, 28) == pytest.approx(expected, abs=5)
        assert measure_bytes(body, Limits(), strict=False)[1].transparent


@pytest.mark.parametrize(("target", "half"), [("png", 128), ("gif", 255)])
def test_a_palette_with_colors_that_are_transparent_in_part_is_converted(target: str, half: int) -> None:
    image = Image.new("P", (30, 8))
    image.putpalette([200, 0, 0, 0, 0, 200, 0, 200, 0])
    image.paste(1, (10, 0, 20, 8))
    image.paste(2, (20, 0, 30, 8))

    assert alphas(samples.encoded(image, "PNG", transparency=b"\0\x80"), target, 5, 15, 25) == [0, half, 255]
    assert alphas(samples.encoded(image, "PNG", transparency=b"\0\0"), target, 5, 15, 25) == [0, 0, 255]

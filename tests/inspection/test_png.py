import zlib

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.inspection.inspector import inspect_bytes, measure_bytes
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

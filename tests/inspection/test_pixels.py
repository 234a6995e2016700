import asyncio
import struct
from contextlib import aclosing
from io import BytesIO

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.facts import WRITTEN_FORMATS
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.conversion import Conversion
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import convert, inspect_bytes, measure_bytes, thumbnail
from pixcrawler_worker.inspection.limits import Limits


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    written = BytesIO()
    image.save(written, kind, **how)
    return written.getvalue()


def opened(jpeg: bytes) -> Image.Image:
    image = Image.open(BytesIO(jpeg), formats=["JPEG"])
    image.load()
    return image


def test_a_thumbnail_keeps_the_shape_and_fits_into_its_square() -> None:
    small = opened(thumbnail(saved(Image.new("RGB", (640, 320), "red"), "PNG"), 64, Limits()))
    assert small.size == (64, 32)
    assert small.getpixel((5, 5)) == pytest.approx((254, 0, 0), abs=3)


def test_a_thumbnail_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert opened(thumbnail(saved(Image.new("RGB", (640, 320)), "JPEG", exif=exif), 64, Limits())).size == (32, 64)


def test_transparency_is_laid_on_white() -> None:
    small = opened(thumbnail(saved(Image.new("RGBA", (64, 64), (255, 0, 0, 0)), "PNG"), 64, Limits()))
    assert small.getpixel((9, 9)) == (255, 255, 255)


def test_sixteen_bits_are_stretched_and_not_cut_off() -> None:
    gray = Image.new("I;16", (64, 64), 1000)
    gray.paste(60_000, (0, 0, 32, 64))
    small = opened(thumbnail(saved(gray, "PNG"), 64, Limits())).convert("L")
    assert small.getpixel((8, 8)) == pytest.approx(255, abs=4)
    assert small.getpixel((56, 8)) == pytest.approx(0, abs=4)


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "CMYK", "RGB"])
def test_every_mode_has_a_thumbnail(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert opened(thumbnail(saved(Image.new(mode, (90, 60)), kind), 30, Limits())).size == (30, 20)


def test_the_sandboxed_process_makes_thumbnails_between_other_images() -> None:
    body = saved(Image.new("RGB", (640, 320), "red"), "JPEG")

    async def ask() -> tuple[int, bytes, int]:
        async with aclosing(Decoder(Limits())) as decoder:
            before = await decoder.inspect(body)
            small = await decoder.thumbnail(body, side=50)
            with pytest.raises(RejectedError) as rejection:
                await decoder.thumbnail(b"<html>", side=50)
            assert rejection.value.reason is Reason.NOT_AN_IMAGE
            return before.width, small, (await decoder.inspect(body)).width

    before, small, after = asyncio.run(ask())
    assert (before, after) == (640, 640)
    assert opened(small).size == (50, 25)


def premultiplied_tiff() -> bytes:
    """A gray TIFF whose alpha is multiplied into it, which Pillow opens in mode La."""
    body = saved(Image.new("LA", (90, 60), (200, 255)), "TIFF")
    unassociated = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert unassociated in body
    return body.replace(unassociated, struct.pack("<HHIHH", 338, 3, 1, 1, 0))


def test_a_tiff_with_premultiplied_alpha_is_inspected_measured_and_converted() -> None:
    body = premultiplied_tiff()

    assert inspect_bytes(body, Limits()).mode == "La"
    assert opened(thumbnail(body, 64, Limits())).getpixel((5, 5)) == (200, 200, 200)
    _, measured = measure_bytes(body, Limits(), strict=False)
    assert measured.brightness_p99 == pytest.approx(200 / 255, abs=0.01)
    for format_ in WRITTEN_FORMATS:
        assert convert(body, Conversion(format=format_), Limits()) or format_ == "tiff"


def test_why_a_file_is_not_opened_is_named() -> None:
    body = samples.variant("png")
    with pytest.raises(RejectedError, match="broken PNG file") as rejected:
        inspect_bytes(body.replace(b"IDAT", b"\0DAT", 1), Limits())
    assert rejected.value.reason is Reason.CORRUPT

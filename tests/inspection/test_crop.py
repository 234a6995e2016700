"""The part of an image that a model gets: as Pillow resizes and cuts the whole image, whatever its shape."""

import asyncio
import struct
from collections.abc import Callable
from contextlib import aclosing
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from inspection import samples
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.crop import MAX_SIDE, Crop
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import crop
from pixcrawler_worker.inspection.limits import Limits

CLIP = Crop(width=224, height=224, resized=224)
OTHERS = (CLIP, Crop(width=224, height=224, resized=(256, 256), resampling=2), Crop(width=40, height=60, resized=90))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    written = BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def cut(body: bytes, part: Crop) -> NDArray[np.uint8]:
    pixels = crop(body, part, Limits())
    assert len(pixels) == part.size
    return np.frombuffer(pixels, np.uint8).reshape(part.height, part.width, 3)


def as_pillow(image: Image.Image, part: Crop) -> NDArray[np.uint8]:
    """The same by resizing all of the image, as the processors of models do."""
    shorter = min(image.size)
    size = (
        part.resized
        if isinstance(part.resized, tuple)
        else (part.resized * image.width // shorter, part.resized * image.height // shorter)
    )
    whole = image.resize(size, Image.Resampling(part.resampling))
    left, top = (whole.width - part.width) // 2, (whole.height - part.height) // 2
    return np.asarray(whole.crop((left, top, left + part.width, top + part.height)))


@pytest.mark.parametrize("part", OTHERS, ids=repr)
@pytest.mark.parametrize("size", [(900, 600), (600, 900), (224, 224), (2000, 1400), (120, 80), (3000, 90)], ids=str)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_part_is_that_of_pillow(part: Crop, size: tuple[int, int], kind: str) -> None:
    # Without noise: that a decoder scales a JPEG down itself must not matter.
    scene = samples.scene(*size).filter(ImageFilter.GaussianBlur(3))
    body = saved(scene, kind, **({"quality": 95} if kind == "JPEG" else {}))
    difference = np.abs(cut(body, part).astype(int) - as_pillow(scene, part).astype(int))
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99) < 14


def test_the_part_is_upright() -> None:
    halves = Image.new("RGB", (300, 200), "red")
    halves.paste("blue", (0, 0, 150, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: what is on the left is above
    part = cut(saved(halves, "JPEG", exif=exif), Crop(width=20, height=20, resized=20))
    assert part[2, 10] == pytest.approx((0, 0, 254), abs=3)
    assert part[17, 10] == pytest.approx((254, 0, 0), abs=3)


def test_transparency_is_laid_on_white() -> None:
    assert cut(saved(Image.new("RGBA", (64, 64), (255, 0, 0, 0)), "PNG"), CLIP).min() == 255


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGBA", "CMYK", "RGB", "I;16"])
def test_every_mode_has_a_part(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert cut(saved(Image.new(mode, (90, 60)), kind), CLIP).shape == (224, 224, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (16_000, 2)])
def test_an_image_of_any_shape_has_a_part(size: tuple[int, int]) -> None:
    body = saved(Image.new("RGB", size, (10, 200, 30)), "PNG")
    for part in OTHERS:
        assert np.abs(cut(body, part).astype(int) - (10, 200, 30)).max() <= 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0, "height": 4, "resized": 4}, "1 to 512 pixels a side, not 0x4"),
        ({"width": 4, "height": MAX_SIDE + 1, "resized": 900}, "1 to 512 pixels a side, not 4x513"),
        ({"width": 9, "height": 9, "resized": 8}, "not 8x8"),
        ({"width": 9, "height": 9, "resized": (9, 8)}, "not 9x8"),
        ({"width": 9, "height": 9, "resized": 5000}, "not 5000x5000"),
        ({"width": 9, "height": 9, "resized": 9, "resampling": 6}, "no filter 6"),
    ],
)
def test_a_part_that_cannot_be_is_an_error(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Crop(**fields)


@pytest.mark.parametrize("make", [lambda: b"", lambda: b"<html>", lambda: samples.variant("jpg")[:400]])
def test_what_is_no_image_is_rejected(make: Callable[[], bytes]) -> None:
    with pytest.raises(RejectedError):
        crop(make(), CLIP, Limits())


def test_the_sandboxed_process_cuts_parts_between_other_images() -> None:
    body = saved(Image.new("RGB", (640, 320), "red"), "PNG")
    bomb = b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, *[0] * 6)

    async def ask() -> list[bytes | Reason | int]:
        async with aclosing(Decoder(Limits())) as decoder:
            found: list[bytes | Reason | int] = [await decoder.crop(body, CLIP)]
            for hostile in (bomb, b"<html>"):
                with pytest.raises(RejectedError) as rejection:
                    await decoder.crop(hostile, CLIP)
                found.append(rejection.value.reason)
            largest = Crop(width=MAX_SIDE, height=MAX_SIDE, resized=MAX_SIDE)
            parts = await asyncio.gather(*(decoder.crop(body, largest) for _ in range(20)))
            return [*found, (await decoder.inspect(body)).width, *{len(part) for part in parts}]

    assert asyncio.run(ask()) == [
        b"\xff\0\0" * 224 * 224,
        Reason.TOO_MANY_PIXELS,
        Reason.NOT_AN_IMAGE,
        640,
        3 * MAX_SIDE * MAX_SIDE,
    ]

import asyncio
import struct
from contextlib import aclosing
from typing import Any

import pytest
from inspection import samples
from PIL import Image, ImageChops, ImageStat

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import webp
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import inspect_bytes, measure_bytes, thumbnail
from pixcrawler_worker.inspection.limits import Limits

#: Limits to which an image of 2400x1800 is a large one, of which a WebP is scaled down.
LOW = Limits(max_decoded_bytes=20_000_000)
#: And the usual ones, to which it is not.
USUAL = Limits()


def large(*, alpha: bool = False, **options: Any) -> bytes:
    scene = samples.scene(2400, 1800)
    if alpha:
        scene.putalpha(Image.radial_gradient("L").resize(scene.size))
    return samples.encoded(scene, "WEBP", method=0, **options)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True, "quality": 0}])
def test_a_large_one_has_the_facts_and_measurements_of_one_that_is_not(options: dict[str, Any], *, alpha: bool) -> None:
    body = large(alpha=alpha, **options)

    facts, usual = inspect_bytes(body, LOW), inspect_bytes(body, USUAL)
    _, measured = measure_bytes(body, LOW, strict=False)
    _, usually = measure_bytes(body, USUAL, strict=False)

    assert (facts.width, facts.height, facts.mode, facts.sha256) == (2400, 1800, usual.mode, usual.sha256)
    assert (facts.phash ^ usual.phash).bit_count() <= 4
    assert (facts.dhash ^ usual.dhash).bit_count() <= 4
    assert measured.transparent is alpha
    assert measured.entropy == pytest.approx(usually.entropy, abs=0.2)
    assert measured.brightness_p99 == pytest.approx(usually.brightness_p99, abs=0.05)
    assert thumbnail(body, 64, LOW).startswith(b"\xff\xd8\xff")


def test_it_is_scaled_to_a_megapixel_of_the_same_picture() -> None:
    image = webp.scaled(large())

    assert image is not None
    assert image.size == (800, 600)
    difference = ImageChops.difference(image, samples.scene(2400, 1800).reduce(3))
    assert max(ImageStat.Stat(difference).mean) < 8


def test_its_orientation_and_place_are_read_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N"}
    body = large(exif=exif.tobytes())

    _, measured = measure_bytes(body, LOW, strict=False)
    assert (measured.orientation, measured.gps) == (6, True)
    tags = exif.tobytes()[6:]
    assert tags in body
    broken = body.replace(tags, bytes(len(tags)))
    _, measured = measure_bytes(broken, LOW, strict=False)
    assert (measured.orientation, measured.gps) == (1, False)


def test_an_animation_is_none_of_them_and_has_to_be_small() -> None:
    scene = samples.scene(1200, 900)
    body = samples.encoded(scene, "WEBP", save_all=True, append_images=[samples.scene(1200, 900, seed=1)], method=0)

    assert webp.scaled(body) is None
    assert inspect_bytes(body, USUAL).frames == 2
    with pytest.raises(RejectedError, match="1200x900 of such pixels take 21 MB to be decoded") as rejected:
        inspect_bytes(body, LOW)
    assert rejected.value.reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True, "quality": 0}])
def test_a_truncated_or_broken_one_is_corrupt(options: dict[str, Any]) -> None:
    body = large(**options)
    for length in (len(body) - 2, len(body) // 2, 1000):
        cut = body[:4] + struct.pack("<I", length - 8) + body[8:length]
        with pytest.raises(RejectedError) as rejected:
            inspect_bytes(cut, LOW)
        assert rejected.value.reason is Reason.CORRUPT


def test_37_megapixels_take_no_more_memory_than_their_pixels() -> None:
    body = samples.webp_of_one_color(6100, 6100)

    async def story(limits: Limits) -> int:
        async with aclosing(Decoder(limits)) as decoder:
            return (await decoder.inspect(body)).width

    assert asyncio.run(story(Limits(max_pixels_per_byte=10**9))) == 6100

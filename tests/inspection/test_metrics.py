"""What is measured of pixels and tags: against cleanvision's own figures, and on every kind of image."""

import asyncio
import io
import json
import struct
from collections.abc import Callable
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import inspect_bytes, measure_bytes
from pixcrawler_worker.inspection.limits import Limits

RECORDED: dict[str, list[float]] = json.loads(Path(__file__).with_name("cleanvision.json").read_text())["scores"]
#: Thresholds at which the checks decide, as (which of the four figures, threshold).
THRESHOLDS = [(0, 0.95), (1, 0.32), (2, 3.0), (3, 0.29)]
#: How far each may be off: noise is averaged away in the reduction, and moves the ends of a histogram.
CLOSE = [0.1, 0.1, 0.9, 0.02]
KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "plain": lambda image: image,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(min(image.size) / 40)),
    "dark": lambda image: image.point(lambda value: value * 0.2),
}


def measured(image: Image.Image, kind: str = "PNG", **options: Any) -> Metrics:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return measure_bytes(out.getvalue(), Limits(), strict=False)[1]


def photograph(name: str) -> Image.Image:
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Image.open(Path(spec.origin).parent / "data" / name).convert("RGB")


@pytest.mark.parametrize("case", RECORDED)
def test_scores_and_results_are_those_of_cleanvision(case: str) -> None:
    name, kind = case.split()
    found = measured(KINDS[kind](photograph(name)), compress_level=1)
    ours = [found.brightness_p5, found.brightness_p99, found.entropy, found.sharpness]
    theirs = RECORDED[case]
    assert all(abs(one - other) <= close for one, other, close in zip(ours, theirs, CLOSE, strict=True)), ours
    assert [ours[at] < bound for at, bound in THRESHOLDS] == [theirs[at] < bound for at, bound in THRESHOLDS]


def test_a_jpeg_that_is_scaled_by_its_decoder_is_measured_like_the_whole() -> None:
    image = photograph("coffee.png").resize((2400, 1600))
    small, large = measured(image, "JPEG", quality=90), measured(image, compress_level=1)
    assert small.sharpness == pytest.approx(large.sharpness, abs=0.02)
    assert small.entropy == pytest.approx(large.entropy, abs=0.1)
    assert small.brightness_p99 == pytest.approx(large.brightness_p99, abs=0.02)


def squared_brightness(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """Return the square of perceived brightness, in 64 bits, each part of it rounded."""
    return np.round(np.square(pixels.astype(np.float64)) * (0.241, 0.691, 0.068)).sum(axis=-1)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_brightness_of_every_kind_of_rounding_is_that_of_64_bits(channel: int) -> None:
    # At 25, 50, 75 and 150, the square is in the middle of two integers.
    for value in (1, 2, 3, 25, 50, 75, 100, 149, 150, 151, 254, 255):
        pixel = np.zeros((1, 1, 3), dtype=np.uint8)
        pixel[..., channel] = value
        expected = round(float(np.sqrt(squared_brightness(pixel)[0, 0])) / 255, 4)
        found = measured(Image.fromarray(pixel))
        assert (found.brightness_p5, found.brightness_p99) == (expected, expected), value


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (5, 4), (21, 1), (100, 3), (256, 171)])
def test_percentiles_and_spreads_are_those_of_numpy(size: tuple[int, int]) -> None:
    chance = np.random.default_rng(size[0])
    for highest in (256, 3, 1):
        image = Image.fromarray(chance.integers(0, highest, (*reversed(size), 3), dtype=np.uint8))
        squared = squared_brightness(np.asarray(image))
        low, high = np.sqrt(np.percentile(squared, (5, 99), method="inverted_cdf")) / 255
        found = measured(image)
        assert (found.brightness_p5, found.brightness_p99) == (round(float(low), 4), round(float(high), 4))
        assert found.std == pytest.approx(np.std(np.asarray(image.convert("L"))), abs=0.0001)
        assert found.channel_delta == np.ptp(np.asarray(image), axis=-1).max()


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16", "LAB"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_measured(mode: str) -> None:
    kind = {"1": "PNG", "CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF", "F": "TIFF", "I": "TIFF"}.get(mode, "PNG")
    if mode == "LAB":
        image = Image.merge("LAB", photograph("coffee.png").split())
    elif mode in {"I", "F", "I;16"}:
        image = photograph("coffee.png").convert("L").convert("I").point(lambda value: value * 200).convert(mode)
    else:
        image = photograph("coffee.png").convert(mode)
    found = measured(image, kind)
    assert 5 < found.entropy < 8 or mode == "1"
    assert 0 <= found.brightness_p5 <= found.brightness_p99 <= 1
    assert found.brightness_p99 > 0.5


def test_the_color_of_invisible_pixels_does_not_affect_metrics() -> None:
    image = photograph("coffee.png").convert("RGBA")
    image.putalpha(0)
    found = measured(image)
    assert (found.transparent, found.std, found.brightness_p5) == (True, 0, 1)
    image.putalpha(255)
    assert not measured(image).transparent


@pytest.mark.parametrize(("size", "least"), [((1, 1), 0), ((1, 5000), 0), ((5000, 1), 0), ((3, 2), 0), ((257, 255), 0)])
def test_images_of_any_shape_are_measured(size: tuple[int, int], least: float) -> None:
    found = measured(Image.linear_gradient("L").resize(size))
    assert found.entropy >= least
    assert found.channel_delta == 0


def test_tags_give_orientation_and_location_and_broken_ones_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    image = photograph("coffee.png")
    found = measured(image, "JPEG", exif=exif)
    assert (found.orientation, found.gps) == (6, True)
    assert (measured(image, "JPEG").orientation, measured(image, "JPEG").gps) == (1, False)
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40
    found = measured(image, "JPEG", exif=broken)
    assert (found.orientation, found.gps) == (1, False)
    exif[0x0112] = 99
    assert measured(image, "JPEG", exif=exif).orientation == 1


@pytest.mark.parametrize(("kind", "value"), [(5, struct.pack(">II", 6, 1)), (11, struct.pack(">f", 6))])
def test_an_orientation_that_is_a_fraction_is_the_number_and_costs_no_process(kind: int, value: bytes) -> None:
    directory = struct.pack(">HHHI", 1, 0x0112, kind, 1)
    # A value of more than four bytes is behind the directory.
    fields = struct.pack(">I", 26) + bytes(4) + value if len(value) > 4 else value + bytes(4)
    body = io.BytesIO()
    photograph("coffee.png").save(body, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + directory + fields)

    async def story() -> tuple[int, int | None, int | None]:
        async with aclosing(Decoder(Limits())) as decoder:
            await decoder.sandbox()
            before = decoder.pid
            _, metrics = await decoder.measure(body.getvalue())
            return metrics.orientation, before, decoder.pid

    orientation, before, after = asyncio.run(story())
    assert (orientation, after) == (6, before)


def test_a_strict_decoder_reports_what_others_repair() -> None:
    out = io.BytesIO()
    photograph("coffee.png").save(out, "JPEG", quality=90)
    whole = bytearray(out.getvalue())
    assert measure_bytes(bytes(whole), Limits(), strict=True)[1].strict_error is None
    middle = len(whole) // 2
    whole[middle : middle + 40] = b"\xff\xd3" * 20
    repaired = measure_bytes(bytes(whole), Limits(), strict=False)[1]
    assert repaired.strict_error is None
    assert measure_bytes(bytes(whole), Limits(), strict=True)[1].strict_error


def test_inspecting_and_measuring_give_near_hashes() -> None:
    for name in ("coffee.png", "astronaut.png", "rocket.jpg"):
        out = io.BytesIO()
        photograph(name).resize((1200, 900)).save(out, "JPEG", quality=90)
        inspected, (facts, _) = (
            inspect_bytes(out.getvalue(), Limits()),
            measure_bytes(out.getvalue(), Limits(), strict=False),
        )
        assert (inspected.phash ^ facts.phash).bit_count() <= 4
        assert (inspected.dhash ^ facts.dhash).bit_count() <= 8
        assert (inspected.sha256, inspected.width, inspected.mode) == (facts.sha256, facts.width, facts.mode)

import hashlib
import math
import struct

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.mark.parametrize("name", samples.VARIANTS)
def test_every_format_has_its_facts(name: str) -> None:
    body = samples.variant(name)

    facts = inspect_bytes(body, LIMITS)

    assert (facts.width, facts.height, facts.frames) == (160, 120, 1)
    assert facts.format == name.partition("-")[0]
    assert facts.mode == ("P" if facts.format == "gif" else "RGB")
    assert facts.file_size == len(body)
    assert facts.sha256 == hashlib.sha256(body).digest()
    assert 0 <= facts.phash < 2**64
    assert 0 <= facts.dhash < 2**64


@pytest.mark.parametrize(
    ("format_", "mode"),
    [
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "1"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
        ("WEBP", "RGBA"),
        ("AVIF", "RGBA"),
        ("TIFF", "1"),
        ("TIFF", "CMYK"),
        ("TIFF", "F"),
        ("TIFF", "I"),
        ("TIFF", "LAB"),
        ("TIFF", "YCbCr"),
    ],
)
def test_every_mode_is_kept_as_a_fact_and_can_be_hashed(format_: str, mode: str) -> None:
    image = samples.scene()
    if mode == "LAB":
        gray = image.convert("L")
        image = Image.merge("LAB", [gray, Image.new("L", gray.size, 128), Image.new("L", gray.size, 128)])
    else:
        image = image.convert("L" if mode == "I;16" else "RGB").convert(mode)

    if mode == "RGBA":
        image.putpixel((0, 0), (0, 0, 0, 0))  # Formats drop an alpha channel that is opaque all over.

    facts = inspect_bytes(samples.encoded(image, format_), LIMITS)

    assert facts.mode == mode
    if mode != "1":  # Dithering is another image to a hash of differences.
        assert distance(facts.phash, inspect_bytes(samples.variant("png"), LIMITS).phash) <= 6


@pytest.mark.parametrize(
    ("format_", "options", "frames"),
    [
        ("GIF", {}, 5),
        ("WEBP", {}, 5),
        ("PNG", {}, 5),
        ("TIFF", {}, 5),
        ("AVIF", {"speed": 10}, 5),
        ("MPO", {}, 1),
    ],
)
def test_frames_are_counted_and_a_jpeg_with_more_images_after_it_has_one(
    format_: str, options: dict[str, int], frames: int
) -> None:
    first, *others = [samples.scene(seed=seed) for seed in range(5)]
    body = samples.encoded(first, format_, save_all=True, append_images=others, **options)

    facts = inspect_bytes(body, LIMITS)

    assert facts.frames == frames
    assert facts.format == {"MPO": "jpg"}.get(format_, format_.lower())
    assert (facts.width, facts.height) == (160, 120)


@pytest.mark.parametrize("format_", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_width_and_height_are_those_stored_whatever_the_orientation(format_: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    facts = inspect_bytes(samples.encoded(samples.scene(), format_, exif=exif), LIMITS)

    assert (facts.width, facts.height) == (160, 120)


def test_top_down_and_old_bitmaps_have_a_size_too() -> None:
    top_down = bytearray(samples.variant("bmp"))
    top_down[22:26] = struct.pack("<i", -120)
    core = b"BM" + struct.pack("<IHHI", 26 + 12, 0, 0, 26) + struct.pack("<IHHHH", 12, 3, 1, 1, 24) + bytes(12)

    assert inspect_bytes(bytes(top_down), LIMITS).height == 120
    assert inspect_bytes(core, LIMITS).width == 3


@pytest.mark.parametrize("name", [name for name in samples.VARIANTS if name != "png"])
def test_the_same_image_in_another_format_has_near_hashes(name: str) -> None:
    original = inspect_bytes(samples.variant("png"), LIMITS)

    copy = inspect_bytes(samples.variant(name), LIMITS)

    assert distance(original.phash, copy.phash) <= 4
    assert distance(original.dhash, copy.dhash) <= 4


def test_a_smaller_copy_has_near_hashes_and_another_image_far_ones() -> None:
    large = samples.scene(1600, 1200)
    facts = inspect_bytes(samples.encoded(large, "JPEG"), LIMITS)

    copy = inspect_bytes(samples.encoded(large.resize((400, 300)), "PNG"), LIMITS)
    other = inspect_bytes(samples.encoded(samples.scene(1600, 1200, seed=5), "JPEG"), LIMITS)

    assert distance(facts.phash, copy.phash) <= 6
    assert distance(facts.dhash, copy.dhash) <= 6
    assert distance(facts.phash, other.phash) >= 12


def test_the_color_of_invisible_pixels_does_not_count() -> None:
    visible = Image.radial_gradient("L").resize((160, 120)).point(lambda value: 255 if value < 128 else 0)
    on_white = Image.composite(samples.scene(), Image.new("RGB", (160, 120), "white"), visible)
    hidden_scene = samples.scene()
    hidden_scene.putalpha(visible)
    hidden_black = Image.composite(samples.scene(), Image.new("RGB", (160, 120)), visible)
    hidden_black.putalpha(visible)

    flat, scene, black = (
        inspect_bytes(samples.encoded(image, "PNG"), LIMITS) for image in (on_white, hidden_scene, hidden_black)
    )

    assert scene.phash == black.phash == flat.phash
    assert scene.dhash == black.dhash == flat.dhash


def test_the_hashes_are_those_of_the_published_constructions() -> None:
    # 32x32 and 9x8 pixels are hashed as they are, so the sums can be written out.
    image = samples.scene(32, 32).convert("L")
    pixels = [[float(image.getpixel((x, y)) or 0) for x in range(32)] for y in range(32)]  # type: ignore[arg-type]  # an L image has one number a pixel
    wave = [[math.cos(math.pi / 32 * u * (x + 0.5)) for x in range(32)] for u in range(8)]
    low = [
        sum(wave[v][y] * wave[u][x] * pixels[y][x] for y in range(32) for x in range(32))
        for v in range(8)
        for u in range(8)
    ]
    ordered = sorted(low)
    median = (ordered[31] + ordered[32]) / 2
    small = samples.scene(9, 8).convert("L")
    brighter = [small.getpixel((x + 1, y)) > small.getpixel((x, y)) for y in range(8) for x in range(8)]  # type: ignore[operator]  # an L image has one number a pixel

    phash = inspect_bytes(samples.encoded(image, "PNG"), LIMITS).phash
    dhash = inspect_bytes(samples.encoded(small, "PNG"), LIMITS).dhash

    assert f"{phash:064b}" == "".join(str(int(value > median)) for value in low)
    assert f"{dhash:064b}" == "".join(str(int(value)) for value in brighter)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 2), (700, 130)])
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_dots_and_strips_are_images(format_: str, size: tuple[int, int]) -> None:
    facts = inspect_bytes(samples.encoded(Image.new("RGB", size, (200, 10, 40)), format_), LIMITS)

    assert (facts.width, facts.height) == size


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_floats_beyond_any_brightness_can_be_hashed(value: float) -> None:
    image = samples.scene().convert("F")
    image.paste(value, (10, 10, 20, 20))

    assert inspect_bytes(samples.encoded(image, "TIFF"), LIMITS).mode == "F"
    # Of 32x32 pixels, none is mixed with its neighbors before the sums.
    inspect_bytes(samples.encoded(Image.new("F", (32, 32), value), "TIFF"), LIMITS)


def test_sixteen_bits_are_hashed_over_their_whole_range() -> None:
    eight = samples.scene().convert("L")
    sixteen = eight.convert("I").point(lambda value: value * 257).convert("I;16")

    facts = inspect_bytes(samples.encoded(sixteen, "PNG"), LIMITS)

    assert facts.mode == "I;16"
    assert distance(facts.phash, inspect_bytes(samples.encoded(eight, "PNG"), LIMITS).phash) <= 2


def test_warnings_of_pillow_are_neither_printed_nor_errors() -> None:
    animation_of_nothing = samples.png_chunk(b"acTL", bytes(8))

    assert inspect_bytes(samples.png(3, 3, animation_of_nothing, rows=bytes(12)), LIMITS).frames == 1


def test_an_empty_body_is_rejected_as_empty() -> None:
    with pytest.raises(RejectedError) as rejection:
        inspect_bytes(b"", LIMITS)
    assert rejection.value.reason is Reason.EMPTY

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import pytest
from inspection import samples
from PIL import Image, ImageChops, ImageCms, ImageStat, JpegImagePlugin, PngImagePlugin

from pixcrawler_worker.domain.facts import WRITTEN_FORMATS, ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import convert
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
SMALL = Limits(max_pixels=1_000_000, max_frame_pixels=4_000_000)
JPEG = samples.variant("jpg")
PILLOW = {"jpg": "JPEG"}
DESCRIPTION, MAKE, ORIENTATION, EXPOSURE, EXIF, GPS = 0x010E, 0x010F, 0x0112, 0x829A, 0x8769, 0x8825
#: How an image is stored that EXIF's orientations turn upright: the other way round.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

Result = TypeVar("Result")


def changed(body: bytes, format_: str = "png", **how: Any) -> Converted:
    """Return an image converted; it must not be one that is left as it is."""
    converted = convert(body, Conversion(format=format_, **how), LIMITS)
    assert converted
    return converted


def opened(converted: Converted) -> Image.Image:
    """Open a converted image; its size must be the one that was returned."""
    image = Image.open(BytesIO(converted.body), formats=[PILLOW.get(converted.format, converted.format)])
    image.load()
    assert image.size == (converted.width, converted.height)
    return image


def with_tags(orientation: int | None = None, *, description: str | None = None) -> bytes:
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    exif[EXIF] = {EXPOSURE: 0.5}
    exif[GPS] = {1: "N", 2: (52.0, 31.0, 12.0)}
    if orientation:
        exif[ORIENTATION] = orientation
    if description:
        exif[DESCRIPTION] = description
    return exif.tobytes()


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the difference of two images, 0 to 255, without that of fine lines, which encoders change."""
    coarse, other_coarse = (
        image.convert("RGB").resize((16, 12), Image.Resampling.BOX) if min(image.size) > 30 else image.convert("RGB")
        for image in (one, other)
    )
    return max(ImageStat.Stat(ImageChops.difference(coarse, other_coarse)).mean)


def run(story: Callable[[Decoder], Awaitable[Result]], limits: Limits = LIMITS) -> Result:
    """Return the result of a story with a decoder."""

    async def main() -> Result:
        async with aclosing(Decoder(limits)) as decoder:
            return await story(decoder)

    return asyncio.run(main())


LANDSCAPE, PORTRAIT, SQUARE, SMALLER, MIXED = (300, 200), (200, 300), (200, 200), (60, 40), (90, 300)
ROW, COLUMN = (3000, 1), (1, 3000)


@pytest.mark.parametrize(
    ("mode", "size", "shrunk", "enlarged"),
    [
        ("fit", LANDSCAPE, (100, 67), (100, 67)),
        ("fit", PORTRAIT, (67, 100), (67, 100)),
        ("fit", SQUARE, (100, 100), (100, 100)),
        ("fit", SMALLER, (60, 40), (100, 67)),
        ("fit", ROW, (100, 1), (100, 1)),
        ("fit", COLUMN, (1, 100), (1, 100)),
        ("cover", LANDSCAPE, (100, 100), (100, 100)),
        ("cover", PORTRAIT, (100, 100), (100, 100)),
        ("cover", SQUARE, (100, 100), (100, 100)),
        ("cover", SMALLER, (60, 40), (100, 100)),
        ("cover", MIXED, (90, 100), (100, 100)),
        ("cover", ROW, (100, 1), (100, 100)),
        ("cover", COLUMN, (1, 100), (100, 100)),
        ("pad", LANDSCAPE, (100, 100), (100, 100)),
        ("pad", PORTRAIT, (100, 100), (100, 100)),
        ("pad", SQUARE, (100, 100), (100, 100)),
        ("pad", SMALLER, (100, 100), (100, 100)),
        ("pad", ROW, (100, 100), (100, 100)),
        ("pad", COLUMN, (100, 100), (100, 100)),
        ("shortest", LANDSCAPE, (150, 100), (150, 100)),
        ("shortest", PORTRAIT, (100, 150), (100, 150)),
        ("shortest", SQUARE, (100, 100), (100, 100)),
        ("shortest", SMALLER, (60, 40), (150, 100)),
        ("shortest", MIXED, (90, 300), (100, 333)),
        ("shortest", ROW, (3000, 1), None),
        ("shortest", COLUMN, (1, 3000), None),
        (None, MIXED, MIXED, MIXED),
    ],
)
def test_every_mode_has_its_size(
    mode: Any, size: tuple[int, int], shrunk: tuple[int, int], enlarged: tuple[int, int] | None
) -> None:
    body = samples.encoded(samples.scene().resize(size), "BMP")

    assert opened(changed(body, mode=mode, size=100)).size == shrunk
    if enlarged:
        assert opened(changed(body, mode=mode, size=100, only_shrink=False)).size == enlarged
    else:
        with pytest.raises(RejectedError) as rejected:
            changed(body, mode=mode, size=100, only_shrink=False)
        assert rejected.value.reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("format_", WRITTEN_FORMATS)
@pytest.mark.parametrize("name", ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "jxl"])
def test_every_format_becomes_every_other_and_stays_the_same_image(name: str, format_: str) -> None:
    converted = opened(changed(samples.variant(name), format_, mode="fit", size=80))
    # A GIF has 256 colors here, which are those of a fast octree.
    limit = 16 if "gif" in (name, format_) else 8
    assert difference(converted, samples.scene().resize((80, 60), Image.Resampling.BICUBIC)) < limit


@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1203), (1999, 811)])
@pytest.mark.parametrize("mode", ["fit", "cover", "shortest"])
def test_a_jpeg_that_is_scaled_by_its_decoder_is_the_image_that_it_would_be_otherwise(
    mode: Any, size: tuple[int, int]
) -> None:
    scene = samples.scene(*size)
    jpeg, bmp = samples.encoded(scene, "JPEG", quality=95, subsampling=0), samples.encoded(scene, "BMP")
    one, other = (opened(changed(body, mode=mode, size=100)) for body in (jpeg, bmp))
    # Scaled by its decoder to the size itself instead of twice of it, they would be more than 1 apart.
    assert max(ImageStat.Stat(ImageChops.difference(one, other)).mean) < 0.9


def test_cover_keeps_the_middle_and_pad_puts_the_image_there() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    body = samples.encoded(image, "PNG")

    covered = opened(changed(body, mode="cover", size=50))
    for corner in ((0, 0), (49, 0), (0, 49), (49, 49)):
        assert covered.getpixel(corner) == pytest.approx((0, 0, 255), abs=20)  # its neighbors are taken into account
    assert opened(changed(body, mode="cover", size=100)).getcolors() == [(10_000, (0, 0, 255))]

    padded = opened(changed(body, mode="pad", size=90, background="#00ff00"))
    across = [padded.getpixel((45, y)) for y in (0, 29, 30, 59, 60, 89)]
    green, blue = (0, 255, 0), (0, 0, 255)
    assert across == [green, green, blue, blue, green, green]


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_ends_upright_and_loses_its_tag(orientation: int, format_: str) -> None:
    upright = samples.scene()
    stored = upright.transpose(STORED[orientation]) if orientation in STORED else upright
    body = samples.encoded(stored, format_, exif=with_tags(orientation))
    for target in ("jpg", "png", "tiff"):
        turned = opened(changed(body, target, mode="fit", size=80))
        assert difference(turned, upright.resize((80, 60), Image.Resampling.BICUBIC)) < 8
        assert ORIENTATION not in turned.getexif()
        assert turned.getexif()[MAKE] == "Camera"


def test_an_image_that_is_cut_or_padded_is_turned_as_well() -> None:
    upright = Image.new("RGB", (90, 301), "red")
    upright.paste("blue", (0, 0, 90, 150))
    body = samples.encoded(upright.transpose(STORED[6]), "PNG", exif=with_tags(6))

    padded = opened(changed(body, mode="pad", size=100))
    assert [padded.getpixel((50, y)) for y in (5, 95)] == [(0, 0, 255), (255, 0, 0)]
    assert opened(changed(body, mode="cover", size=200)).size == (90, 200)
    assert opened(changed(body, mode="cover", size=45)).size == (45, 45)


def test_pixels_stay_as_they_are_stored_with_their_tag_when_orient_is_off() -> None:
    body = samples.encoded(samples.scene(), "JPEG", exif=with_tags(6))
    kept = opened(changed(body, "webp", orient=False))
    assert (kept.size, kept.getexif()[ORIENTATION]) == ((160, 120), 6)
    assert ORIENTATION not in opened(changed(body, "webp", orient=False, strip=True)).getexif()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("format_", ["jpg", "bmp"])
def test_transparency_is_laid_on_the_background(format_: str, mode: str) -> None:
    image = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (30, 0, 60, 40))
    body = samples.encoded(image.quantize() if mode == "P" else image.convert(mode), "PNG")

    flat = opened(changed(body, format_, background="#ff8000")).convert("RGB")
    assert flat.getpixel((5, 5)) == pytest.approx((255, 128, 0), abs=6)
    assert flat.getpixel((55, 5)) == pytest.approx((0, 0, 0), abs=6)


@pytest.mark.parametrize("format_", ["png", "webp", "gif", "tiff", "avif"])
def test_transparency_stays_where_the_format_has_it(format_: str) -> None:
    image = Image.new("RGBA", (60, 40), (200, 0, 0, 0))
    image.paste((0, 200, 0, 255), (30, 0, 60, 40))
    body = samples.encoded(image, "PNG")

    kept = opened(changed(body, format_, mode="fit", size=30)).convert("RGBA")
    assert kept.getpixel((2, 2))[3] == 0  # type: ignore[index]  # a pixel of four bands
    assert kept.getpixel((27, 2)) == pytest.approx((0, 200, 0, 255), abs=6)

    padded = opened(changed(body, format_, mode="pad", size=60)).convert("RGBA")
    assert padded.getpixel((2, 2)) == pytest.approx((255, 255, 255, 255), abs=2)
    assert padded.getpixel((2, 30))[3] == 0  # type: ignore[index]  # likewise


def test_the_color_of_invisible_pixels_does_not_blend_in() -> None:
    image = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (50, 0, 100, 100))
    small = opened(changed(samples.encoded(image, "PNG"), "png", mode="fit", size=25))
    assert all(pixel[0] == 0 for _, pixel in small.getcolors(625) or [] if pixel[3])  # type: ignore[index]  # RGBA


def test_of_an_animation_the_first_frame_is_taken() -> None:
    first, *others = [samples.scene(seed=seed).quantize(64) for seed in range(3)]
    body = samples.encoded(first, "GIF", save_all=True, append_images=others)
    for target in WRITTEN_FORMATS:
        how: dict[str, Any] = {"mode": "fit", "size": 100} if target == "gif" else {}
        image = opened(changed(body, target, **how))
        assert getattr(image, "n_frames", 1) == 1
        assert difference(image, first.convert("RGB").resize(image.size)) < 16
    assert difference(opened(changed(body)), first) == 0
    assert convert(body, Conversion(format="gif"), LIMITS) is None


def test_cmyk_becomes_rgb_without_its_profile() -> None:
    profile = bytes(16) + b"CMYK" + bytes(108)
    body = samples.encoded(samples.scene().convert("CMYK"), "JPEG", icc_profile=profile)
    image = opened(changed(body, "jpg", mode="fit", size=80))
    assert image.mode == "RGB"
    assert "icc_profile" not in image.info
    assert difference(image, samples.scene().resize((80, 60), Image.Resampling.BICUBIC)) < 8


@pytest.mark.parametrize("strip", [False, True])
def test_a_profile_stays_where_the_format_has_one(strip: bool) -> None:  # noqa: FBT001 - a parameter of the test
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    body = samples.encoded(samples.scene(), "PNG", icc_profile=profile)
    for target in ("jpg", "png", "webp", "tiff", "avif"):
        kept = opened(changed(body, target, mode="fit", size=80, strip=strip))
        assert kept.info["icc_profile"] == profile


def test_sixteen_bits_are_stretched_where_they_are_not_held_and_kept_where_they_are() -> None:
    gray = Image.new("I", (64, 64), 1000)
    gray.paste(60_000, (0, 0, 32, 64))
    body = samples.encoded(gray.convert("I;16"), "PNG")
    for target in ("jpg", "webp", "gif", "bmp", "avif"):
        small = opened(changed(body, target, mode="fit", size=32)).convert("L")
        assert small.getpixel((4, 4)) == pytest.approx(255, abs=4)
        assert small.getpixel((28, 4)) == pytest.approx(0, abs=4)
    for target in ("png", "tiff"):
        # Resizing overshoots at an edge, beyond what 16 bits hold.
        edge = Image.new("I;16", (64, 64), 0)
        edge.paste(65_535, (0, 0, 31, 64))
        sharp = opened(changed(samples.encoded(edge, "PNG"), target, mode="fit", size=20))
        assert (sharp.getpixel((0, 5)), sharp.getpixel((8, 5)), sharp.getpixel((11, 5))) == (65_535, 65_535, 0)
        small = opened(changed(body, target, mode="fit", size=32))
        assert (small.mode, small.getpixel((4, 4)), small.getpixel((28, 4))) == ("I;16", 60_000, 1000)
    padded = opened(changed(body, "png", mode="pad", size=100))
    assert [padded.getpixel((x, 50)) for x in (2, 30, 70)] == [255, 255, 0]


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "TIFF", "AVIF"])
@pytest.mark.parametrize("how", [{}, {"mode": "fit", "size": 80}, {"mode": "pad", "size": 80, "background": "#808080"}])
def test_grey_stays_gray(how: dict[str, Any], format_: str) -> None:
    body = samples.encoded(Image.linear_gradient("L"), format_)
    for target in {"jpg", "bmp", "tiff"} - {format_.lower()}:
        if how or format_ != "JPEG" or target != "jpg":
            assert opened(changed(body, target, **how)).mode == "L"
    colored = opened(changed(body, "png", mode="pad", size=300, background="#ff0000"))
    assert colored.getpixel((0, 0)) == (255, 0, 0)


def test_the_numbers_of_a_mask_are_kept_when_its_size_is() -> None:
    mask = Image.new("P", (60, 40), 3)
    mask.putpalette([value for number in range(8) for value in (number * 30, 0, 255 - number)])
    mask.paste(7, (10, 10, 20, 20))
    body = samples.encoded(mask, "PNG", exif=with_tags(3))
    kept = opened(changed(body, "png", strip=True))
    assert kept.mode == "P"
    assert sorted(kept.getcolors() or []) == [(100, 7), (2300, 3)]
    assert kept.getpixel((45, 25)) == 7


@pytest.mark.parametrize("name", [name for name in samples.VARIANTS if not name.startswith(("heic", "jxl"))])
def test_a_file_that_needs_no_change_is_not_converted(name: str) -> None:
    body = samples.variant(name)
    format_ = name.partition("-")[0]
    cases: tuple[dict[str, Any], ...] = (
        {},
        {"mode": "fit", "size": 160},
        {"mode": "fit", "size": 1000},
        {"mode": "shortest", "size": 120},
        {"mode": "cover", "size": 160},
        {"quality": 10, "background": "#000000"},
    )
    for how in cases:
        assert convert(body, Conversion(format=format_, **how), LIMITS) is None
    if format_ in ("jpg", "bmp", "avif") or name == "webp":
        assert convert(body, Conversion(format=format_, strip=True), LIMITS) is None
    if format_ in ("jpg", "webp", "tiff", "png", "avif"):
        turned = samples.encoded(samples.scene(), PILLOW.get(format_, format_), exif=with_tags(6))
        assert convert(turned, Conversion(format=format_, orient=False), LIMITS) is None
        assert changed(turned, format_).width == 120
    assert changed(body, format_, mode="pad", size=160).height == 160


@pytest.mark.parametrize("format_", ["jpg", "png", "webp", "tiff", "avif"])
def test_the_location_is_removed_with_metadata_and_kept_otherwise(format_: str) -> None:
    exif = with_tags()
    for source in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        body = samples.encoded(samples.scene(), source, exif=exif)

        kept = opened(changed(body, format_, mode="fit", size=80)).getexif()
        assert kept[MAKE] == "Camera"
        assert kept.get_ifd(GPS)[1] == "N"
        assert kept.get_ifd(GPS)[2] == (52.0, 31.0, 12.0)
        assert kept.get_ifd(EXIF)[EXPOSURE] == 0.5

        stripped = changed(body, format_, mode="fit", size=80, strip=True)
        assert not opened(stripped).getexif().get_ifd(GPS)
        assert b"Camera" not in stripped.body
    # Even if nothing else is to be done.
    body = samples.encoded(samples.scene(), PILLOW.get(format_, format_), exif=exif)
    assert b"Camera" in body
    assert b"Camera" not in changed(body, format_, strip=True).body


def jpegs_with_metadata() -> dict[str, bytes]:
    scene = samples.scene()
    segment = b"\xff\xed\0\x10Photoshop 3.0\0"
    return {
        "comment": samples.encoded(scene, "JPEG", comment=b"secret"),
        "xmp": samples.encoded(scene, "JPEG", xmp=b"<secret/>"),
        "photoshop": JPEG[:2] + segment + JPEG[2:],
        "second image": samples.encoded(scene, "MPO", save_all=True, append_images=[samples.scene(seed=1)]),
        "appended": JPEG + b"secret",
        "another image appended": JPEG + samples.encoded(scene, "JPEG", comment=b"secret"),
        "thumbnail": JPEG[:4] + b"\0\x16" + JPEG[6:18] + b"\1\2secret" + JPEG[20:],
        "more than colors": JPEG[:2] + b"\xff\xee\0\x14Adobe\0\x64\0\0\0\0\1secret" + JPEG[2:],
    }


def others_with_metadata() -> dict[str, bytes]:
    webp, avif, bmp = samples.variant("webp"), samples.variant("avif"), samples.variant("bmp")
    longer = (int.from_bytes(webp[4:8], "little") + 14).to_bytes(4, "little")
    return {
        "webp": webp + b"secret",
        "webp with a chunk": webp[:4] + longer + webp[8:] + b"junk\6\0\0\0secret",
        "avif": avif + b"\0\0\0\x0euuidsecret",
        "bmp": bmp + b"secret",
    }


@pytest.mark.parametrize("name", others_with_metadata())
def test_what_is_behind_other_images_is_removed_as_well(name: str) -> None:
    body, format_ = others_with_metadata()[name], name.partition(" ")[0]
    assert b"secret" not in changed(body, format_, strip=True).body
    assert convert(body, Conversion(format=format_), LIMITS) is None


@pytest.mark.parametrize("body", jpegs_with_metadata().values(), ids=jpegs_with_metadata())
def test_all_other_metadata_is_removed_as_well(body: bytes) -> None:
    assert convert(body, Conversion(format="jpg"), LIMITS) is None
    stripped = changed(body, "jpg", strip=True)
    assert b"secret" not in stripped.body
    assert b"Photoshop" not in stripped.body
    assert len(stripped.body) < 1.5 * len(JPEG)
    assert convert(stripped.body, Conversion(format="jpg", strip=True), LIMITS) is None


@pytest.mark.parametrize("format_", ["PNG", "GIF", "TIFF", "WEBP"])
def test_comments_of_other_formats_are_removed_too(format_: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret")
    metadata: dict[str, dict[str, Any]] = {
        "PNG": {"pnginfo": text},
        "GIF": {"comment": b"secret"},
        "TIFF": {"description": "secret"},
        "WEBP": {"xmp": b"secret"},
    }
    body = samples.encoded(samples.scene(), format_, **metadata[format_])
    assert b"secret" in body
    assert b"secret" not in changed(body, format_.lower(), strip=True).body
    if format_ != "TIFF":  # A description is part of EXIF.
        assert b"secret" not in changed(body, format_.lower(), mode="fit", size=80).body


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nothing", b"\xff" * 50])
def test_broken_metadata_rejects_no_image(exif: bytes) -> None:
    body = samples.encoded(samples.scene(), "WEBP", exif=exif)
    assert opened(changed(body, "jpg")).size == (160, 120)
    assert convert(body, Conversion(format="webp"), LIMITS) is None


def test_metadata_that_a_jpeg_cannot_hold_is_left_out() -> None:
    body = samples.encoded(samples.scene(), "PNG", exif=with_tags(description="x" * 70_000))
    assert not opened(changed(body, "jpg")).getexif()


@pytest.mark.parametrize("format_", WRITTEN_FORMATS)
def test_the_same_image_becomes_the_same_bytes(format_: str) -> None:
    body = samples.encoded(samples.scene(400, 300), "PNG", exif=with_tags(6))
    conversion = Conversion(format=format_, mode="cover", size=150)

    async def story(decoder: Decoder) -> list[Converted | None]:
        return [await decoder.convert(body, conversion) for _ in range(2)]

    one, other = run(story)
    assert one
    assert one == other == convert(body, conversion, LIMITS)


def test_quality_changes_the_size() -> None:
    for format_ in ("jpg", "webp", "avif"):
        sizes = [len(changed(samples.variant("png"), format_, quality=quality).body) for quality in (20, 80, 97)]
        assert sizes == sorted(sizes)
    samplings = [changed(samples.variant("png"), "jpg", quality=quality).body for quality in (90, 95)]
    # Of the luminance's component (T.81, B.2.2): by how much it is finer than the others.
    assert [body[body.index(b"\xff\xc0") + 11] for body in samplings] == [0x22, 0x11]


def test_an_image_that_would_become_too_large_is_rejected() -> None:
    for conversion, limits, reason in (
        (Conversion(format="png", mode="pad", size=8192), LIMITS, Reason.TOO_MANY_PIXELS),
        (Conversion(format="png", mode="fit", size=1200, only_shrink=False), SMALL, Reason.TOO_MANY_PIXELS),
        (Conversion(format="webp", mode="fit", size=16_384, only_shrink=False), LIMITS, Reason.TOO_MANY_PIXELS),
    ):
        with pytest.raises(RejectedError) as rejected:
            convert(
                samples.encoded(samples.scene(160, 12 if conversion.format == "webp" else 120), "PNG"),
                conversion,
                limits,
            )
        assert rejected.value.reason is reason


async def settled(decoder: Decoder, body: bytes, conversion: Conversion) -> Converted | Reason | None:
    try:
        return await decoder.convert(body, conversion)
    except RejectedError as rejected:
        return rejected.reason


def test_hostile_files_are_rejected_with_their_reason_and_the_process_survives() -> None:
    conversion = Conversion(format="jpg", mode="fit", size=64)
    large = samples.encoded(samples.scene(1600, 1200), "JPEG", quality=93)

    async def story(decoder: Decoder) -> None:
        await decoder.inspect(JPEG)
        pid = decoder.pid
        for make, reason in samples.hostile().values():
            body = make()
            assert await settled(decoder, body, conversion) is reason
        for body in (large[:-500], samples.variant("png")[:-60], samples.variant("webp")[:-60]):
            assert await settled(decoder, body, conversion) is Reason.CORRUPT
        assert await settled(decoder, b"", conversion) is Reason.EMPTY
        assert await settled(decoder, b"<html>", conversion) is Reason.NOT_AN_IMAGE
        assert isinstance(await settled(decoder, JPEG, conversion), Converted)
        assert decoder.pid == pid

    run(story)


async def address_space(decoder: Decoder) -> int:
    """Return the bytes of address space of its process after an image: it depends on the machine."""
    await decoder.inspect(JPEG)
    return address_space_of(decoder.pid)


def address_space_of(pid: int | None) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmSize" in line)
    return int(line.split()[1]) * 1024


def test_an_image_that_needs_too_much_memory_is_rejected_and_the_process_survives() -> None:
    body = samples.encoded(Image.new("L", (7000, 7000), 128), "JPEG")

    async def story(decoder: Decoder) -> None:
        await decoder.inspect(JPEG)
        pid = decoder.pid
        assert await settled(decoder, body, Conversion(format="png")) is Reason.TOO_MANY_PIXELS
        # Scaled down inside the decoder, it takes next to none.
        small = await settled(decoder, body, Conversion(format="png", mode="fit", size=500))
        assert isinstance(small, Converted)
        # What a lack of memory is called by encoders says nothing against the image.
        scene = samples.encoded(samples.scene(2400, 1800), "JPEG")
        assert await settled(decoder, scene, Conversion(format="webp")) is Reason.TOO_MANY_PIXELS
        assert decoder.pid == pid

    run(story, Limits(memory_bytes=run(address_space) + 16 * 2**20))


def test_an_image_that_cannot_be_encoded_as_avif_in_the_memory_that_is_left_is_rejected_before_it_is_tried() -> None:
    body = samples.encoded(samples.scene(800, 600).resize((4000, 3000)), "WEBP", lossless=True, quality=0, method=0)

    async def story(decoder: Decoder) -> None:
        await decoder.inspect(JPEG)
        pid = decoder.pid
        with pytest.raises(RejectedError, match="4000x3000 pixels take 286 MB to be encoded as AVIF") as rejected:
            await decoder.convert(body, Conversion(format="avif"))
        assert rejected.value.reason is Reason.TOO_MANY_PIXELS
        assert isinstance(await settled(decoder, JPEG, Conversion(format="avif")), Converted)
        assert decoder.pid == pid

    run(story, Limits(memory_bytes=400 * 2**20))


def test_forty_megapixels_become_several_megabytes() -> None:
    scene = samples.scene(800, 500).resize((8000, 5000), Image.Resampling.NEAREST)
    body = samples.encoded(scene, "JPEG", quality=90, exif=with_tags(6))

    async def story(decoder: Decoder) -> tuple[Converted | None, ImageFacts]:
        return await asyncio.gather(decoder.convert(body, Conversion(format="jpg")), decoder.inspect(JPEG))

    converted, facts = run(story)
    assert converted
    assert facts.width == 160
    assert len(converted.body) > 2_000_000
    assert Image.open(BytesIO(converted.body)).size == (converted.width, converted.height) == (5000, 8000)


def test_a_response_of_tens_of_megabytes_is_received_quickly() -> None:
    body = samples.encoded(Image.new("RGB", (4000, 4000), "red"), "PNG", compress_level=1)

    async def story(decoder: Decoder) -> tuple[Converted | None, float]:
        begun = time.process_time()  # of the worker, however busy the machine is
        return await decoder.convert(body, Conversion(format="bmp")), time.process_time() - begun

    converted, seconds = run(story)
    assert converted
    assert len(converted.body) == 48_000_054
    assert seconds < 1.5, "looking at all of it again for every piece takes ten times as long"


def test_conversions_and_inspections_are_served_in_order() -> None:
    bodies = [samples.encoded(samples.scene(400, 300, seed=seed), "JPEG") for seed in range(20)]
    served: list[int] = []

    async def ask(decoder: Decoder, number: int) -> object:
        body = bodies[number // 2]
        try:
            if number % 2:
                return (await decoder.inspect(body)).width
            # Some leave the socket behind them full, some are nothing, and one is rejected.
            format_ = ("bmp", "png", "jpg")[number // 2 % 3]
            return await decoder.convert(b"<html>" if number == 20 else body, Conversion(format=format_))
        except RejectedError as rejected:
            return rejected.reason
        finally:
            served.append(number)

    async def story(decoder: Decoder) -> list[object]:
        return await asyncio.gather(*(ask(decoder, number) for number in range(40)))

    responses = run(story)
    assert served == list(range(40))
    assert responses[1::2] == [400] * 20
    for number, body in enumerate(bodies):
        expected = convert(body, Conversion(format=("bmp", "png", "jpg")[number % 3]), LIMITS)
        assert responses[2 * number] == (Reason.NOT_AN_IMAGE if number == 10 else expected)


def test_many_large_responses_at_once_do_not_wait_for_each_other() -> None:
    conversion = Conversion(format="bmp")
    body = samples.encoded(Image.new("RGB", (400, 300), "red"), "PNG")

    async def story(decoder: Decoder) -> tuple[float, float]:
        await decoder.inspect(JPEG)

        async def take(at_once: int) -> float:
            begun = time.perf_counter()
            for _ in range(32 // at_once):
                await asyncio.gather(*(decoder.convert(body, conversion) for _ in range(at_once)))
            return time.perf_counter() - begun

        # In turns, and the best of each: a busy machine can only add to them.
        few, many = zip(*[(await take(4), await take(32)) for _ in range(3)], strict=True)
        return min(few), min(many)

    few, many = run(story)
    assert many < 3 * few + 0.1, "a rest of 50 ms before each answer would take ten times as long"


def test_random_damage_is_converted_or_rejected_and_does_not_kill_the_process() -> None:
    chance = random.Random(3)
    # Formats and sizes in turn, with metadata to be damaged.
    cases: tuple[dict[str, Any], ...] = (
        {},
        {"mode": "fit", "size": 30},
        {"mode": "cover", "size": 30, "strip": True},
        {"mode": "pad", "size": 30},
    )
    conversions = [Conversion(format=format_, **how) for format_ in WRITTEN_FORMATS for how in cases]

    def damaged(name: str) -> bytes:
        format_, options = samples.VARIANTS[name]
        # Pillow writes no EXIF with compressed data of a TIFF.
        exif = {"exif": with_tags(6)} if format_ not in ("GIF", "BMP") and name != "tiff-deflate" else {}
        body = bytearray(samples.encoded(samples.scene(48, 40), format_, **options | exif))
        for _ in range(chance.randint(1, 4)):
            where = chance.randrange(min(len(body), 300) if chance.random() < 0.5 else len(body))
            body[where] = chance.randrange(256)
        return bytes(body)

    async def story(decoder: Decoder) -> tuple[list[Converted | Reason | None], set[int | None]]:
        responses: list[Converted | Reason | None] = []
        pids: set[int | None] = set()
        for number in range(25 * len(samples.VARIANTS)):
            body = damaged(list(samples.VARIANTS)[number % len(samples.VARIANTS)])
            responses.append(await settled(decoder, body, chance.choice(conversions)))
            pids.add(decoder.pid)
        return responses, pids

    responses, pids = run(story, SMALL)

    assert len(pids) == 1
    assert 50 < sum(isinstance(answer, Converted) for answer in responses) < 290
    for answer in responses:
        if isinstance(answer, Converted):
            opened(answer)


def test_a_jpeg_that_is_only_turned_keeps_its_own_quality() -> None:
    for quality in (60, 97):
        body = samples.encoded(samples.scene(320, 200), "JPEG", quality=quality, exif=with_tags(6))
        turned = changed(body, "jpg")
        with Image.open(BytesIO(body)) as before, Image.open(BytesIO(turned.body)) as after:
            assert isinstance(before, JpegImagePlugin.JpegImageFile)
            assert isinstance(after, JpegImagePlugin.JpegImageFile)
            assert after.quantization == before.quantization
            assert JpegImagePlugin.get_sampling(after) == JpegImagePlugin.get_sampling(before)
        assert abs(len(turned.body) - len(body)) < len(body) / 5

import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import headers
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits


def test_every_limit_can_be_met_and_not_exceeded() -> None:
    body = samples.encoded(samples.scene(), "GIF", save_all=True, append_images=[samples.scene(seed=1)])
    exact = {"max_pixels": 160 * 120, "max_side": 160, "max_frames": 2, "max_frame_pixels": 2 * 160 * 120}
    assert inspect_bytes(body, Limits(**exact)).frames == 2

    for name, value in exact.items():
        with pytest.raises(RejectedError) as rejection:
            inspect_bytes(body, Limits(**exact | {name: value - 1}))
        assert rejection.value.reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    ("body", "limit", "at_least", "words"),
    [
        (samples.jpeg_of_scans(7), "max_scans", 7, "scans"),
        (samples.variant("jpg"), "max_segments", 6, "segments before its first scan"),
        (samples.jpeg_with(b"\xff" * 50), "max_padding_bytes", 50, "bytes between its segments"),
        (samples.png_with(samples.png_chunk(b"zTXt", b"a\0\0")), "max_compressed_chunks", 1, "profiles and texts"),
        (samples.png_with(samples.png_chunk(b"abCd", b"") * 50), "max_blocks", 50, "blocks in"),
        (samples.gif_with(b"!\xfe" + b"\1a" * 50 + b"\0"), "max_blocks", 50, "blocks in"),
        (samples.webp_of_chunks(50), "max_blocks", 50, "blocks in"),
        (samples.avif_with(samples.box(b"free", b"") * 50), "max_blocks", 50, "blocks in"),
        (samples.avif_with(samples.nested_boxes(5)), "max_box_depth", 5, "boxes inside each other"),
        (samples.variant("avif"), "max_items", 3, "entries in its tables of items"),
        (samples.variant("tiff"), "max_tags", 8, "tags in a directory"),
    ],
)
def test_a_limit_of_structure_can_be_met_and_is_named_when_it_is_exceeded(
    body: bytes, limit: str, at_least: int, words: str
) -> None:
    def rejection(maximum: int) -> RejectedError | None:
        if limit == "max_blocks":
            maximum -= len(body) // 64
        try:
            headers.read(body, Limits(**{limit: maximum}))
        except RejectedError as rejected:
            return rejected
        return None

    count = next(maximum for maximum in range(1, 200) if rejection(maximum) is None)
    rejected = rejection(count - 1)
    assert at_least <= count <= at_least + 20
    assert rejected is not None
    assert rejected.reason is Reason.TOO_COMPLEX
    assert f"more than {count - 1} {words}" in rejected.detail


SCENE = samples.scene(64, 48)


@pytest.mark.parametrize(
    ("body", "pixel_bytes"),
    [
        (samples.variant("jpg"), 0),
        (samples.encoded(SCENE, "JPEG", progressive=True, subsampling="4:2:0"), 3),
        (samples.encoded(SCENE, "JPEG", progressive=True, subsampling="4:2:2"), 4),
        (samples.encoded(SCENE, "JPEG", progressive=True, subsampling="4:4:4"), 6),
        (samples.encoded(SCENE.convert("CMYK"), "JPEG", progressive=True), 8),
        (samples.encoded(SCENE.convert("L"), "JPEG", progressive=True), 2),
        (samples.variant("png"), 4),
        (samples.encoded(SCENE.convert("L"), "PNG"), 1),
        (samples.encoded(SCENE.convert("P"), "PNG"), 1),
        (samples.encoded(Image.new("I;16", (64, 48)), "PNG"), 3),
        (samples.variant("webp"), 1),
        (samples.variant("webp-lossless"), 4),
        (samples.encoded(SCENE.convert("RGBA").rotate(9), "WEBP"), 3),
        (samples.encoded(SCENE, "WEBP", save_all=True, append_images=[samples.scene(64, 48, seed=1)]), 20),
        (samples.variant("gif"), 2),
        (samples.variant("bmp"), 4),
        (samples.encoded(SCENE.convert("P"), "BMP"), 1),
        (samples.variant("tiff"), 4),
        (samples.encoded(SCENE.convert("L"), "TIFF"), 1),
        (samples.encoded(SCENE, "TIFF", compression="tiff_lzw", strip_size=2**31 - 1), 7),
        (samples.encoded(samples.scene(640, 480), "TIFF", compression="tiff_lzw", strip_size=640 * 3 * 48), 4.3),
        (samples.variant("avif"), 9),
        (samples.variant("heic"), 6),
        (samples.variant("jxl"), 9),
        (samples.encoded(SCENE.convert("RGBA"), "JXL"), 12),
    ],
)
def test_an_image_that_takes_more_memory_than_allowed_is_rejected_before_it_is_decoded(
    body: bytes, pixel_bytes: float
) -> None:
    header = headers.read(body, Limits())
    assert header.pixel_bytes == pytest.approx(pixel_bytes)
    needed = round(header.width * header.height * pixel_bytes)

    inspect_bytes(body, Limits(max_decoded_bytes=needed))
    if needed:
        with pytest.raises(RejectedError, match="of such pixels take") as rejected:
            inspect_bytes(body, Limits(max_decoded_bytes=needed - 1))
        assert rejected.value.reason is Reason.TOO_MANY_PIXELS


def test_a_jpeg_of_several_scans_that_is_not_progressive_has_its_coefficients_kept() -> None:
    body = bytearray(samples.variant("jpg-444"))
    scan = body.index(b"\xff\xda")
    body[scan + 4] = 1

    assert headers.read(bytes(body), Limits()).pixel_bytes == 6

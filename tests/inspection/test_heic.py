import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.inspection.inspector import inspect_bytes, measure_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()


@pytest.mark.parametrize("alpha", [False, True])
def test_a_large_one_has_the_facts_of_the_same_image_in_another_format(*, alpha: bool) -> None:
    scene = samples.scene(1601, 1203)
    if alpha:
        scene.putalpha(Image.radial_gradient("L").resize(scene.size))
    body = samples.encoded(scene.copy(), "HEIF", quality=90)
    facts, plain = inspect_bytes(body, LIMITS), inspect_bytes(samples.encoded(scene, "PNG"), LIMITS)

    assert (facts.format, facts.width, facts.height, facts.mode) == ("heic", 1601, 1203, plain.mode)
    assert (facts.phash ^ plain.phash).bit_count() <= 4
    assert (facts.dhash ^ plain.dhash).bit_count() <= 6
    assert measure_bytes(body, LIMITS, strict=False)[1].transparent is alpha


@pytest.mark.parametrize("size", [(160, 120), (1601, 1203)])
def test_one_of_gray_with_more_than_a_byte_is_the_same_whatever_its_size(size: tuple[int, int]) -> None:
    gray = samples.scene(*size).convert("L")
    body = samples.encoded(gray.point(lambda value: value * 257, "I").convert("I;16"), "HEIF", quality=90)
    facts, plain = inspect_bytes(body, LIMITS), inspect_bytes(samples.encoded(gray, "PNG"), LIMITS)

    assert (facts.width, facts.height, facts.mode) == (*size, "I;16")
    assert (facts.phash ^ plain.phash).bit_count() <= 4
    assert measure_bytes(body, LIMITS, strict=False)[1].entropy > 5


def test_a_large_one_that_is_turned_is_turned_once_and_keeps_its_place() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N"}
    body = samples.encoded(samples.scene(1600, 1200), "HEIF", exif=exif.tobytes())

    facts = inspect_bytes(body, LIMITS)
    _, measured = measure_bytes(body, LIMITS, strict=False)

    assert (facts.width, facts.height) == (1200, 1600)
    assert (measured.orientation, measured.gps) == (1, True)

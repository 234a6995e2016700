"""Sound JPEGs are decoded by TurboJPEG: the same pixels as Pillow's. All others are left to Pillow."""

import contextlib
import functools
import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import jpeg
from pixcrawler_worker.inspection.inspector import inspect_bytes, measure_bytes
from pixcrawler_worker.inspection.limits import Limits

SIZES = [(1, 1), (7, 500), (129, 129), (257, 258), (258, 258), (640, 427), (1031, 700), (2000, 300)]


def opened(body: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(body), formats=["JPEG"])
    image.draft("RGB", (129, 129))
    return image


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 97}], ids=str)
def test_pixels_are_those_of_pillow(mode: str, options: dict[str, object]) -> None:
    for width, height in SIZES:
        body = samples.encoded(samples.scene(width, height, seed=width).convert(mode), "JPEG", **options)
        decoded = jpeg.decoded(body, opened(body))
        assert decoded is not None
        assert (decoded.mode, decoded.size) == (mode, opened(body).size)
        assert np.array_equal(np.asarray(decoded), np.asarray(opened(body)))
    trailing = body + b"\xff\xd8 another one"
    assert np.array_equal(np.asarray(jpeg.decoded(trailing, opened(trailing))), np.asarray(opened(body)))


def test_other_colors_are_left_to_pillow() -> None:
    body = samples.encoded(samples.scene().convert("CMYK"), "JPEG")
    assert jpeg.decoded(body, opened(body)) is None
    assert measure_bytes(body, Limits(), strict=False)[0].mode == "CMYK"


def test_a_truncated_file_is_rejected_and_a_repaired_one_measured_as_pillow_repairs_it() -> None:
    body = samples.encoded(samples.scene(640, 480), "JPEG")
    cut = body[: len(body) // 2]
    assert jpeg.decoded(cut, opened(cut)) is None
    with pytest.raises(RejectedError) as rejected:
        measure_bytes(cut, Limits(), strict=False)
    assert rejected.value.reason is Reason.CORRUPT
    damaged = bytearray(body)
    damaged[len(body) // 2 : len(body) // 2 + 20] = b"\xff\xd3" * 10
    assert jpeg.decoded(bytes(damaged), opened(bytes(damaged))) is None
    assert (
        measure_bytes(bytes(damaged), Limits(), strict=False)[0].sha256
        == inspect_bytes(bytes(damaged), Limits()).sha256
    )


def repaired(body: bytes) -> bool:
    """Return whether TurboJPEG, decoding an eighth of each side, stops at what it would repair."""
    try:
        simplejpeg.decode_jpeg(body, colorspace="GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError:
        return True
    return False


@functools.cache
def of_mode(mode: str, *, progressive: bool) -> bytes:
    return samples.encoded(samples.scene(300, 200).convert(mode), "JPEG", progressive=progressive)


@given(
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    progressive=st.booleans(),
    at=st.floats(0, 1, exclude_max=True),
    removed=st.integers(0, 20),
    added=st.binary(max_size=20),
)
def test_what_strict_decoding_stops_at_is_found_without_decoding_a_sound_file_twice(
    *, mode: str, progressive: bool, at: float, removed: int, added: bytes
) -> None:
    body = of_mode(mode, progressive=progressive)
    position = int(at * len(body))
    body = body[:position] + added + body[position + removed :]
    with contextlib.suppress(RejectedError):
        _, measured = measure_bytes(body, Limits(), strict=True)
        assert (measured.strict_error is not None) == repaired(body)

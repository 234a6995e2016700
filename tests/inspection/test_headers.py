import struct

import pytest
from inspection import samples

from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.inspection import headers
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()


@pytest.mark.parametrize("name", ["png", "webp", "gif", "avif"])
def test_a_truncated_container_is_rejected_before_it_is_decoded(name: str) -> None:
    with pytest.raises(RejectedError, match="the file ends"):
        headers.read(samples.variant(name)[:-30], LIMITS)


@pytest.mark.parametrize("body", [samples.gif(9, 9, frames=1000), samples.tiff(9, 9, pages=1000)])
def test_frames_are_counted_up_to_the_limit_only(body: bytes) -> None:
    assert headers.read(body, Limits(max_frames=5)).frames == 6


def photograph_of(scans: int) -> bytes:
    return samples.jpeg_of_scans(scans, extra=b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\2" * 600)


REAL = {
    "a progressive JPEG of 200 scans, and a video after it": photograph_of(200),
    "a JPEG with a profile of 255 segments": samples.jpeg_with(samples.jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1") * 255),
    "a JPEG with a megabyte of metadata that looks like scans": samples.jpeg_with(
        samples.jpeg_segment(0xE1, b"\xff\xda\0\2" * 15_000) * 17
    ),
    "a PNG of 9,000 pieces": samples.png_with(samples.png_chunk(b"IDAT", b"") * 9_000),
    "a GIF of 500 frames": samples.gif(9, 9, frames=500),
    "a TIFF of 500 pages": samples.tiff(9, 9, pages=500),
}


@pytest.mark.parametrize("body", REAL.values(), ids=REAL)
def test_what_encoders_and_cameras_write_is_not_too_complex(body: bytes) -> None:
    assert headers.read(body, LIMITS).width in (9, 90, 160)


def test_a_scan_behind_metadata_that_holds_scans_is_counted_exactly() -> None:
    metadata = samples.jpeg_segment(0xE1, b"\xff\xda\0\2" * 500)
    body = samples.jpeg_of_scans(5)
    first = body.index(b"\xff\xda")
    hidden = body[:first] + body[first:].replace(b"\xff\xc4", metadata + b"\xff\xc4", 1)

    headers.read(hidden, Limits(max_scans=5))
    with pytest.raises(RejectedError, match="more than 4 scans"):
        headers.read(hidden, Limits(max_scans=4))


def test_a_large_jpeg_may_have_fewer_scans_since_each_costs_its_pixels() -> None:
    body = samples.jpeg_of_scans(8)  # of 160x120

    headers.read(body, Limits(max_scan_pixels=8 * 160 * 120))
    with pytest.raises(RejectedError, match="more than 7 scans"):
        headers.read(body, Limits(max_scan_pixels=8 * 160 * 120 - 1))


def test_an_arithmetic_jpeg_may_have_fewer_scans_since_a_bit_of_it_stands_for_any_number_of_decisions() -> None:
    body = samples.jpeg_of_scans(8).replace(b"\xff\xc2", b"\xff\xca")

    headers.read(body, Limits(max_arithmetic_scan_pixels=8 * 160 * 120))
    with pytest.raises(RejectedError, match="more than 7 scans"):
        headers.read(body, Limits(max_arithmetic_scan_pixels=8 * 160 * 120 - 1))


def test_an_arithmetic_jpeg_may_hold_more_pixels_in_a_byte() -> None:
    frame = samples.jpeg_segment(0xC9, struct.pack(">BHHB", 8, 1000, 1000, 1) + b"\1\x11\0")
    scan = samples.jpeg_segment(0xDA, b"\1\1\0\0\x3f\0")

    assert headers.read(b"\xff\xd8" + frame + scan + bytes(200), LIMITS).width == 1000

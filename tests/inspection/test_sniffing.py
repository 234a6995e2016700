import pytest
from inspection import samples

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()


def rejection(body: bytes) -> RejectedError:
    with pytest.raises(RejectedError) as rejected:
        inspect_bytes(body, LIMITS)
    return rejected.value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"<!DOCTYPE html><html><body><svg></svg></body></html>", "an HTML page"),
        (b"\xef\xbb\xbf\n<html lang=en>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"<Error/>", "markup"),
        (b'{"error": "not found"}', "JSON"),
        (b"not found", "text"),
        (b"P1 is not a format", "text"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41isom", "an ISO media file of brand 'isom', but not AVIF"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a RIFF file, but not WebP"),
        (b"\0", "a file of no known format"),
        (b"\xff\xd8", "a file of no known format"),
    ],
)
def test_a_file_that_is_not_an_image_is_rejected_with_a_guess_of_its_type(body: bytes, words: str) -> None:
    rejected = rejection(body)
    assert (rejected.reason, rejected.detail) == (Reason.NOT_AN_IMAGE, f"it looks like {words}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"<svg>", "an SVG drawing"),
        (b"8BPS\0\1", "a Photoshop file (PSD)"),
        (samples.icon_holding(samples.variant("png")), "an icon (ICO)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIF image, but not AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a Canon raw image (CR3)"),
        (b"II+\0\x08\0\0\0", "a BigTIFF image"),
        (b"MM\0+\0\x08\0\0", "a BigTIFF image"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000 image"),
        (b"II\xbc\1", "a JPEG XR image"),
        (b"P6\n2 2\n255\n", "a PNM image"),
        (b"qoif\0\0", "a QOI image"),
    ],
)
def test_an_image_of_another_format_is_rejected_with_its_name(body: bytes, words: str) -> None:
    rejected = rejection(body)
    assert (rejected.reason, rejected.detail) == (
        Reason.UNSUPPORTED_FORMAT,
        f"it looks like {words}, which is not supported",
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (samples.jpeg_lossless(16, 16), "a lossless JPEG (SOF3)"),
        (samples.jpeg_of_frame(0xC5), "a hierarchical JPEG"),
        (samples.jpeg_of_frame(0xCB), "a lossless arithmetic JPEG (SOF11)"),
        (samples.jpeg_of_frame(0xF7), "a JPEG-LS"),
        (samples.jpeg_of_frame(0xC1, bits=12), "a JPEG of 12 bits"),
    ],
)
def test_a_jpeg_of_a_kind_that_is_not_decoded_is_named(body: bytes, words: str) -> None:
    rejected = rejection(body)
    assert (rejected.reason, rejected.detail) == (
        Reason.UNSUPPORTED_FORMAT,
        f"it is {words}, which is not supported",
    )

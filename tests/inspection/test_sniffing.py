import pytest
from inspection import samples

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"\xef\xbb\xbf\n<html lang=en>", "an HTML page"),
        (b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"<Error/>", "markup"),
        (b'{"error": "not found"}', "JSON"),
        (b"not found", "text"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"8BPS\0\1", "a Photoshop file"),
        (samples.icon_holding(samples.variant("png")), "an icon (ICO)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "an ISO media file of brand 'heic', but not AVIF"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a RIFF file, but not WebP"),
        (b"II+\0\x08\0\0\0", "a BigTIFF image"),
        (b"\0", "a file of no known format"),
        (b"\xff\xd8", "a file of no known format"),
    ],
)
def test_a_file_that_is_not_an_image_is_rejected_with_a_guess_of_its_type(body: bytes, words: str) -> None:
    with pytest.raises(RejectedError, match=words.replace("(", r"\(").replace(")", r"\)")) as rejection:
        inspect_bytes(body, LIMITS)
    assert rejection.value.reason is Reason.NOT_AN_IMAGE

import gzip

import pytest
from inspection import samples

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9"/>'
TARGA_HEADER = b"\0\0\2" + bytes(9) + b"\x10\0\x10\0\x18\0"


def rejection(body: bytes) -> RejectedError:
    with pytest.raises(RejectedError) as rejected:
        inspect_bytes(body, LIMITS)
    return rejected.value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"<!DOCTYPE html><html><body><svg></svg></body></html>", "an HTML page"),
        (b"<!-- a page --><!doctype HTML><title>404</title><svg>", "an HTML page"),
        (b"<head><title>404</title></head><svg>", "an HTML page"),
        (b"\xef\xbb\xbf\n<html lang=en>", "an HTML page"),
        ("\ufeff<html>".encode("utf-16-le"), "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"<Error/>", "markup"),
        (b'{"error": "not found"}', "JSON"),
        (b' \n[{"id": 1}]', "JSON"),
        (b"not found", "text"),
        ("nicht gefunden: \u00fcberhaupt nichts".encode(), "text"),
        ("\ufeffnot found".encode("utf-16-be"), "text"),
        (b"P1 is not a format", "text"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"%!PS-Adobe-3.0\n", "a PostScript document"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41isom", "an MP4 video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a QuickTime video"),
        (b"\0\0\0\x10ftypabcd\0\0\0\0", "an ISO media file of brand 'abcd', but not AVIF"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x84webm", "a WebM video"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x88matroska", "a Matroska video"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "WAV audio"),
        (b"RIFF\x24\0\0\0AVI LIST", "an AVI video"),
        (b"RIFF\x24\0\0\0abcd", "a RIFF file, but not WebP"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (gzip.compress(b"nothing to see here", mtime=0), "gzip data"),
        (b"\x1f\x8bbroken", "gzip data"),
        (b"\0", "a file of no known format"),
        (b"\xff\xd8", "a file of no known format"),
        (bytes(range(200, 256)), "a file of no known format"),
    ],
)
def test_a_file_that_is_not_an_image_is_rejected_with_a_guess_of_its_type(body: bytes, words: str) -> None:
    rejected = rejection(body)
    assert (rejected.reason, rejected.detail) == (Reason.NOT_AN_IMAGE, f"it looks like {words}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (SVG, "an SVG drawing"),
        (b"<svg>", "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- a drawing -->\n' + SVG, "an SVG drawing"),
        (b"\xef\xbb\xbf\r\n" + SVG, "an SVG drawing"),
        (("\ufeff" + SVG.decode()).encode("utf-16-le"), "an SVG drawing"),
        (("\ufeff" + SVG.decode()).encode("utf-16-be"), "an SVG drawing"),
        (b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd" [<!ENTITY a "b">]>' + SVG, "an SVG drawing"),
        (b"<!-- html: <html> -->" * 9 + b"<svg:svg xmlns:svg='a'/>", "an SVG drawing"),
        (b"<svg><foreignObject><html><body/></html></foreignObject></svg>", "an SVG drawing"),
        (b"<!--" + b"a comment, a long one " * 180 + b"-->" + SVG, "an SVG drawing"),
        (gzip.compress(b'<?xml version="1.0"?>' + SVG, mtime=0), "an SVG drawing"),
        (b"8BPS\0\1", "a Photoshop file (PSD)"),
        (samples.icon_holding(samples.variant("png")), "an icon (ICO)"),
        (b"icns\0\0\1\0", "an icon of macOS (ICNS)"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf", "a HEIF image, but neither AVIF nor HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a Canon raw image (CR3)"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000 image"),
        (b"II\xbc\1", "a JPEG XR image"),
        (b"P6\n2 2\n255\n", "a PNM image"),
        (b"P5 # comment\n 2 2 255\n", "a PNM image"),
        (b"Pf\n2 2\n-1.0\n", "a PNM image"),
        (b"qoif\0\0", "a QOI image"),
        (b"gimp xcf v011\0", "a GIMP file (XCF)"),
        (b"DDS |\0\0\0", "a DirectDraw surface (DDS)"),
        (b"\x76\x2f\x31\x01\2\0\0\0", "an OpenEXR image"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "a Radiance image (HDR)"),
        (b"#?RGBE\nFORMAT=32-bit_rle_rgbe\n", "a Radiance image (HDR)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "an Encapsulated PostScript image (EPS)"),
        (b"\xc5\xd0\xd3\xc6\x1e\0\0\0", "an Encapsulated PostScript image (EPS)"),
        (samples.encoded(samples.scene(9, 9), "TGA"), "a Targa image (TGA)"),
        (samples.encoded(samples.scene(9, 9).convert("L"), "TGA", rle=True), "a Targa image (TGA)"),
        (samples.encoded(samples.scene(9, 9).convert("P"), "TGA"), "a Targa image (TGA)"),
        (TARGA_HEADER + bytes(range(256)) * 3, "a Targa image (TGA)"),
        (samples.encoded(samples.scene(9, 9), "PCX"), "a PCX image"),
        (samples.encoded(samples.scene(9, 9).convert("1"), "PCX"), "a PCX image"),
        (samples.encoded(samples.scene(9, 9), "SGI"), "an SGI image"),
        (samples.encoded(samples.scene(9, 9).convert("1"), "XBM"), "an X bitmap (XBM)"),
        (samples.encoded(samples.scene(9, 9), "JPEG2000"), "a JPEG 2000 image"),
        (samples.encoded(samples.scene(9, 9), "DDS"), "a DirectDraw surface (DDS)"),
        (samples.encoded(samples.scene(16, 16), "ICNS"), "an icon of macOS (ICNS)"),
        (samples.encoded(samples.scene(9, 9), "EPS"), "an Encapsulated PostScript image (EPS)"),
        (bytes(128) + b"DICM", "a DICOM image"),
        (b"FUJIFILMCCD-RAW 0201", "a Fujifilm raw image (RAF)"),
        (b"IIU\0\x18\0\0\0", "a Panasonic raw image (RW2)"),
        (b"IIRO\x08\0\0\0", "an Olympus raw image (ORF)"),
        (b"FOVb\0\0\1\0", "a Sigma raw image (X3F)"),
        (b"II\x1a\0\0\0HEAPCCDR", "a Canon raw image (CRW)"),
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
        (samples.jpeg_of_frame(0xC2, bits=12), "a JPEG of 12 bits"),
        (samples.tiff_of({}, more=b"CR\2\0"), "a Canon raw image (CR2)"),
        (samples.tiff_of({50706: (1, [1, 4, 0, 0])}), "a raw image (DNG)"),
        (
            samples.tiff_of({254: (4, [1]), 330: (4, [8])}),
            "a raw image of a camera (NEF, ARW or another one that is built like a TIFF)",
        ),
        (
            samples.tiff_of({262: (3, [32803])}),
            "a raw image of a camera (NEF, ARW or another one that is built like a TIFF)",
        ),
        (samples.tiff_of({259: (3, [34712])}), "a TIFF of compression 34712"),
        (samples.tiff_of({259: (3, [50001])}), "a TIFF of compression 50001"),
        (samples.bmp_of(compression=4, bits=0), "a BMP that holds a JPEG"),
        (samples.bmp_of(compression=5, bits=0), "a BMP that holds a PNG"),
        (b"\x89PNG\r\n\x1a\n" + samples.png_chunk(b"CgBI", b"\x50\0\x20\2"), "a PNG of Apple's own kind (CgBI)"),
    ],
)
def test_a_kind_of_a_known_format_that_is_not_decoded_is_named(body: bytes, words: str) -> None:
    rejected = rejection(body)
    assert (rejected.reason, rejected.detail) == (
        Reason.UNSUPPORTED_FORMAT,
        f"it is {words}, which is not supported",
    )

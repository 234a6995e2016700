"""Naming what bytes are that are not one of the known image formats, for a log."""

import re
import struct

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: Images of other formats than the seven.
_IMAGES = (
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"II+\0", "a BigTIFF image"),
    (b"MM\0+", "a BigTIFF image"),
    (b"II\xbc", "a JPEG XR image"),
    (b"IIU\0", "a Panasonic raw image (RW2)"),
    (b"IIRO", "an Olympus raw image (ORF)"),
    (b"IIRS", "an Olympus raw image (ORF)"),
    (b"FUJIFILMCCD-RAW", "a Fujifilm raw image (RAF)"),
    (b"qoif", "a QOI image"),
    (b"gimp xcf", "a GIMP file (XCF)"),
    (b"DDS ", "a DirectDraw surface (DDS)"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance image (HDR)"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\x8bJNG", "a JNG image"),
    (b"BPG\xfb", "a BPG image"),
    (b"FLIF", "a FLIF image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"AT&TFORM", "a DjVu document"),
)
#: PBM, PGM, PPM: a digit, comments, and the size. PAM is in lines of text.
_PNM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d|P7\nWIDTH ")
#: Brands of ISO media files that are images.
_IMAGE_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "a HEIC image"),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1", b"miaf"), "a HEIF image, but not AVIF"),
    b"crx ": "a Canon raw image (CR3)",
    b"jxl ": "a JPEG XL image",
}
_OTHERS = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"RIFF", "a RIFF file, but not WebP"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_MARKUP = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
)
#: How far into a file its markup is looked for: beyond any comment or XML declaration in front of it.
_SNIFFED = 1_024


def rejection(body: bytes) -> RejectedError:
    """Return why a file of none of the known formats is rejected: an unsupported image, or no image at all."""
    head = body[:_SNIFFED].removeprefix(b"\xef\xbb\xbf").lstrip()
    if name := _image(body, head):
        return RejectedError(Reason.UNSUPPORTED_FORMAT, f"it looks like {name}, which is not supported")
    return RejectedError(Reason.NOT_AN_IMAGE, f"it looks like {_other(body, head)}")


def _image(body: bytes, head: bytes) -> str | None:
    for prefix, name in _IMAGES:
        if body.startswith(prefix):
            return name
    if _PNM.match(body):
        return "a PNM image"
    if body[4:8] == b"ftyp":
        return next((_IMAGE_BRANDS[brand] for brand in brands(body) if brand in _IMAGE_BRANDS), None)
    lowered = head.lower()
    # A page may hold drawings; a drawing that holds a page is unusual.
    if lowered.startswith(b"<") and b"<svg" in lowered and not any(mark in lowered for mark, _ in _MARKUP[:2]):
        return "an SVG drawing"
    return None


def _other(body: bytes, head: bytes) -> str:
    for prefix, name in _OTHERS:
        if body.startswith(prefix) or head.startswith(prefix):
            return name
    if body[4:8] == b"ftyp":
        return f"an ISO media file of brand {body[8:12].decode('latin-1')!r}, but not AVIF"
    if head.startswith(b"<"):
        lowered = head.lower()
        return next((name for mark, name in _MARKUP if mark in lowered), "markup")
    return "text" if head.isascii() and b"\0" not in head else "a file of no known format"


def brands(body: bytes) -> list[bytes]:
    """Return the brands of an ISO media file's `ftyp` box: the major one, then those it is compatible with."""
    size = min(struct.unpack_from(">I", body.ljust(4))[0], len(body), _SNIFFED)
    return [body[8:12], *(body[at : at + 4] for at in range(16, size - 3, 4))]

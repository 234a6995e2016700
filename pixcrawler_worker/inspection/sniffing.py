"""What bytes that are no picture of ours look like, in words for a log."""

import struct

_PREFIXES = (
    (b"%PDF-", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"II+\0", "a BigTIFF picture"),
    (b"MM\0+", "a BigTIFF picture"),
    (b"qoif", "a QOI picture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"RIFF", "a RIFF file, but no WebP"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_MARKUP = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
)
#: How far into a file its markup is looked for: beyond any comment or XML declaration in front of it.
_SNIFFED = 1_024


def looks_like(body: bytes) -> str:
    """A guess at what `body` is, to be put behind "it looks like"."""
    head = body[:_SNIFFED].removeprefix(b"\xef\xbb\xbf").lstrip()
    for prefix, name in _PREFIXES:
        if body.startswith(prefix) or head.startswith(prefix):
            return name
    if body[4:8] == b"ftyp":
        return f"an ISO media file of brand {body[8:12].decode('latin-1')!r}, but no AVIF"
    if head.startswith(b"<"):
        lowered = head.lower()
        return next((name for mark, name in _MARKUP if mark in lowered), "markup")
    return "text" if head.isascii() and b"\0" not in head else "nothing known"


def brands(body: bytes) -> list[bytes]:
    """The brands of an ISO media file's `ftyp` box: the major one, then those it is compatible with."""
    size = min(struct.unpack_from(">I", body.ljust(4))[0], len(body), _SNIFFED)
    return [body[8:12], *(body[at : at + 4] for at in range(16, size - 3, 4))]

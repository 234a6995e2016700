"""Naming what bytes are that are not one of the known image formats, for a log."""

import struct

_PREFIXES = (
    (b"%PDF-", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"II+\0", "a BigTIFF image"),
    (b"MM\0+", "a BigTIFF image"),
    (b"qoif", "a QOI image"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"RIFF", "a RIFF file, but not WebP"),
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


def describe(body: bytes) -> str:
    """Return what `body` probably is, to follow "it looks like"."""
    head = body[:_SNIFFED].removeprefix(b"\xef\xbb\xbf").lstrip()
    for prefix, name in _PREFIXES:
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

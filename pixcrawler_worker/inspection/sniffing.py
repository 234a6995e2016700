"""Naming what bytes are that are not one of the formats that are decoded, for a log."""

import re
import struct
import zlib

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: Images of other formats.
_IMAGES = (
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\2\0", "a cursor (CUR)"),
    (b"icns", "an icon of macOS (ICNS)"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"II\xbc", "a JPEG XR image"),
    (b"IIU\0", "a Panasonic raw image (RW2)"),
    (b"IIRO", "an Olympus raw image (ORF)"),
    (b"IIRS", "an Olympus raw image (ORF)"),
    (b"MMOR", "an Olympus raw image (ORF)"),
    (b"FUJIFILMCCD-RAW", "a Fujifilm raw image (RAF)"),
    (b"FOVb", "a Sigma raw image (X3F)"),
    (b"\0MRM", "a Minolta raw image (MRW)"),
    (b"qoif", "a QOI image"),
    (b"gimp xcf", "a GIMP file (XCF)"),
    (b"DDS ", "a DirectDraw surface (DDS)"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance image (HDR)"),
    (b"#?RGBE", "a Radiance image (HDR)"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\x8bJNG", "a JNG image"),
    (b"BPG\xfb", "a BPG image"),
    (b"FLIF", "a FLIF image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"AT&TFORM", "a DjVu document"),
    (b"\xc5\xd0\xd3\xc6", "an Encapsulated PostScript image (EPS)"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (b"\x59\xa6\x6a\x95", "a Sun raster image"),
    (b"\x01\xda\0\1", "an SGI image"),
    (b"\x01\xda\1\1", "an SGI image"),
    (b"/* XPM */", "an X pixmap (XPM)"),
    (b"id=ImageMagick", "a MIFF image"),
)
#: Of other formats whose mark is further inside: where it is.
_MARKED_IMAGES = (
    (128, b"DICM", "a DICOM image"),
    (40, b" EMF", "a Windows metafile (EMF)"),
    (6, b"HEAPCCDR", "a Canon raw image (CRW)"),
    (8, b"ILBM", "an ILBM image"),
    (8, b"ACON", "an animated cursor (ANI)"),
)
#: Of formats whose beginning has numbers of the image in it.
_PATTERNS = (
    # PBM, PGM, PPM: a digit, comments, and the size. PFM and PAM are in lines of text.
    (rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d|P7\nWIDTH |P[Ff]\n\d+ \d+\n", "a PNM image"),
    (rb"\s*#define\s+\S*_?width\s+\d+\s+#define\s+\S*_?height\s+\d+", "an X bitmap (XBM)"),
    (rb"%!PS-Adobe-[\d.]+ EPSF", "an Encapsulated PostScript image (EPS)"),
    # Version, run lengths, bits of a sample (PCX Technical Reference Manual).
    (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", "a PCX image"),
    # TGA 2.0: no name, no color map or a color map, a type and bits of a pixel that go with it, and the flags of alpha
    # and origin. There is no mark at its beginning.
    (rb"\x00\x00[\x02\x0a]\x00{5}.{8}[\x10\x18\x20][\x00\x08\x20\x28]", "a Targa image (TGA)"),
    (rb"\x00\x00[\x03\x0b]\x00{5}.{8}\x08[\x00\x08\x20\x28]", "a Targa image (TGA)"),
    (rb"\x00\x01[\x01\x09].{4}[\x10\x18\x20].{8}\x08[\x00\x08\x20\x28]", "a Targa image (TGA)"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _PATTERNS)
#: The last 18 bytes of a Targa file; old ones have no mark.
_TGA_END = b"TRUEVISION-XFILE.\0"
#: Brands of HEVC images.
HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
#: Brands of ISO media files that are images.
_IMAGE_BRANDS = {
    **dict.fromkeys((b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"1pic"), "a HEIF image, but neither AVIF nor HEIC"),
    b"crx ": "a Canon raw image (CR3)",
    b"jxl ": "a JPEG XL image",
}
_VIDEO_BRANDS = {
    **dict.fromkeys((b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"dash"), "an MP4 video"),
    **dict.fromkeys((b"M4V ", b"M4VP", b"MSNV"), "an MP4 video"),
    **dict.fromkeys((b"3gp4", b"3gp5", b"3gp6", b"3g2a"), "a 3GP video"),
    b"M4A ": "MP4 audio",
    b"qt  ": "a QuickTime video",
}
_OTHERS = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"OggS", "Ogg audio or video"),
    (b"FLV\x01", "a Flash video"),
    (b"FWS", "a Flash movie"),
    (b"CWS", "a Flash movie"),
    (b"ID3", "MP3 audio"),
    (b"fLaC", "FLAC audio"),
    (b"\0\0\1\xba", "an MPEG video"),
    (b"\0\0\1\xb3", "an MPEG video"),
    (b"\xd0\xcf\x11\xe0", "a Microsoft Office document"),
    (b"{\\rtf", "an RTF document"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_RIFF = {b"AVI ": "an AVI video", b"WAVE": "WAV audio"}
_MARKUP = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<head", "an HTML page"),
    (b"<body", "an HTML page"),
    (b"<?xml", "an XML document"),
)
_PAGE = tuple(mark for mark, name in _MARKUP if name == "an HTML page")
#: What may be in front of the first element of a drawing or a document: declarations, comments and a document type,
#: with its entities in brackets.
_PROLOG = re.compile(rb"\s*(?:<\?.*?\?>|<!--.*?-->|<!doctype[^\[>]*(?:\[[^\]]*\]\s*)?>)", re.DOTALL | re.IGNORECASE)
_SVG = re.compile(rb"\s*<(?:[a-z][\w.-]*:)?svg[\s>/]", re.IGNORECASE)
#: Byte order marks, and the encodings that they stand for.
_ENCODINGS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
#: How far into a file its markup is looked for: beyond any comment or declaration in front of it.
_SNIFFED = 4_096


def rejection(body: bytes) -> RejectedError:
    """Return why a file of none of the known formats is rejected: an unsupported image, or no image at all."""
    head = _text(body[:_SNIFFED])
    if name := _image(body, head):
        return RejectedError(Reason.UNSUPPORTED_FORMAT, f"it looks like {name}, which is not supported")
    return RejectedError(Reason.NOT_AN_IMAGE, f"it looks like {_other(body, head)}")


def name(body: bytes) -> str:
    """Return what a file of none of the formats that are decoded looks like, with an article where it takes one."""
    head = _text(body[:_SNIFFED])
    return _image(body, head) or _other(body, head)


def _text(head: bytes) -> bytes:
    """Return the beginning of a file in UTF-8 and without spaces in front, if it is text at all."""
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            head = head.removeprefix(mark).decode(encoding, "ignore").encode()
            break
    return head.lstrip()


def _image(body: bytes, head: bytes) -> str | None:
    # Patterns first: a Targa file may begin as a cursor does, but for its fifth byte.
    if name := next((name for pattern, name in _COMPILED if pattern.match(body)), None):
        return name
    marks = ((0, *mark) for mark in _IMAGES)
    if name := next((name for at, mark, name in (*marks, *_MARKED_IMAGES) if body.startswith(mark, at)), None):
        return name
    if body[4:8] == b"ftyp":
        return next((_IMAGE_BRANDS[brand] for brand in brands(body) if brand in _IMAGE_BRANDS), None)
    if _is_svg(head) or (body.startswith(b"\x1f\x8b") and _is_svg(_text(_unzipped(body)))):
        return "an SVG drawing"
    return "a Targa image (TGA)" if body.endswith(_TGA_END) else None


def _is_svg(head: bytes) -> bool:
    """Return whether the first element of a document is a drawing."""
    position = 0
    while found := _PROLOG.match(head, position):
        if found[0].lstrip().lower().startswith(b"<!doctype html"):
            return False
        position = found.end()
    if _SVG.match(head, position):
        return True
    # A document whose beginning is longer than what is looked at. A page may hold drawings.
    lowered = head.lower()
    return lowered.startswith(b"<") and b"<svg" in lowered and not any(mark in lowered for mark in _PAGE)


def _unzipped(body: bytes) -> bytes:
    """Return the beginning of what gzip data is."""
    try:
        return zlib.decompressobj(wbits=31).decompress(body[:_SNIFFED], _SNIFFED)
    except zlib.error:
        return b""


def _other(body: bytes, head: bytes) -> str:
    for prefix, name in _OTHERS:
        if body.startswith(prefix) or head.startswith(prefix):
            return name
    if body.startswith(b"RIFF"):
        return _RIFF.get(body[8:12], "a RIFF file, but not WebP")
    if body.startswith(b"\x1aE\xdf\xa3"):
        return "a WebM video" if b"webm" in body[:64] else "a Matroska video"
    if body[4:8] == b"ftyp":
        of_brand = f"an ISO media file of brand {body[8:12].decode('latin-1')!r}, but not AVIF"
        return next((_VIDEO_BRANDS[brand] for brand in brands(body) if brand in _VIDEO_BRANDS), of_brand)
    if head.startswith(b"<"):
        lowered = head.lower()
        return next((name for mark, name in _MARKUP if mark in lowered), "markup")
    return "text" if _is_text(head) else "a file of no known format"


def _is_text(head: bytes) -> bool:
    # What is read of it may end inside a character.
    decoded = head.decode("utf-8", "replace").rstrip("\ufffd")
    return "\ufffd" not in decoded and "\0" not in decoded and bool(decoded)


def brands(body: bytes) -> list[bytes]:
    """Return the brands of an ISO media file's `ftyp` box: the major one, then those it is compatible with."""
    size = min(struct.unpack_from(">I", body.ljust(4))[0], len(body), _SNIFFED)
    return [body[8:12], *(body[at : at + 4] for at in range(16, size - 3, 4))]

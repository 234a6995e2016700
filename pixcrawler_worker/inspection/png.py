"""Chunks of a PNG that its decoder does not take: left out, since the pixels are good without."""

import struct
import zlib

from PIL import Image

#: Bytes that a text or profile may become: above, Pillow raises an error (`PngImagePlugin.MAX_TEXT_CHUNK`).
_MAX_BYTES = 1_048_576
#: And all of them together: half of what Pillow takes (`MAX_TEXT_MEMORY`), which also counts plain texts.
_MAX_TOTAL = 33_554_432
_TEXTS = frozenset({b"iCCP", b"zTXt", b"iTXt"})
#: Of an animation: only its first image is decoded, or the one in front of it.
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
#: Bytes of chunks that Pillow reads without asking how many there are (PNG 3rd edition, 11.3).
_MIN_BYTES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
#: By color type: gray and true color.
_MIN_TRANSPARENCY = {0: 2, 2: 6}
#: A chunk whose name begins with a small letter is not needed for the pixels (5.4).
_ANCILLARY = 0x20
_BYTE = 8


def without_broken_chunks(body: bytes) -> bytes:
    """Return a PNG without chunks that are not needed for its pixels and cannot be read.

    That is: with a wrong checksum, with fewer bytes than its kind has, compressed by an unknown method, or of more
    bytes than allowed once it is not. Those of an animation are left out as well.

    Args:
        body: the whole file, whose chunks are known to be complete.
    """
    kept = []
    begin, position, total = 0, 8, 0
    kind = b""
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", body, position)
        end = position + size + 12
        if kind[0] & _ANCILLARY:
            read = _readable_bytes(kind, body, position, end)
            if read is None or total + read > _MAX_TOTAL:
                kept.append(body[begin:position])
                begin = end
            else:
                total += read
        position = end
    return b"".join([*kept, body[begin:]]) if begin else body


def scale_transparency(image: Image.Image, *, bits: int) -> None:
    """Give an opened PNG its transparent gray in a byte, as Pillow decodes its pixels; it reads it in fewer bits.

    Args:
        image: as Pillow has opened it.
        bits: of a pixel in the file.
    """
    gray = image.info.get("transparency")
    if image.mode == "L" and bits < _BYTE and isinstance(gray, int):
        white = (1 << bits) - 1
        image.info["transparency"] = (gray & white) * (255 // white)


def _readable_bytes(kind: bytes, body: bytes, begin: int, end: int) -> int | None:
    """Return how many bytes of text a decoder makes of a chunk; None when it does not take it."""
    content = body[begin + 8 : end - 4]
    (checksum,) = struct.unpack_from(">I", body, end - 4)
    if kind in _ANIMATION or checksum != zlib.crc32(content, zlib.crc32(kind)):
        return None
    least = _MIN_TRANSPARENCY.get(body[25], 0) if kind == b"tRNS" else _MIN_BYTES.get(kind, 0)
    if len(content) < least:
        return None
    return _text_bytes(kind, content) if kind in _TEXTS else 0


def _text_bytes(kind: bytes, content: bytes) -> int | None:
    _, separator, rest = content.partition(b"\0")
    if kind == b"iCCP" and not (separator and rest):
        return None
    if kind == b"iTXt":
        # Whether it is compressed, the method, a language and a translated keyword; another method is ignored.
        if rest[:2] != b"\1\0":
            return len(rest)
        _, _, rest = rest[2:].partition(b"\0")
        _, _, compressed = rest.partition(b"\0")
    elif rest[:1] in (b"", b"\0"):
        compressed = rest[1:]
    else:
        return None
    try:
        text = zlib.decompressobj().decompress(compressed, _MAX_BYTES + 1)
    except zlib.error:
        return 0  # Decoders take it as empty.
    return len(text) if len(text) <= _MAX_BYTES else None

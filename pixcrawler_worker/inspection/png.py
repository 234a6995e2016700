"""Texts and color profiles of a PNG that its decoder does not take: left out, since the pixels are good without."""

import struct
import zlib

#: Bytes that a text or profile may become: above, Pillow raises an error (`PngImagePlugin.MAX_TEXT_CHUNK`).
_MAX_BYTES = 1_048_576
#: And all of them together: half of what Pillow takes (`MAX_TEXT_MEMORY`), which also counts plain texts.
_MAX_TOTAL = 33_554_432
_KINDS = frozenset({b"iCCP", b"zTXt", b"iTXt"})


def without_unreadable_texts(body: bytes) -> bytes:
    """Return a PNG without compressed texts and profiles of an unknown method, or of more bytes than allowed.

    Args:
        body: the whole file, whose chunks are known to be complete.
    """
    if not any(kind in body for kind in _KINDS):
        return body
    kept = []
    begin, position, total = 0, 8, 0
    kind = b""
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", body, position)
        end = position + size + 12
        if kind in _KINDS:
            read = _readable_bytes(kind, body[position + 8 : end - 4])
            if read is None or total + read > _MAX_TOTAL:
                kept.append(body[begin:position])
                begin = end
            else:
                total += read
        position = end
    return b"".join([*kept, body[begin:]]) if begin else body


def _readable_bytes(kind: bytes, content: bytes) -> int | None:
    """Return how many bytes a decoder makes of a chunk; None when it does not take it."""
    _, _, rest = content.partition(b"\0")
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

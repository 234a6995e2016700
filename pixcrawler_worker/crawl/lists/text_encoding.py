"""The encoding of a list, by its first bytes."""

import codecs

#: Byte order marks. That of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: Encodings with zero bytes in ASCII characters, by where of four bytes these are, and where none are.
_WIDE = (
    ("utf-32-le", (1, 2, 3), (0,)),
    ("utf-32-be", (0, 1, 2), (3,)),
    ("utf-16-le", (1, 3), (0, 2)),
    ("utf-16-be", (0, 2), (1, 3)),
)
#: Bytes that are looked at.
_HEAD = 1 << 14


def encoding_of(head: bytes) -> str:
    """Return the encoding by the byte order mark, or by the zero bytes of ASCII characters, which URLs consist of.

    Args:
        head: the first bytes of a list.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    length = min(len(head), _HEAD) // 4
    zeros = [head[at : 4 * length : 4].count(0) for at in range(4)]
    # Many at one place, few at the other: text has no other zero bytes, and what has some nevertheless has few.
    for encoding, with_zeros, without in _WIDE:
        if all(2 * zeros[at] >= length > 0 for at in with_zeros) and all(8 * zeros[at] <= length for at in without):
            return encoding
    return "utf-8"

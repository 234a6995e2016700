"""JPEG XL (ISO/IEC 18181-1, D.2 and 18181-2, 9): its size, as its first bits have it."""

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import extras
from pixcrawler_worker.inspection.containers.boxes import box_at
from pixcrawler_worker.inspection.containers.header import Header
from pixcrawler_worker.inspection.limits import Limits

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
#: Bits of a side, by the number in front of it.
_SIDE_BITS = (9, 13, 18, 30)
#: Width to height, by number; 0 stands for a width of its own.
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
#: Bytes that a size may take.
_MAX_BYTES = 12


#: Memory that the decoder takes for a pixel of images of 8 bits without alpha, and of others: its frame, a copy, and
#: Pillow's image. Those that take more are rejected when there is none left; libjxl ends its process then.
_PLAIN_BYTES, _OTHER_BYTES = 9.0, 12.0


def read(body: bytes, limits: Limits) -> Header:
    """Return the header of a JPEG XL. Raises as `size`; UNSUPPORTED_FORMAT where it is not decoded."""
    extras.require("jxl")
    width, height, is_plain = size(body, limits)
    return Header(format="jxl", width=width, height=height, pixel_bytes=_PLAIN_BYTES if is_plain else _OTHER_BYTES)


def size(body: bytes, limits: Limits) -> tuple[int, int, bool]:
    """Return width and height, before any orientation, and whether it is a plain image: 8 bits of color without alpha.

    Raises:
        RejectedError: CORRUPT when there is no codestream, TOO_COMPLEX when too many boxes are before it.
        struct.error: the body ends inside a box.
    """
    start, end = _codestream(body, limits) if body.startswith(CONTAINER) else (0, len(body))
    if not body.startswith(CODESTREAM, start):
        raise RejectedError(Reason.CORRUPT, "its codestream does not begin with a signature")
    header = body[start + 2 : min(start + 2 + _MAX_BYTES, end)]
    bits = _Bits(int.from_bytes(header, "little"), 8 * len(header))
    is_small = bits.take(1)
    height = _side(bits, is_small=is_small)
    ratio = bits.take(3)
    if ratio == 0:
        width = _side(bits, is_small=is_small)
    else:
        across, down = _RATIOS[ratio]
        width = height * across // down
    return width, height, bool(bits.take(1))


def _side(bits: "_Bits", *, is_small: int) -> int:
    return 8 * (bits.take(5) + 1) if is_small else bits.take(_SIDE_BITS[bits.take(2)]) + 1


def _codestream(body: bytes, limits: Limits) -> tuple[int, int]:
    """Return where the codestream begins and ends, in the box that has all or the first part of it."""
    position = count = 0
    while position < len(body):
        count += 1
        if count > limits.max_blocks_of(len(body)):
            raise limits.too_many_blocks(len(body))
        kind, begin, end = box_at(body, position, len(body))
        if kind == b"jxlc":
            return begin, end
        if kind == b"jxlp":
            return begin + 4, end  # behind the number of the part
        if end < begin:
            break
        position = end
    raise RejectedError(Reason.CORRUPT, "a JPEG XL without a codestream")


class _Bits:
    """Bits of a number, the lowest first."""

    def __init__(self, number: int, size: int) -> None:
        self._number, self._left = number, size

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise RejectedError(Reason.CORRUPT, "the file ends inside its header")
        taken, self._number = self._number & (1 << count) - 1, self._number >> count
        return taken

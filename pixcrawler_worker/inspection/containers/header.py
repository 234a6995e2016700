"""What a container declares."""

from dataclasses import dataclass

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: Bits of a sample, or of a pixel with a palette, that Pillow keeps in one byte.
BYTE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a container declares; the decoder may still find that it is not true.

    Attributes:
        format: extension in lower case, as in `ImageFacts`.
        width: pixels of the canvas as stored; the largest image of an AVIF or HEIC.
        height: pixels, likewise.
        frames: frames or pages; `read` stops counting above the limit.
        pixel_bytes: memory that decoding it takes for each pixel, besides the file: for most, that of Pillow's image.
    """

    format: str
    width: int
    height: int
    frames: int = 1
    pixel_bytes: float = 4.0


def truncated(where: str) -> RejectedError:
    """Return the rejection of a file that ends too early."""
    return RejectedError(Reason.CORRUPT, f"the file ends {where}")

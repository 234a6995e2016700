"""How much a stranger's picture may cost: decided on what its header declares, before anything is decoded."""

from dataclasses import dataclass

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: Pictures up to this many pixels decode into a few megabytes whatever they are: their density is not judged.
_HARMLESS_PIXELS = 1_000_000
#: More than a file that is written here has beside its pixels: a profile of up to a megabyte, EXIF, and headers.
_MOST_TAGS_BYTES = 2_097_152


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a picture may declare, and what its decoding may take.

    Attributes:
        max_pixels: width x height. 50 Mpx is above every camera phone's default and decodes into 200 MB at most.
        max_side: pixels along either side; beyond it lie strips, which no training pipeline can use.
        max_frames: frames of an animation, or pages of a TIFF.
        max_frame_pixels: frames x width x height, which bounds the work of whoever plays the animation: 240
            frames of 1080p.
        max_pixels_per_byte: above a megapixel, the density at which a file is one color and nothing else. Flat
            artwork of 12 Mpx reaches 2,900 (lossless WebP) and blank paper 10,000 (AVIF); a bomb, a million.
        seconds: deadline of one picture, in wall time. The largest honest ones take four.
        memory_bytes: address space of the guarded process. It stands at 125 MB before the first picture and at 1.1 GB
            over 50 Mpx of WebP with alpha, the hungriest there is; AVIF takes 0.9 GB, PNG and TIFF 0.8 GB at most.
    """

    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_frames: int = 500
    max_frame_pixels: int = 500_000_000
    max_pixels_per_byte: int = 10_000
    seconds: float = 20.0
    memory_bytes: int = 1536 * 1024**2

    @property
    def max_converted_bytes(self) -> int:
        """The largest file that a picture becomes: four bytes a pixel, and what stands in front of them."""
        return 4 * self.max_pixels + _MOST_TAGS_BYTES

    def check_size(self, width: int, height: int) -> None:
        """Raise RejectedError when a picture of `width` x `height` pixels is empty or too large to decode."""
        if width < 1 or height < 1:
            raise RejectedError(Reason.CORRUPT, f"{width}x{height} pixels are no picture")
        if max(width, height) > self.max_side:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"{width}x{height}: a side above {self.max_side:,} pixels")
        if width * height > self.max_pixels:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"{width}x{height} is above {self.max_pixels:,} pixels")

    def check_frames(self, width: int, height: int, frames: int) -> None:
        """Raise RejectedError when an animation of so many frames is too much for whoever opens it."""
        if frames > self.max_frames:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"more than {self.max_frames:,} frames")
        if width * height * frames > self.max_frame_pixels:
            raise RejectedError(
                Reason.TOO_MANY_PIXELS,
                f"{frames} frames of {width}x{height} are above {self.max_frame_pixels:,} pixels",
            )

    def check_density(self, width: int, height: int, file_size: int) -> None:
        """Raise RejectedError when `file_size` bytes are too few to hold such a picture."""
        pixels = width * height
        if pixels > _HARMLESS_PIXELS and pixels > self.max_pixels_per_byte * file_size:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"{width}x{height} pixels out of {file_size} bytes")

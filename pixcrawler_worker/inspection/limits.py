"""How much an untrusted image may cost: decided by what its header declares, before anything is decoded."""

from dataclasses import dataclass

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: Images up to this many pixels decode into a few megabytes whatever they are: their density is not checked.
_HARMLESS_PIXELS = 1_000_000
#: More than a file that is written here has besides its pixels: a profile of up to a megabyte, EXIF, and headers.
_MAX_METADATA_BYTES = 2_097_152
#: Address space for the file, for reduced copies, and for what is scattered.
_ROOM_BYTES = 24_000_000
#: No less than what decoding takes for a pixel (`Header.pixel_bytes`), by format, and of any other. A JPEG may
#: have the coefficients of four components.
_MAX_PIXEL_BYTES, _MAX_OTHER_BYTES = {"jpg": 8, "png": 4, "gif": 4, "bmp": 4}, 20
#: Bytes for which a container may have one more block.
_BYTES_PER_BLOCK = 64


class OutOfMemoryError(RejectedError):
    """Decoding an image takes more memory than there is."""

    def __init__(self, detail: str = "") -> None:
        more = f" ({detail})" if detail else ""
        super().__init__(Reason.TOO_MANY_PIXELS, f"it needs more memory than the decoder may have{more}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an image may declare, and what its decoding may take.

    Attributes:
        max_pixels: width x height. 50 Mpx is above every camera phone's default. Images that take more than three
            bytes a pixel have fewer (`max_decoded_bytes`).
        max_decoded_bytes: memory that an image may take besides its file, unless it is converted. Pillow keeps colors
            in four bytes a pixel, and some decoders take more besides.
        max_side: pixels along either side; larger images are strips, which no training pipeline can use.
        max_frames: frames of an animation, or pages of a TIFF.
        max_frame_pixels: frames x width x height, which limits the work of playing the animation: 240 frames of
            1080p.
        max_pixels_per_byte: above a megapixel, the density at which a file is one color and nothing else. Flat
            artwork of 12 Mpx reaches 2,900 (lossless WebP) and blank paper 10,000 (AVIF); a bomb, a million.
        max_blocks: chunks, blocks or boxes of a container, and one more for every 64 bytes: decoders look at each. The
            smallest that an encoder writes on purpose are 255 bytes (GIF); a photograph has a few.
        max_scans: passes of a JPEG over its pixels. Encoders write 10, the ones that try all ways of dividing them up
            to a hundred or so. An empty pass over 50 Mpx takes five bytes and 5 ms.
        max_scan_pixels: scans x width x height: of 50 Mpx, fifty scans, which take two decoders 3 s.
        max_arithmetic_scan_pixels: the same of a JPEG with arithmetic coding, in which a bit of the file can stand for
            any number of decisions: of 50 Mpx, 12 scans.
        max_segments: segments of a JPEG before its first scan. A color profile has 255 at most; 320 full ones are
            20 MB.
        max_padding_bytes: bytes between them that are none.
        max_compressed_chunks: profiles and texts of a PNG, each of which may become a megabyte.
        max_items: entries of an AVIF's tables of items; the decoder searches them for each other. A grid of 1,000 tiles
            has 5,000.
        max_box_depth: boxes inside each other.
        max_tags: entries of one directory of a TIFF.
        seconds: deadline of one image, in wall time. The largest honest ones take four.
        memory_bytes: address space of the decode process while it converts. It is at 125 MB before the first image, and
            at 1.2 GB for 50 Mpx of PNG with alpha that become a WebP. Otherwise it may have less (`decoding_bytes`).
    """

    max_pixels: int = 50_000_000
    max_decoded_bytes: int = 150_000_000
    max_side: int = 16_384
    max_frames: int = 500
    max_frame_pixels: int = 500_000_000
    max_pixels_per_byte: int = 10_000
    max_blocks: int = 65_536
    max_scans: int = 500
    max_scan_pixels: int = 2_500_000_000
    max_arithmetic_scan_pixels: int = 625_000_000
    max_segments: int = 1_000
    max_padding_bytes: int = 1_000_000
    max_compressed_chunks: int = 256
    max_items: int = 20_000
    max_box_depth: int = 16
    max_tags: int = 4_096
    seconds: float = 20.0
    memory_bytes: int = 1536 * 1024**2

    @property
    def max_converted_bytes(self) -> int:
        """The largest file that a conversion may write: four bytes a pixel, and metadata."""
        return 4 * self.max_pixels + _MAX_METADATA_BYTES

    @property
    def decoding_bytes(self) -> int:
        """Address space that the decode process may have besides what it begins with, unless it converts."""
        return self.max_decoded_bytes + _ROOM_BYTES

    def surely_allow(self, format_: str, width: int, height: int, frames: int) -> bool:
        """Return whether an image that was within other limits is within these, without a look at its file.

        It may be even when this is not sure: what decoding it takes depends on more than its format.
        """
        pixels = width * height
        needed = pixels * _MAX_PIXEL_BYTES.get(format_, _MAX_OTHER_BYTES)
        return (
            max(width, height) <= self.max_side
            and pixels <= self.max_pixels
            and frames <= self.max_frames
            and pixels * frames <= self.max_frame_pixels
            and needed <= self.max_decoded_bytes
        )

    def check_memory(self, width: int, height: int, pixel_bytes: float) -> None:
        """Raise RejectedError when decoding an image takes too much memory: so many bytes for each of its pixels."""
        needed = round(width * height * pixel_bytes)
        if needed > self.max_decoded_bytes:
            raise RejectedError(
                Reason.TOO_MANY_PIXELS,
                f"{width}x{height} of such pixels take {needed // 10**6:,} MB to be decoded, more than "
                f"{self.max_decoded_bytes // 10**6:,} MB",
            )

    def check_size(self, width: int, height: int) -> None:
        """Raise RejectedError when an image of `width` x `height` pixels is empty or too large to decode."""
        if width < 1 or height < 1:
            raise RejectedError(Reason.CORRUPT, f"{width}x{height} pixels are not an image")
        if max(width, height) > self.max_side:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"{width}x{height}: a side above {self.max_side:,} pixels")
        if width * height > self.max_pixels:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"{width}x{height} is above {self.max_pixels:,} pixels")

    def check_frames(self, width: int, height: int, frames: int) -> None:
        """Raise RejectedError when an animation has too many frames or pixels."""
        if frames > self.max_frames:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"more than {self.max_frames:,} frames")
        if width * height * frames > self.max_frame_pixels:
            raise RejectedError(
                Reason.TOO_MANY_PIXELS,
                f"{frames} frames of {width}x{height} are above {self.max_frame_pixels:,} pixels",
            )

    def check_density(self, width: int, height: int, file_size: int) -> None:
        """Raise RejectedError when `file_size` bytes are too few to hold such an image."""
        pixels = width * height
        if pixels > _HARMLESS_PIXELS and pixels > self.max_pixels_per_byte * file_size:
            raise RejectedError(Reason.TOO_MANY_PIXELS, f"{width}x{height} pixels out of {file_size} bytes")

    def max_blocks_of(self, file_size: int) -> int:
        """Return how many chunks, blocks or boxes a container of so many bytes may have."""
        return self.max_blocks + file_size // _BYTES_PER_BLOCK

    def too_many_blocks(self, file_size: int) -> RejectedError:
        """Return the rejection of a container that has more of them."""
        return RejectedError(
            Reason.TOO_COMPLEX, f"more than {self.max_blocks_of(file_size):,} blocks in {file_size:,} bytes"
        )

    def max_scans_of(self, width: int, height: int, *, arithmetic: bool) -> int:
        """Return how many passes a JPEG of `width` x `height` may have over its pixels."""
        pixels = self.max_arithmetic_scan_pixels if arithmetic else self.max_scan_pixels
        return min(self.max_scans, pixels // max(width * height, 1))

    def check_scans(self, scans: int, most: int) -> None:
        """Raise RejectedError when a JPEG has more passes over its pixels than it may have (`max_scans_of`)."""
        _check_count(scans, most, "scans")

    def check_segments(self, segments: int) -> None:
        """Raise RejectedError when a JPEG has too many segments before its first scan."""
        _check_count(segments, self.max_segments, "segments before its first scan")

    def check_padding(self, padding: int) -> None:
        """Raise RejectedError when a JPEG has too many bytes that are in none of them."""
        _check_count(padding, self.max_padding_bytes, "bytes between its segments")

    def check_compressed_chunks(self, chunks: int) -> None:
        """Raise RejectedError when a PNG has too many compressed profiles and texts."""
        _check_count(chunks, self.max_compressed_chunks, "profiles and texts")

    def check_items(self, items: int) -> None:
        """Raise RejectedError when an AVIF has too many entries in its tables of items."""
        _check_count(items, self.max_items, "entries in its tables of items")

    def check_box_depth(self, depth: int) -> None:
        """Raise RejectedError when an AVIF has too many boxes inside each other."""
        _check_count(depth, self.max_box_depth, "boxes inside each other")

    def check_tags(self, tags: int) -> None:
        """Raise RejectedError when a directory of a TIFF has too many entries."""
        _check_count(tags, self.max_tags, "tags in a directory")


def _check_count(count: int, maximum: int, what: str) -> None:
    if count > maximum:
        raise RejectedError(Reason.TOO_COMPLEX, f"more than {maximum:,} {what}")

"""What is known of an image once its bytes were opened."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Facts read from the bytes, never from a URL or a header.

    Attributes:
        sha256: digest of the whole body, 32 bytes.
        format: extension of the decoded format in lower case (`jpg`, `png`, `webp`, `gif`, `bmp`, `tiff`, `avif`).
        width: pixels, as stored (before any EXIF orientation).
        height: pixels, as stored.
        file_size: bytes.
        mode: Pillow's mode of the first frame (`RGB`, `L`, `CMYK`, ...).
        frames: frames the container declares; 1 for a still image.
        phash: 64-bit DCT perceptual hash, unsigned.
        dhash: 64-bit horizontal difference hash, unsigned.
    """

    sha256: bytes
    format: str
    width: int
    height: int
    file_size: int
    mode: str
    frames: int
    phash: int
    dhash: int

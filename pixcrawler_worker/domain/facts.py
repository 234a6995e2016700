"""What is known of an image: from its bytes, and from the page it was found on."""

from dataclasses import dataclass

#: Formats that are opened, as `ImageFacts.format` and file names have them.
FORMATS = ("jpg", "png", "webp", "gif", "bmp", "tiff", "avif")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Facts read from the bytes, never from a URL or a header.

    Attributes:
        sha256: digest of the whole body, 32 bytes.
        format: extension of the decoded format in lower case (one of `FORMATS`).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Whose picture it is, as its source says. Unknown is None, never a guess.

    Attributes:
        page_url: the page that shows the picture to people.
        title: as its author named it.
        author: name of the author.
        license: its identifier in `domain/licenses.py` (`cc0-1.0`, `cc-by-sa-4.0`, `public-domain`).
        license_url: where the license's text stands.
        attribution: a line to print beside the picture.
    """

    page_url: str | None = None
    title: str | None = None
    author: str | None = None
    license: str | None = None
    license_url: str | None = None
    attribution: str | None = None

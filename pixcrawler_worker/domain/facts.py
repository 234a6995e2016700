"""What is known of an image: facts from its content, and the credit from its source."""

from dataclasses import dataclass

from pixcrawler_worker.domain.safe_text import MAX_URL_LENGTH

#: Formats that are written, as `ImageFacts.format` and file names have them.
WRITTEN_FORMATS = ("jpg", "png", "webp", "gif", "bmp", "tiff", "avif")
#: Formats that are decoded. The last two need an extra of their name.
FORMATS = (*WRITTEN_FORMATS, "heic", "jxl")

#: Characters of titles and names, of licenses, and of attributions.
_MAX_NAME, _MAX_LICENSE, _MAX_LINE = 1_000, 200, 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Facts that come from the content, never from a URL or a header.

    Attributes:
        sha256: digest of the whole file, 32 bytes.
        format: extension of the decoded format in lower case (one of `FORMATS`).
        width: pixels, as stored (before any EXIF orientation); of a HEIC or JPEG XL as shown, since their decoders turn
            it.
        height: pixels, likewise.
        file_size: bytes.
        mode: Pillow's mode of the first frame (`RGB`, `L`, `CMYK`, ...).
        frames: frames that the container declares; 1 for a still image.
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
    """Author, license and page of an image, as its source states them. What is unknown is None.

    Attributes:
        page_url: URL of the web page that shows the image.
        title: of the image.
        author: name of the author.
        license: its identifier in `domain/licenses.py` (`cc0-1.0`, `cc-by-sa-4.0`, `public-domain`).
        license_url: URL of the text of the license.
        attribution: a line to print with the image.
    """

    page_url: str | None = None
    title: str | None = None
    author: str | None = None
    license: str | None = None
    license_url: str | None = None
    attribution: str | None = None

    def bounded(self) -> "Credit":
        """Return the credit as it is stored: long texts are cut off, and URLs that are too long are unknown.

        Raises:
            TypeError: for what is no text, as a source of another package may have it.
        """
        return Credit(
            page_url=_short_url(self.page_url),
            title=_cut(self.title, _MAX_NAME),
            author=_cut(self.author, _MAX_NAME),
            license=_cut(self.license, _MAX_LICENSE),
            license_url=_short_url(self.license_url),
            attribution=_cut(self.attribution, _MAX_LINE),
        )


def _cut(text: object, limit: int) -> str | None:
    text = _checked(text)
    return text if text is None or len(text) <= limit else f"{text[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _short_url(url: object) -> str | None:
    url = _checked(url)
    return url if url is None or len(url) <= MAX_URL_LENGTH else None


def _checked(text: object) -> str | None:
    if isinstance(text, str | None):
        return text
    raise TypeError(f"a credit is a text, not {type(text).__name__}")

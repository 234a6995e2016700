"""What pixels and tags of one image say, for the checks of a validation.

Brightness, entropy and sharpness are cleanvision's (github.com/cleanlab/cleanvision, `image_property.py`), taken from
the image reduced to 256 pixels a side, where it takes them from all of it. Differences that this makes, and those of
image kinds that it misreads (palettes, transparency), are in `tests/inspection/test_metrics.py`.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.inspection import jpeg, pixels
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.pixels import Pixels

#: Pixels a side that everything is measured on.
_SIDE = 256
#: Longer side of the image on whose edges sharpness is measured.
_EDGES_SIDE = 64
#: cleanvision's `normalizing_factor` and `color_threshold` for blurry images.
_BLUR_FACTOR, _BLUR_HISTOGRAM_FROM = 0.01, 0.18
#: Parts of red, green and blue in the square of perceived brightness (http://alienryderflex.com/hsp.html): 0.241, 0.691
#: and 0.068, so that with what is added and the fraction cut off, all 256 values of each are rounded as in 64 bits.
_WEIGHTS: NDArray[np.float32] = np.array([[0.24099992], [0.691], [0.06800002]], dtype=np.float32)
_ROUNDING = np.float32(0.499)
_VALUES: NDArray[np.int64] = np.arange(256, dtype=np.int64)
_SQUARES = _VALUES**2
_GPS = 0x8825
_MAX_ERROR_LENGTH = 200


def measure(body: bytes, extension: str, limits: Limits, *, strict: bool) -> tuple[Pixels, Metrics]:
    """Decode the first frame of `body` once, and measure it.

    Args:
        body: the whole file.
        extension: the one format that it is opened as.
        limits: what it may take.
        strict: whether JPEG data is also given to a decoder that repairs nothing.

    Raises:
        RejectedError: as `pixels.decode`.
    """
    with pixels.opened(body, extension, limits) as image:
        width, height = pixels.full_size(image)
        mode = image.mode
        sound = None
        if extension == "jpg":
            # The smallest scale from which the reduction still has its 129 pixels at least.
            image.draft("RGB", (_SIDE // 2 + 1, _SIDE // 2 + 1))
            sound = jpeg.decoded(body, image)
        small, transparent = _in_color(sound or pixels.loaded(image))
        orientation, gps = _tags(image)
    gray = small.convert("L")
    channels = np.ascontiguousarray(np.asarray(small).reshape(-1, 3).T)
    p5, p99 = _brightness(channels)
    metrics = Metrics(
        brightness_p5=p5,
        brightness_p99=p99,
        entropy=round(gray.entropy(), 4),
        std=round(_spread(gray.histogram()), 4),
        sharpness=_sharpness(gray),
        channel_delta=int((channels.max(axis=0) - channels.min(axis=0)).max()),
        transparent=transparent,
        orientation=orientation,
        gps=gps,
        # One that TurboJPEG has decoded has none: it stops at whatever it would have to repair.
        strict_error=_strict_error(body) if strict and extension == "jpg" and sound is None else None,
    )
    return Pixels(width=width, height=height, mode=mode, gray=gray), metrics


def _in_color(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the image reduced and in RGB, transparency on white, and whether it has any."""
    # By a whole factor, so there are 129 pixels at least unless there were fewer: any other costs four times as much.
    factor = max(1, -(-max(image.size) // _SIDE))
    factors = min(factor, image.width), min(factor, image.height)
    if not image.has_transparency_data:
        if image.mode == "LAB":  # Pillow converts it to nothing; its first band is lightness.
            return pixels.reduced(image, factors, lambda band: band.getchannel(0).convert("RGB")), False
        stretch = pixels.stretching(image)
        return pixels.reduced(image, factors, lambda band: _rgb(stretch(band))), False
    # Reduced before it is composed with white: what color an invisible pixel has must not count.
    small = pixels.reduced(image, factors, lambda band: band.convert("RGBA"))
    lowest, _ = small.getchannel("A").getextrema()
    assert isinstance(lowest, int | float)
    white = Image.new("RGBA", small.size, "white")
    return Image.alpha_composite(white, small).convert("RGB"), lowest < 255  # noqa: PLR2004 - opaque


def _rgb(image: Image.Image) -> Image.Image:
    # Converting what is RGB already would copy all of it.
    return image if image.mode == "RGB" else image.convert("RGB")


def _brightness(channels: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the 5th and the 99th percentile of brightness, 0 to 1."""
    weighted = np.square(channels, dtype=np.float32)
    weighted *= _WEIGHTS
    weighted += _ROUNDING
    squared = weighted.astype(np.uint16).sum(axis=0, dtype=np.uint16)
    # The root is monotonous: it is taken of two numbers instead of all.
    low, high = (math.sqrt(value) / 255 for value in _percentiles(squared, (0.05, 0.99)))
    return round(low, 4), round(high, 4)


def _percentiles(values: NDArray[np.uint16], parts: Sequence[float]) -> Iterator[int]:
    """Yield the smallest value that at least each of these parts of the values does not exceed."""
    # By the upper bytes first, which Pillow counts faster than NumPy sorts.
    upper = (values >> 8).astype(np.uint8)
    counts = Image.frombuffer("L", (len(upper), 1), upper, "raw", "L", 0, 1).histogram()
    for part in parts:
        rank = math.ceil(part * len(values))
        byte, before = 0, 0
        while before + counts[byte] < rank:
            before += counts[byte]
            byte += 1
        yield int(np.sort(values[upper == byte])[rank - before - 1])


def _sharpness(gray: Image.Image) -> float:
    """Return cleanvision's blur score: the spread of edges, and that of the histogram where it is wide."""
    ratio = max(gray.size) / _EDGES_SIDE
    if ratio > 1:
        # In gray, where cleanvision resizes colors: three times as fast, and the score differs by a thousandth.
        gray = gray.resize((max(int(gray.width // ratio), 1), max(int(gray.height // ratio), 1)))
    edges = _spread(gray.filter(ImageFilter.FIND_EDGES).histogram())
    spread = float(np.std(_counts(gray.histogram())))
    by_histogram = 1 - np.exp(-_BLUR_FACTOR * spread)
    score = 1 - np.exp(-_BLUR_FACTOR * edges) + (by_histogram if by_histogram > _BLUR_HISTOGRAM_FROM else 0)
    return round(min(float(score), 1.0), 4)


def _spread(histogram: Sequence[int]) -> float:
    """Return the standard deviation of the values that a histogram counts, as `ImageStat` does, without its loops."""
    counts = _counts(histogram)
    number = int(counts.sum())
    return math.sqrt((int(counts @ _SQUARES) - int(counts @ _VALUES) ** 2 / number) / number)


def _counts(histogram: Sequence[int]) -> NDArray[np.int64]:
    return np.asarray(histogram, dtype=np.int64)


def _tags(image: Image.Image) -> tuple[int, bool]:
    """Return EXIF's orientation, and whether it has a place; broken EXIF says neither."""
    try:
        has_place = bool(image.getexif().get_ifd(_GPS))
    except Exception:  # noqa: BLE001 - for hostile tags Pillow raises nearly everything, and the pixels are good
        has_place = False
    return pixels.orientation(image), has_place


def _strict_error(body: bytes) -> str | None:
    """Return what libjpeg repairs silently, or warns of, when it decodes at an eighth; None when there is nothing."""
    try:
        simplejpeg.decode_jpeg(body, colorspace="GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except (ValueError, MemoryError) as error:
        return str(error)[:_MAX_ERROR_LENGTH] or type(error).__name__
    return None

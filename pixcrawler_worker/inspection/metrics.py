"""What pixels and tags of one image say, for the checks of a validation.

Brightness, entropy and sharpness are cleanvision's (github.com/cleanlab/cleanvision, `image_property.py`), taken from
the image reduced to 256 pixels a side, where it takes them from all of it. Differences that this makes, and those of
image kinds that it misreads (palettes, transparency), are in `tests/inspection/test_metrics.py`.
"""

from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageStat

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.inspection import pixels
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.pixels import Pixels

#: Pixels a side that everything is measured on.
_SIDE = 256
#: Longer side of the image on whose edges sharpness is measured.
_EDGES_SIDE = 64
#: cleanvision's `normalizing_factor` and `color_threshold` for blurry images.
_BLUR_FACTOR, _BLUR_HISTOGRAM_FROM = 0.01, 0.18
#: Parts of red, green and blue in the square of perceived brightness (http://alienryderflex.com/hsp.html), by value.
_RED, _GREEN, _BLUE = (np.round(weight * np.arange(256) ** 2).astype(np.uint16) for weight in (0.241, 0.691, 0.068))
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
        if extension == "jpg":
            # The smallest scale from which the reduction still has its 129 pixels at least.
            image.draft("RGB", (_SIDE // 2 + 1, _SIDE // 2 + 1))
        small, transparent = _in_color(pixels.loaded(image))
        orientation, gps = _tags(image)
    gray = small.convert("L")
    p5, p99 = _brightness(small)
    metrics = Metrics(
        brightness_p5=p5,
        brightness_p99=p99,
        entropy=round(gray.entropy(), 4),
        std=round(ImageStat.Stat(gray).stddev[0], 4),
        sharpness=_sharpness(small),
        channel_delta=_channel_delta(small),
        transparent=transparent,
        orientation=orientation,
        gps=gps,
        strict_error=_strict_error(body) if strict and extension == "jpg" else None,
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


def _brightness(small: Image.Image) -> tuple[float, float]:
    """Return the 5th and the 99th percentile of brightness, 0 to 1."""
    rgb: NDArray[np.uint8] = np.asarray(small)
    squared = _RED[rgb[:, :, 0]] + _GREEN[rgb[:, :, 1]] + _BLUE[rgb[:, :, 2]]
    # The root is monotonous: it is taken of two numbers instead of all.
    cumulated = np.cumsum(np.bincount(squared.ravel()))
    low, high = np.sqrt(np.searchsorted(cumulated, (0.05 * cumulated[-1], 0.99 * cumulated[-1]))) / 255
    return round(float(low), 4), round(float(high), 4)


def _channel_delta(small: Image.Image) -> int:
    red, green, blue = small.split()
    highest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    lowest = ImageChops.darker(ImageChops.darker(red, green), blue)
    _, largest = ImageChops.subtract(highest, lowest).getextrema()
    assert isinstance(largest, int | float)
    return int(largest)


def _sharpness(small: Image.Image) -> float:
    """Return cleanvision's blur score: the spread of edges, and that of the histogram where it is wide."""
    ratio = max(small.size) / _EDGES_SIDE
    if ratio > 1:
        small = small.resize((max(int(small.width // ratio), 1), max(int(small.height // ratio), 1)))
    gray = small.convert("L")
    edges = ImageStat.Stat(gray.filter(ImageFilter.FIND_EDGES)).stddev[0]
    spread = float(np.std(_counts(gray.histogram())))
    by_histogram = 1 - np.exp(-_BLUR_FACTOR * spread)
    score = 1 - np.exp(-_BLUR_FACTOR * edges) + (by_histogram if by_histogram > _BLUR_HISTOGRAM_FROM else 0)
    return round(min(float(score), 1.0), 4)


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

"""Pillow: pixels from bytes. Imported by the decode process only."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import extras, heic, png, webp
from pixcrawler_worker.inspection.containers.webp import canvas_size
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.limits import Limits, OutOfMemoryError
from pixcrawler_worker.inspection.sheets import COLUMNS, ThumbnailSheet

#: Both hashes are taken from an image reduced to about this many pixels a side: half of it moves one more bit of 64,
#: and twice of it costs a quarter more time.
_REDUCED_SIDE = 128
#: Characters of a decoder's message that a log line keeps: some quote the file.
_MAX_DETAIL = 200
_THUMBNAIL_QUALITY = 80
#: Color of a sheet between its thumbnails.
_BETWEEN = "#808080"
#: Pixels that are converted at a time.
_MAX_BAND_PIXELS = 1_000_000
_ORIENTATION = 0x0112
#: As in ImageOps.exif_transpose, which fails when EXIF is broken.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: How Pillow's messages begin that are about a file's kind of pixels and not about damage.
_UNSUPPORTED = ("unknown pixel mode", "Invalid value for samples per pixel", "Unsupported BMP")

#: Pillow's names. Importing a plug-in registers it; without these, the first AVIF or WebP would import all forty. The
#: last two come with an extra.
PILLOW = {
    "jpg": JpegImagePlugin.JpegImageFile.format,
    "png": PngImagePlugin.PngImageFile.format,
    "webp": WebPImagePlugin.WebPImageFile.format,
    "gif": GifImagePlugin.GifImageFile.format,
    "bmp": BmpImagePlugin.BmpImageFile.format,
    "tiff": TiffImagePlugin.TiffImageFile.format,
    "avif": AvifImagePlugin.AvifImageFile.format,
    "heic": "HEIF",
    "jxl": "JXL",
}
# As many threads as cores would each take a stack and a frame of the decode process's address space.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Imported at once, so that they are no part of what an image may take.
if _heic := extras.decoder("heic"):
    _heic.register_heif_opener(decode_threads=0, thumbnails=False)
if _jxl := extras.decoder("jxl"):
    _jxl.JpegXLImagePlugin.DECODE_THREADS = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A decoded image.

    Attributes:
        width: pixels, as Pillow understands the file (it swaps the sides of a TIFF that is to be turned).
        height: pixels, likewise.
        mode: Pillow's mode before any conversion.
        gray: the first frame in gray (mode `L` or `F`), reduced to at most twice 128 pixels a side.
    """

    width: int
    height: int
    mode: str
    gray: Image.Image


def decode(body: bytes, extension: str, limits: Limits) -> Pixels:
    """Decode the first frame of `body`, all of it, as the format of `extension` only.

    Raises:
        RejectedError: CORRUPT when a decoder fails, TOO_MANY_PIXELS when Pillow sees more pixels than the header
            declared or memory runs out.
    """
    with opened(body, extension, limits) as image:
        width, height = full_size(image)
        mode = image.mode
        if extension == "jpg":
            # Scaled down inside the decoder: every byte is still read, at a fraction of the cost.
            image.draft("L", (_REDUCED_SIDE, _REDUCED_SIDE))
        return Pixels(width=width, height=height, mode=mode, gray=_gray(loaded(image)))


def thumbnail(body: bytes, extension: str, side: int, limits: Limits) -> bytes:
    """Decode the first frame of `body` into a JPEG of at most `side` x `side` pixels. Raises as `decode`."""
    with opened(body, extension, limits) as image:
        if extension == "jpg":
            image.draft("RGB", (side, side))
        upright = _upright(image, lambda size: max(size) // (2 * side))
        upright.thumbnail((side, side))
        written = BytesIO()
        _on_white(upright).save(written, "JPEG", quality=_THUMBNAIL_QUALITY)
        return written.getvalue()


def sheet(tiles: Sequence[bytes], side: int, limits: Limits) -> ThumbnailSheet:
    """Decode JPEGs into one JPEG, each in a cell of `side` x `side` pixels. Raises as `decode`."""
    rows = -(-len(tiles) // COLUMNS)
    whole = Image.new("RGB", (min(len(tiles), COLUMNS) * side, rows * side), _BETWEEN)
    sizes = []
    for number, tile in enumerate(tiles):
        with opened(tile, "jpg", limits) as image:
            image.draft("RGB", (side, side))
            small = image.convert("RGB")
            small.thumbnail((side, side))
            sizes.append(small.size)
            row, column = divmod(number, COLUMNS)
            whole.paste(small, (column * side, row * side))
    written = BytesIO()
    whole.save(written, "JPEG", quality=_THUMBNAIL_QUALITY)
    return ThumbnailSheet(written.getvalue(), tuple(sizes))


def crop(body: bytes, extension: str, part: Crop, limits: Limits) -> bytes:
    """Decode the first frame of `body`, and return the pixels of a part of it, three bytes each. Raises as `decode`."""
    across, down = part.resized if isinstance(part.resized, tuple) else (part.resized, part.resized)
    # Twice the size at least is left for the filter, which gives nearly the pixels that it gives from the whole.
    finest = 2 * max(across, down)
    with opened(body, extension, limits) as image:
        if extension == "jpg":
            image.draft("RGB", (finest, finest))
        upright = _upright(image, lambda size: min(size) // finest)
        if isinstance(part.resized, int):
            scale_x = scale_y = min(upright.size) / part.resized
        else:
            scale_x, scale_y = upright.width / across, upright.height / down
        # The middle is resized and not all of the image: of a strip, that would be more than there is memory for.
        # Rounding must not move it beyond the edges.
        left = max((upright.width - part.width * scale_x) / 2, 0)
        top = max((upright.height - part.height * scale_y) / 2, 0)
        box = left, top, upright.width - left, upright.height - top
        small = upright.resize((part.width, part.height), Image.Resampling(part.resampling), box)
        return _on_white(small).tobytes()


def _upright(image: Image.Image, factor: Callable[[tuple[int, int]], int]) -> Image.Image:
    """Decode an opened image, reduce it by a whole factor, and turn it as EXIF says: RGB, or RGBA."""
    whole = loaded(image)
    turn = TURNS.get(orientation(whole))
    times = max(1, factor(whole.size))
    mode = "RGBA" if whole.has_transparency_data else "RGB"
    stretch = stretching(whole)
    upright = reduced(
        whole, (min(times, whole.width), min(times, whole.height)), lambda band: stretch(band).convert(mode)
    )
    return upright if turn is None else upright.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    return white


@contextmanager
def opened(body: bytes, extension: str, limits: Limits, *, whole: bool = False) -> Iterator[Image.Image]:
    """Open an image without decoding it yet; whatever goes wrong with it inside the context is a rejection.

    Args:
        body: the whole file.
        extension: of its format.
        limits: what it may take.
        whole: whether all pixels are needed, whatever memory that takes; otherwise a large WebP is scaled down.

    Raises:
        RejectedError: as `decode`.
    """
    if extension == "png":
        body = png.without_broken_chunks(body)
    try:
        # Warnings are for the authors of the file.
        with warnings.catch_warnings(action="ignore"), _image(body, extension, limits, whole=whole) as image:
            limits.check_size(*image.size)
            if extension == "png":
                png.scale_transparency(image, bits=body[24])
            if extension in {"heic", "jxl"} and orientation(image) != 1:
                # The decoder has turned it as its own data say; what EXIF says is the same again.
                del image.getexif()[_ORIENTATION]
            yield image
    except (RejectedError, ImportError):  # the latter is a bug: the sandbox lets nothing be imported any more
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise OutOfMemoryError from error
    except UnidentifiedImageError as error:
        raise _rejection(_cause(body, extension) or error, extension) from error
    except Exception as error:
        # For hostile files Pillow raises nearly everything: OSError, SyntaxError, TypeError, KeyError, struct.error...
        raise _rejection(error, extension) from error


def _image(body: bytes, extension: str, limits: Limits, *, whole: bool) -> Image.Image:
    if extension == "webp" and not whole:
        width, height = canvas_size(body)
        needed = width * height * webp.BYTES_PER_PIXEL
        if needed > limits.max_decoded_bytes:
            if (image := webp.scaled(body)) is not None:
                return image
            limits.check_memory(width, height, webp.BYTES_PER_PIXEL)
    if extension == "heic" and not whole and _heic is not None:
        image = Image.open(BytesIO(body), formats=[PILLOW[extension]])
        return heic.reduced(body, _heic) if image.width * image.height > heic.MAX_PIXELS else image
    return Image.open(BytesIO(body), formats=[PILLOW[extension]])


def _rejection(error: Exception, extension: str) -> RejectedError:
    detail = f"{type(error).__name__}: {str(error)[:_MAX_DETAIL]}"
    if "memory" in str(error).lower():  # of libraries that have an error of their own for it
        return OutOfMemoryError(detail)
    if str(error).startswith(_UNSUPPORTED):
        return RejectedError(
            Reason.UNSUPPORTED_FORMAT, f"a {extension.upper()} of a kind that is not supported ({detail})"
        )
    return RejectedError(Reason.CORRUPT, detail)


def _cause(body: bytes, extension: str) -> Exception | None:
    """Return why a plug-in of Pillow does not open a file, which `Image.open` keeps to itself."""
    opener, _ = Image.OPEN[PILLOW[extension]]
    try:
        with warnings.catch_warnings(action="ignore"), opener(BytesIO(body), ""):
            return None
    except Exception as error:  # noqa: BLE001 - as above
        return error


def full_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened image, which may have been reduced."""
    width, height = image.info.get("full_size", image.size)
    return width, height


def loaded(image: Image.Image) -> Image.Image:
    """Decode an opened image; of the mode that Pillow converts to one other only (La), return that one (LA)."""
    image.load()
    return image.convert("LA") if image.mode == "La" else image


def orientation(image: Image.Image) -> int:
    """Return what EXIF says, 1 when it is broken."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - for hostile tags Pillow raises nearly everything, and the pixels are good
        return 1
    # It may be a fraction, which is no number of JSON.
    return next((number for number in range(1, 9) if number == found), 1)


def byte_per_band(image: Image.Image) -> Image.Image:
    """Return `image` with what Pillow would cut off at 255 stretched to a byte: 16-bit grays and floats."""
    return stretching(image)(image)


def stretching(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return how `byte_per_band` changes `image`, for each of its parts."""
    if not image.mode.startswith(("I", "F")):
        return lambda part: part
    rows = max(_MAX_BAND_PIXELS // image.width, 1)
    extremes = [
        image.crop((0, top, image.width, min(top + rows, image.height))).convert("F").getextrema()
        for top in range(0, image.height, rows)
    ]
    low = min(float(lowest) for lowest, _ in extremes)  # type: ignore[arg-type]  # pairs, since they are of one band
    high = max(float(highest) for _, highest in extremes)  # type: ignore[arg-type]  # likewise
    scale = 255 / (high - low) if high > low else 0.0
    return lambda part: part.convert("F").point(lambda value: value * scale - low * scale).convert("L")


def _gray(image: Image.Image) -> Image.Image:
    """Return `image` in gray and reduced: transparency on white, 16 bits and more as floats."""
    factors = max(1, image.width // _REDUCED_SIDE), max(1, image.height // _REDUCED_SIDE)
    if image.mode.startswith(("I", "F")):
        return reduced(image, factors, lambda band: band.convert("F"))
    if image.mode == "LAB":  # Pillow converts it to nothing; its first band is lightness.
        return reduced(image, factors, lambda band: band.getchannel(0))
    if not image.has_transparency_data:
        return reduced(image, factors, lambda band: band.convert("L"))
    # Reduced before it is composed with white: what color an invisible pixel has must not count.
    small = reduced(image, factors, lambda band: band.convert("RGBA"))
    white = Image.new("RGBA", small.size, "white")
    return Image.alpha_composite(white, small).convert("L")


def reduced(image: Image.Image, factors: tuple[int, int], convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return `image` converted and then averaged by whole factors, for width and height.

    A large one in bands, which gives the same pixels: converting all of it would take the memory of another one.
    """
    if image.width * image.height <= _MAX_BAND_PIXELS:
        return convert(image).reduce(factors)
    down = factors[1]
    rows = max(_MAX_BAND_PIXELS // image.width // down, 1) * down
    bands = [
        convert(image.crop((0, top, image.width, min(top + rows, image.height)))).reduce(factors)
        for top in range(0, image.height, rows)
    ]
    whole = Image.new(bands[0].mode, (bands[0].width, sum(band.height for band in bands)))
    top = 0
    for band in bands:
        whole.paste(band, (0, top))
        top += band.height
    return whole

"""Converting an image: format, size, orientation. Imported by the decode process only.

The order takes the least memory and time: a JPEG is scaled down while it is decoded, everything is resized before it
is turned or composed with a background, and the original is released before the result is encoded.
"""

import math
import resource
from dataclasses import dataclass
from io import BytesIO
from itertools import starmap
from typing import Any

from PIL import Image, ImageColor, JpegImagePlugin

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import memory, pixels
from pixcrawler_worker.inspection.containers import boxes, webp
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.limits import Limits

#: Lanczos costs 40% more and rings at edges. A gap of 2 averages whole pixels until twice the size is left: at a tenth
#: of the size a quarter of the time, and no difference to see. The JPEG decoder's own scaling stops there as well.
_RESAMPLING, _GAP = Image.Resampling.BICUBIC, 2.0
#: Level 1 is no faster here (zlib-ng), 6 takes twice as long to save a sixth.
_PNG_LEVEL = 3
#: 4 takes twice as long for a tenth of a decibel: 50 Mpx would come close to the deadline.
_WEBP_METHOD, _WEBP_MAX_SIDE = 2, 16_383
#: A seventh of 6's time at a tenth to a quarter more bytes: at 6, 50 Mpx would take twice the deadline.
_AVIF_SPEED = 9
#: Bytes a pixel that its encoder takes: where they are missing, it may crash instead of saying so (libaom). By bands.
_AVIF_BYTES_PER_PIXEL = {"L": 23, "LA": 28, "RGB": 25, "RGBA": 28}
#: From here on, JPEG keeps colors at full resolution (4:4:4); below, at half of it (4:2:0).
_JPEG_FULL_COLOR_FROM = 95

_WITH_ALPHA = {"png", "webp", "gif", "tiff", "avif"}
_WITH_EXIF = _WITH_PROFILE = {"jpg", "png", "webp", "tiff", "avif"}
#: Modes of more than a byte per band that formats hold.
_WIDE = {"png": {"I;16"}, "tiff": {"I;16", "I", "F"}}
#: Formats that keep what a palette or a single bit says, unless it is resized: the colors of a mask are numbers.
_INDEXED = {"png", "gif"}

_EXIF_ORIENTATION, _EXIF_IFD, _EXIF_GPS = 0x0112, 0x8769, 0x8825
#: Description, make, model, software, date, artist, copyright. The others describe how the old file is
#: built (a TIFF's strips, a thumbnail).
_EXIF_KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
#: MakerNote and interoperability point into the old file; the other two are its size.
_EXIF_STALE = {0x927C, 0xA005, 0xA002, 0xA003}
#: A JPEG segment's content.
_MAX_EXIF_BYTES = 65_533
_MAX_PROFILE_BYTES = 1_048_576

#: Segments of a JPEG that say only how to decode it: what they begin with, and their bytes at most. A longer APP0 has a
#: thumbnail.
_JPEG_HARMLESS = {"APP0": (b"JFIF\0", 14), "APP2": (b"ICC_PROFILE\0", 65_533), "APP14": (b"Adobe", 12)}
_JPEG_END = b"\xff\xd9"
#: Parts of other containers that have nothing but pixels, or what is in the `info` of Pillow's image.
_HARMLESS = frozenset(
    {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"ANIM", b"ANMF", b"EXIF", b"XMP "}
    | {b"ftyp", b"meta", b"mdat", b"moov"}
)

#: Those that swap width and height.
_ACROSS = range(5, 9)

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """How the size changes, before the image is turned.

    Attributes:
        box: the part of the image that is kept: left, top, right, bottom.
        size: what that part is resized to.
        canvas: what it is centred on then.
    """

    box: _Box
    size: tuple[int, int]
    canvas: tuple[int, int]

    def keeps(self, size: tuple[int, int]) -> bool:
        """Whether an image of this size stays as it is."""
        return self.box == _all_of(size) and self.size == self.canvas == size


def convert(body: bytes, extension: str, conversion: Conversion, limits: Limits) -> Converted | None:
    """Return the first frame of `body` converted; None when its file is like that already, and nothing was decoded.

    The same file gives the same bytes.

    Raises:
        RejectedError: as `pixels.decode`; TOO_MANY_PIXELS also when the result would be too large.
    """
    with pixels.opened(body, extension, limits, whole=True) as image:
        orientation = pixels.orientation(image)
        turned = conversion.orient and orientation in pixels.TURNS
        plan = _plan(image.size, conversion)
        is_unchanged = extension == conversion.format and plan.keeps(image.size) and not turned
        if is_unchanged and not (conversion.strip and _has_metadata(image, body, extension)):
            return None
        _check_size(plan.canvas, conversion, limits)
        # The tags of a TIFF can be read only before it is decoded, and Pillow turns it then.
        kept = 1 if conversion.orient or extension == "tiff" else orientation
        exif = b"" if conversion.strip else _exif(image, kept)
        own = _tables(image) if conversion.format == "jpg" and plan.keeps(image.size) else {}
        output = _decoded(image, plan, conversion, scale=extension == "jpg")
        profile = image.info.get("icc_profile")
        image.close()
        canvas = plan.canvas
        if turned and extension != "tiff":
            output = output.transpose(pixels.TURNS[orientation])
            canvas = canvas[::-1] if orientation in _ACROSS else canvas
        output = _composed(output, canvas, conversion)
        written = _encoded(output, conversion, exif, profile, own)
        return Converted(body=written, format=conversion.format, width=output.width, height=output.height)


def _tables(image: Image.Image) -> dict[str, Any]:
    """Return the compression of a JPEG: one that keeps its size is encoded with it again.

    At any other quality it would grow, or lose more.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in ("L", "RGB"):
        return {}
    # Pillow cannot write what it cannot name: colors at full resolution lose nothing.
    sampling = JpegImagePlugin.get_sampling(image) if image.mode == "RGB" else 0
    return {"qtables": image.quantization, "subsampling": max(sampling, 0)}


def _plan(size: tuple[int, int], conversion: Conversion) -> _Geometry:
    side = conversion.size
    match conversion.mode:
        case None:
            factor = 1.0
        case "fit" | "pad":
            factor = side / max(size)
        case "cover" | "shortest":
            factor = side / min(size)
    if conversion.only_shrink:
        factor = min(1.0, factor)
    scaled = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    if conversion.mode != "cover" or max(scaled) <= side:
        return _Geometry(_all_of(size), scaled, (side, side) if conversion.mode == "pad" else scaled)
    # Cut off before it is resized: enlarging all of a strip would take all there is.
    covered = (min(side, scaled[0]), min(side, scaled[1]))
    left, right = _middle(size[0], covered[0] / factor, whole=factor == 1)
    top, bottom = _middle(size[1], covered[1] / factor, whole=factor == 1)
    return _Geometry((left, top, right, bottom), covered, covered)


def _all_of(size: tuple[int, int]) -> _Box:
    return 0, 0, *size


def _middle(length: int, kept: float, *, whole: bool) -> tuple[float, float]:
    """Return where the middle part of a side begins and ends, at whole pixels if `whole`."""
    kept = min(kept, length)
    start = (length - kept) / 2
    if whole:
        start = math.floor(start)
    return start, min(start + kept, length)


def _check_size(canvas: tuple[int, int], conversion: Conversion, limits: Limits) -> None:
    limits.check_size(*canvas)
    if conversion.format == "webp" and max(canvas) > _WEBP_MAX_SIDE:
        raise RejectedError(Reason.TOO_MANY_PIXELS, f"a WebP has at most {_WEBP_MAX_SIDE:,} pixels a side")


def _has_metadata(image: Image.Image, body: bytes, extension: str) -> bool:
    """Return whether a file may have metadata besides its pixels.

    PNG, GIF and TIFF are not searched: they have many places for it, and lose nothing when they are encoded again.
    """
    match extension:
        case "bmp":
            return int.from_bytes(body[2:6], "little") != len(body)
        case "webp":
            return "exif" in image.info or "xmp" in image.info or not _HARMLESS.issuperset(webp.parts(body))
        case "avif":
            return "exif" in image.info or "xmp" in image.info or not _HARMLESS.issuperset(boxes.parts(body))
        case "jpg":
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            # Pillow has read up to the first scan. After the end there are other images with metadata of their own, and
            # what phones put there.
            end = body.find(_JPEG_END, image.fp.tell() if image.fp else 0)
            return end + len(_JPEG_END) != len(body) or not all(starmap(_is_harmless, image.applist))
        case _:
            return True


def _is_harmless(name: str, content: bytes) -> bool:
    beginning, most = _JPEG_HARMLESS.get(name, (b"", -1))
    return content.startswith(beginning) and len(content) <= most


def _exif(image: Image.Image, orientation: int) -> bytes:
    """Return the tags that hold for the new file, too; none when they are broken or too many."""
    try:
        found, kept = image.getexif(), Image.Exif()
        for tag in _EXIF_KEPT:
            if tag in found:
                kept[tag] = found[tag]
        for group in (_EXIF_IFD, _EXIF_GPS):
            if values := {tag: value for tag, value in found.get_ifd(group).items() if tag not in _EXIF_STALE}:
                kept[group] = values
        if orientation != 1:
            kept[_EXIF_ORIENTATION] = orientation
        written = kept.tobytes() if kept else b""
    except Exception:  # noqa: BLE001 - for hostile tags Pillow raises nearly everything, and the pixels are good
        return b""
    return written if len(written) <= _MAX_EXIF_BYTES else b""


def _decoded(image: Image.Image, plan: _Geometry, conversion: Conversion, *, scale: bool) -> Image.Image:
    """Return the part that is kept, in its size and in a mode that can be written, apart from its file."""
    size, (left, top, right, bottom) = image.size, plan.box
    factor = 1
    if scale:
        # At least twice the target size, or it would be softer than a reduction of all pixels.
        across, down = (_GAP * plan.size[0] / (right - left), _GAP * plan.size[1] / (bottom - top))
        drafted = image.draft(None, (math.ceil(size[0] * across), math.ceil(size[1] * down)))
        factor = round(size[0] / drafted[1][2]) if drafted else 1
    image = pixels.loaded(image)
    output = _in_a_mode_to_write(image, conversion, resized=not plan.keeps(size))
    if plan.size[0] != right - left or plan.size[1] != bottom - top:
        box = (left / factor, top / factor, right / factor, bottom / factor)
        # Pillow resizes 16 bits, and averages none.
        return output.resize(plan.size, _RESAMPLING, box, None if output.mode == "I;16" else _GAP)
    if plan.box != _all_of(size):
        return output.crop((int(left), int(top), int(right), int(bottom)))
    return output.copy() if output is image else output


def _in_a_mode_to_write(image: Image.Image, conversion: Conversion, *, resized: bool) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # A single transparent gray is more than Pillow converts of these.
        image.info.pop("transparency", None)
        wide = image.convert("I").convert("I;16") if image.mode in ("I;16B", "I;16L") else image
        holds = conversion.mode != "pad" and wide.mode in _WIDE.get(conversion.format, ())
        return wide if holds else pixels.byte_per_band(image)
    if image.mode == "LAB":  # Pillow converts it to nothing; its first band is lightness.
        return image.getchannel(0)
    if conversion.format in _INDEXED and not resized and _is_written_as_it_is(image, conversion.format):
        return image
    mode = "L" if image.mode in ("1", "L", "LA") or _has_a_palette_of_grays(image) else "RGB"
    if image.has_transparency_data:
        mode += "A"
    return image if image.mode == mode else image.convert(mode)


def _is_written_as_it_is(image: Image.Image, format_: str) -> bool:
    """Return whether Pillow writes all of an image with a palette, or with a single bit: also what is transparent."""
    transparency = image.info.get("transparency")
    if image.mode == "P":
        # A GIF has one color that is transparent, and none that is so in part.
        return format_ != "gif" or not isinstance(transparency, bytes)
    return image.mode == "1" and transparency is None


def _has_a_palette_of_grays(image: Image.Image) -> bool:
    palette = image.getpalette() if image.mode == "P" else None
    return palette is not None and palette[::3] == palette[1::3] == palette[2::3]


def _composed(output: Image.Image, canvas: tuple[int, int], conversion: Conversion) -> Image.Image:
    """Return the image in the middle of its background, and opaque where the format has to be."""
    alpha = output.mode in ("LA", "RGBA")
    opaque = alpha and conversion.format not in _WITH_ALPHA
    if output.size == canvas and not opaque:
        return output
    if len(set(ImageColor.getrgb(conversion.background))) > 1 and output.mode in ("L", "LA"):
        output = output.convert("RGBA" if alpha else "RGB")
    ground = Image.new(output.mode.removesuffix("A") if opaque else output.mode, canvas, conversion.background)
    corner = ((canvas[0] - output.width) // 2, (canvas[1] - output.height) // 2)
    ground.paste(output, corner, mask=output.getchannel("A") if opaque else None)
    return ground


def _encoded(
    output: Image.Image, conversion: Conversion, exif: bytes, profile: object, tables: dict[str, Any]
) -> bytes:
    if conversion.format == "gif":
        output = _in_256_colors(output)
    # Encoders write what was read on their own: comments, profiles, a TIFF's tags.
    kept = {"transparency"} if output.mode == "P" else set()
    output.info = {name: value for name, value in output.info.items() if name in kept}
    options: dict[str, Any] = {}
    match conversion.format:
        case "jpg":
            full = conversion.quality >= _JPEG_FULL_COLOR_FROM
            options = tables or {"quality": conversion.quality, "subsampling": "4:4:4" if full else "4:2:0"}
        case "png":
            options = {"compress_level": _PNG_LEVEL}
        case "webp":
            options = {"quality": conversion.quality, "method": _WEBP_METHOD}
        case "avif":
            _check_avif_memory(output)
            options = {"quality": conversion.quality, "speed": _AVIF_SPEED}
    if exif and conversion.format in _WITH_EXIF:
        options["exif"] = exif
    if conversion.format in _WITH_PROFILE and _describes(profile, output.mode, conversion.format):
        options["icc_profile"] = profile
    written = BytesIO()
    try:
        output.save(written, pixels.PILLOW[conversion.format], **options)
    except (RuntimeError, ValueError) as error:
        # This is how libavif and libwebp report a lack of memory: the image is good, since it was decoded.
        raise RejectedError(Reason.TOO_MANY_PIXELS, f"it cannot be encoded as {conversion.format}: {error}") from error
    return written.getvalue()


def _check_avif_memory(output: Image.Image) -> None:
    """Raise RejectedError when encoding an image takes more memory than this process is allowed to have."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY:
        return
    needed = output.width * output.height * _AVIF_BYTES_PER_PIXEL[output.mode]
    if memory.address_space() + needed > allowed:
        raise RejectedError(
            Reason.TOO_MANY_PIXELS,
            f"{output.width}x{output.height} pixels take {needed // 2**20:,} MB to be encoded as AVIF: too much",
        )


def _in_256_colors(output: Image.Image) -> Image.Image:
    """Return the image as a GIF can hold it: by Pillow's fast octree, since median cut would take two minutes."""
    if output.mode == "LA":
        output = output.convert("RGBA")  # of which Pillow keeps what is transparent
    return output.quantize(method=Image.Quantize.FASTOCTREE) if output.mode == "RGB" else output


def _describes(profile: object, mode: str, format_: str) -> bool:
    """Return whether an ICC profile describes such colors (ICC.1, 7.2.6), and is not too large."""
    if not isinstance(profile, bytes) or len(profile) > _MAX_PROFILE_BYTES:
        return False
    colored = mode.startswith(("RGB", "P")) or format_ == "webp"
    return profile[16:20] == (b"RGB " if colored else b"GRAY")

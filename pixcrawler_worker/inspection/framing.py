"""Messages between the worker and its decode process.

Requests are images, each preceded by its length and the operation; responses are preceded by their length: JSON, a
thumbnail, pixels, or an image preceded by a line of JSON. A process that was taken over by an image writes whatever it
likes: every response is read as untrusted input, and what the worker can find out itself, it does not ask.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict
from enum import IntEnum
from typing import Any

from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import FORMATS, WRITTEN_FORMATS, ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.domain.safe_text import safe, safe_lines
from pixcrawler_worker.inspection.conversion import Conversion, Converted
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.sheets import ThumbnailSheet

#: Before every image: the number of bytes that follow, the operation, and its parameter. When the descriptor of an open
#: file comes with it, the image is the content of that file, and the number is the maximum of its bytes.
REQUEST = struct.Struct(">QBQ")
#: Before every response: the number of bytes that follow.
LENGTH = struct.Struct(">Q")
#: Instead of a response: there will be no more of them, and the images that it was sent are for another process.
LEAVING = LENGTH.pack(2**64 - 1)

#: Parameters of an operation, which are bits.
STRICT, HASHED = 1, 2

#: Why an image can be rejected by what opens it.
_REASONS = frozenset(
    {
        Reason.CORRUPT,
        Reason.EMPTY,
        Reason.NOT_AN_IMAGE,
        Reason.TOO_COMPLEX,
        Reason.TOO_MANY_BYTES,
        Reason.TOO_MANY_PIXELS,
        Reason.UNSUPPORTED_FORMAT,
    }
)
#: Characters of a response's text that are kept: of what is one line, and of a traceback.
_MAX_DETAIL, _MAX_TRACEBACK = 1_000, 20_000
#: Digits of the largest number that is read (2**64 has 20).
_MAX_DIGITS = 20
#: Modes of an image in Pillow (docs: handbook/concepts, "Modes").
_MODE = re.compile("1|L|P|RGB|RGBA|CMYK|YCbCr|LAB|HSV|I|F|LA|PA|RGBX|RGBa|La|I;16[LBN]?")
#: In hexadecimal digits; empty when it was not asked for.
_DIGEST = re.compile("([0-9a-f]{64})?")
#: What rounding may add to a measurement.
_ROUNDED = 0.01
#: How a file of a format that is written begins.
_BEGINNINGS = {
    "jpg": rb"\xff\xd8\xff",
    "png": rb"\x89PNG\r\n\x1a\n",
    "webp": rb"RIFF....WEBP",
    "gif": rb"GIF8[79]a",
    "bmp": rb"BM",
    "tiff": rb"II\*\0|MM\0\*",
    "avif": rb"....ftyp",
}
#: Bits of each number of a crop; none is above 512.
_CROP_BITS = 10
#: What precedes pixels in a response: they may be any bytes, those of JSON too.
_PIXELS = b"RGB "
_COMPILED = {format_: re.compile(pattern, re.DOTALL) for format_, pattern in _BEGINNINGS.items()}


class DecodeProcessError(Exception):
    """The decode process can't be used any more.

    Attributes:
        summary: what is wrong with it, in one line.
        traceback: of the bug that it met; None when that is not known.
    """

    def __init__(self, summary: str, traceback: str | None = None) -> None:
        super().__init__(summary)
        self.summary = summary
        self.traceback = traceback


class InvalidResponseError(DecodeProcessError):
    """A response is none that this version of the decode process writes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the image decoder's response is not valid: {what}")


class BrokenDecoderError(DecodeProcessError):
    """The decode process met a bug at an image."""

    def __init__(self, traceback: str) -> None:
        lines = traceback.strip().splitlines()
        super().__init__(f"the image decoder failed: {lines[-1] if lines else 'no traceback'}"[:_MAX_DETAIL], traceback)


class Operation(IntEnum):
    """What is done with an image."""

    FACTS = 0  # the parameter has the bits STRICT and HASHED, also of METRICS
    THUMBNAIL = 1  # the parameter is its longer side
    METRICS = 2  # with the facts
    CONVERT = 3  # the conversion is a line before the image
    SHEET = 4  # of several images, each preceded by its length; the parameter is the side of a cell
    CROP = 5  # the parameter has the crop


def frame(message: bytes) -> bytes:
    """Return the message with its length before it."""
    return LENGTH.pack(len(message)) + message


def unframe(received: bytes | bytearray) -> bytes | None:
    """Return the message at the beginning of `received`; None while some of it is missing."""
    if len(received) < LENGTH.size:
        return None
    end = LENGTH.size + LENGTH.unpack_from(received)[0]
    return bytes(received[LENGTH.size : end]) if len(received) >= end else None


def join_conversion(conversion: Conversion, body: bytes) -> bytes:
    """Return an image with its conversion before it."""
    return json.dumps(asdict(conversion)).encode() + b"\n" + body


def split_conversion(request: bytes) -> tuple[Conversion, bytes]:
    """Return the conversion and the image of a request."""
    line, _, body = request.partition(b"\n")
    return Conversion(**json.loads(line)), body


def pack_crop(crop: Crop) -> int:
    """Return a crop as a parameter: before the image, it would have to be cut off, and take as much memory again."""
    sides = crop.resized if isinstance(crop.resized, tuple) else (crop.resized, 0)
    packed = 0
    for number in (crop.resampling, crop.width, crop.height, *sides):
        packed = packed << _CROP_BITS | number
    return packed


def unpack_crop(parameter: int) -> Crop:
    """Return the crop of a parameter."""
    resampling, width, height, across, down = (
        parameter >> _CROP_BITS * place & (1 << _CROP_BITS) - 1 for place in (4, 3, 2, 1, 0)
    )
    return Crop(width=width, height=height, resized=(across, down) if down else across, resampling=resampling)


def ready_response(sandbox: Mapping[str, str]) -> bytes:
    """Return the first response: the process is ready, with these layers of its sandbox."""
    return json.dumps({"sandbox": dict(sandbox)}).encode()


def facts_response(facts: ImageFacts, metrics: Metrics | None = None) -> bytes:
    """Return the response to an image that was inspected or measured."""
    fields: dict[str, Any] = {name: getattr(facts, name) for name in ImageFacts.__slots__}
    fields["sha256"] = facts.sha256.hex()
    if metrics is not None:
        fields["metrics"] = {name: getattr(metrics, name) for name in Metrics.__slots__}
    return json.dumps(fields).encode()


def conversion_response(converted: Converted | None) -> bytes:
    """Return the response to an image that was converted; it is empty when there was nothing to change."""
    if converted is None:
        return b""
    fields = {"format": converted.format, "width": converted.width, "height": converted.height}
    return json.dumps(fields).encode() + b"\n" + converted.body


def sheet_response(sheet: ThumbnailSheet) -> bytes:
    """Return the response to images of which a sheet was made."""
    return json.dumps({"sizes": sheet.sizes}).encode() + b"\n" + sheet.body


def crop_response(pixels: bytes) -> bytes:
    """Return the response to an image of which a part was cut out."""
    return _PIXELS + pixels


def rejection_response(rejection: RejectedError) -> bytes:
    """Return the response to an image that was rejected."""
    return json.dumps({"rejected": rejection.reason, "detail": rejection.detail}).encode()


def failure_response(traceback: str) -> bytes:
    """Return the response to an image at which the process met a bug. It is its last one."""
    return json.dumps({"failed": traceback[-_MAX_TRACEBACK:]}).encode()


def read_ready(response: bytes) -> dict[str, str]:
    """Return the layers of the sandbox: by name, why one is not in force, or an empty text.

    Raises:
        InvalidResponseError, BrokenDecoderError: it is none.
    """
    if not response:  # of a program that has no sandbox
        return {}
    layers = _fields(response).get("sandbox")
    if not isinstance(layers, dict):
        raise InvalidResponseError("no sandbox")
    return {_line(name): _line(why) for name, why in layers.items()}


def read_facts(response: bytes, limits: Limits) -> ImageFacts:
    """Return the facts in a response, all of them within the limits.

    Raises:
        RejectedError: the image was rejected.
        InvalidResponseError: they are none.
        BrokenDecoderError: the process met a bug.
    """
    return _facts(_fields(response), limits)


def read_metrics(response: bytes, limits: Limits) -> tuple[ImageFacts, Metrics]:
    """Return the facts and the metrics in a response. Raises as `read_facts`."""
    fields = _fields(response)
    measured = fields.pop("metrics", None)
    _check(measured, _METRICS)
    error = measured["strict_error"]
    return _facts(fields, limits), Metrics(**measured | {"strict_error": None if error is None else _line(error)})


def read_thumbnail(response: bytes) -> bytes:
    """Return the JPEG in a response. Raises as `read_facts`."""
    if response.startswith(b"{"):
        _fields(response)
    if not _begins(response, "jpg"):
        raise InvalidResponseError("a thumbnail that is no JPEG")
    return response


def read_sheet(response: bytes, *, tiles: int, side: int) -> ThumbnailSheet:
    """Return the sheet of so many thumbnails in a response, each in a cell of that side. Raises as `read_facts`."""
    line, _, body = response.partition(b"\n")
    sizes = _fields(line).get("sizes")
    if not isinstance(sizes, list) or len(sizes) != tiles or not all(_is_size(size, side) for size in sizes):
        raise InvalidResponseError("sizes that no thumbnails have")
    if not _begins(body, "jpg"):
        raise InvalidResponseError("a sheet that is no JPEG")
    return ThumbnailSheet(body, tuple((width, height) for width, height in sizes))


def _is_size(size: object, side: int) -> bool:
    return (
        isinstance(size, list)
        and len(size) == len(("width", "height"))
        and all(isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= side for one in size)
    )


def read_converted(response: bytes, format_: str, limits: Limits) -> Converted | None:
    """Return the image in `format_` in a response; None when there was nothing to change. Raises as `read_facts`."""
    if not response:
        return None
    line, _, body = response.partition(b"\n")
    fields = _fields(line)
    _check(fields, _CONVERTED)
    _check_size(fields, limits)
    if fields["format"] != format_:
        raise InvalidResponseError("another format than the one to write")
    if len(body) > limits.max_converted_bytes or not _begins(body, format_):
        raise InvalidResponseError(f"a converted image that is no {format_}")
    return Converted(body=body, **fields)


def read_crop(response: bytes, crop: Crop) -> bytes:
    """Return the pixels in a response, row by row, three bytes each. Raises as `read_facts`."""
    if not response.startswith(_PIXELS):
        _fields(response)
        raise InvalidResponseError("no pixels")
    if len(response) != len(_PIXELS) + crop.size:
        raise InvalidResponseError("another number of pixels than there should be")
    return response[len(_PIXELS) :]


def _fields(response: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(response, parse_int=_number)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one of the former
        raise InvalidResponseError(f"no JSON ({type(error).__name__})") from error
    if not isinstance(fields, dict):
        raise InvalidResponseError("no JSON object")
    if "failed" in fields:
        raise BrokenDecoderError(safe_lines(_text(fields["failed"])[-_MAX_TRACEBACK:]))
    if "rejected" in fields:
        reason = fields["rejected"]
        if not isinstance(reason, str) or reason not in _REASONS:
            raise InvalidResponseError("an unknown reason")
        raise RejectedError(Reason(reason), _line(fields.get("detail")))
    return fields


def _begins(body: bytes, format_: str) -> bool:
    return _COMPILED[format_].match(body) is not None


def _number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidResponseError("no text")
    return value


def _line(value: object) -> str:
    return safe(_text(value), max_length=_MAX_DETAIL)


def _facts(fields: dict[str, Any], limits: Limits) -> ImageFacts:
    _check(fields, _FACTS)
    _check_size(fields, limits)
    if fields["frames"] > limits.max_frames:
        raise InvalidResponseError("more frames than there may be")
    return ImageFacts(**fields | {"sha256": bytes.fromhex(fields["sha256"])})


def _check(fields: object, checks: Mapping[str, Callable[[Any], bool]]) -> None:
    """Raise InvalidResponseError unless `fields` has these names and no others, with values that pass their checks."""
    if not isinstance(fields, dict) or fields.keys() != checks.keys():
        raise InvalidResponseError("other fields than there should be")
    for name, check in checks.items():
        if not check(fields[name]):
            raise InvalidResponseError(f"an invalid {name}")


def _check_size(fields: Mapping[str, int], limits: Limits) -> None:
    width, height = fields["width"], fields["height"]
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise InvalidResponseError("more pixels than there may be")


def _integer(lowest: int, highest: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and lowest <= value <= highest


def _fraction(highest: float) -> Callable[[Any], bool]:
    """Return a check of a number from 0 to `highest`."""
    return lambda value: (
        type(value) in {int, float} and math.isfinite(value) and -_ROUNDED <= value <= highest + _ROUNDED
    )


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _one_of(values: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


def _boolean(value: object) -> bool:
    return type(value) is bool


_FACTS = {
    "sha256": _matching(_DIGEST),
    "format": _one_of(FORMATS),
    "width": _integer(1, 2**31),
    "height": _integer(1, 2**31),
    "file_size": _integer(1, 2**63 - 1),
    "mode": _matching(_MODE),
    "frames": _integer(1, 2**31),
    "phash": _integer(0, 2**64 - 1),
    "dhash": _integer(0, 2**64 - 1),
}
_METRICS = {
    "brightness_p5": _fraction(1),
    "brightness_p99": _fraction(1),
    "entropy": _fraction(8),
    "std": _fraction(127.5),
    "sharpness": _fraction(1),
    "channel_delta": _integer(0, 255),
    "transparent": _boolean,
    "orientation": _integer(1, 8),
    "gps": _boolean,
    "strict_error": lambda value: value is None or isinstance(value, str),
}
_CONVERTED = {"format": _one_of(WRITTEN_FORMATS), "width": _integer(1, 2**31), "height": _integer(1, 2**31)}

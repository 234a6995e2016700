"""`preprocessor_config.json`: what an image model of the hub expects of pixels."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.classifiers.protocol import Pixels
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.crop import Crop

FILE = "preprocessor_config.json"
#: Those of CLIP.
_BICUBIC = 3
_CHANNELS = 3
#: Larger than any such file is.
_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a model expects of pixels.

    Attributes:
        crop: the part of an image.
        factor: that each byte is multiplied with.
        mean: of red, green and blue, which is subtracted.
        std: of red, green and blue, which the rest is divided by.
    """

    crop: Crop
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """Return images as the model gets them: their number, three channels, rows, columns."""
        scale = np.float32(self.factor) / np.array(self.std, np.float32)
        offset = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        return np.ascontiguousarray((pixels * scale - offset).transpose(0, 3, 1, 2), dtype=np.float32)


def load(path: Path) -> Preprocessing:
    """Return what the file of a model says.

    Raises:
        PermanentError: when it cannot be read, or says what is not supported; the message names the field.
    """
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_MAX_BYTES))
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PermanentError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise PermanentError(f"{path}: expected an object")
    try:
        return _preprocessing(fields)
    except ValueError as error:
        raise PermanentError(f"{path}: {error}") from error


def _preprocessing(fields: Mapping[str, Any]) -> Preprocessing:
    resized = _resized(fields)
    if _flag(fields, "do_center_crop"):
        width, height = _sides(fields, "crop_size")
    elif isinstance(resized, tuple):
        width, height = resized
    else:
        raise ValueError("do_center_crop: expected true, because size.shortest_edge leaves images of any shape")
    crop = Crop(
        width=width, height=height, resized=resized, resampling=_integer(fields.get("resample", _BICUBIC), "resample")
    )
    factor = _number(fields.get("rescale_factor", 1 / 255), "rescale_factor") if _flag(fields, "do_rescale") else 1.0
    if not _flag(fields, "do_normalize"):
        return Preprocessing(crop, factor, (0.0,) * _CHANNELS, (1.0,) * _CHANNELS)
    mean, std = _channels(fields, "image_mean"), _channels(fields, "image_std")
    if not all(std):
        raise ValueError("image_std: expected numbers that are not 0")
    return Preprocessing(crop, factor, mean, std)


def _resized(fields: Mapping[str, Any]) -> int | tuple[int, int]:
    if not _flag(fields, "do_resize"):
        raise ValueError("do_resize: expected true")
    size = fields.get("size")
    if isinstance(size, dict) and "shortest_edge" in size:
        return _integer(size["shortest_edge"], "size.shortest_edge")
    # A number alone is the shorter side (transformers, CLIPImageProcessor).
    return _integer(size, "size") if isinstance(size, int) else _sides(fields, "size")


def _sides(fields: Mapping[str, Any], name: str) -> tuple[int, int]:
    given = fields.get(name)
    if isinstance(given, dict):
        return _integer(given.get("width"), f"{name}.width"), _integer(given.get("height"), f"{name}.height")
    side = _integer(given, name)
    return side, side


def _channels(fields: Mapping[str, Any], name: str) -> tuple[float, ...]:
    given = fields.get(name)
    if not isinstance(given, list) or len(given) != _CHANNELS:
        raise ValueError(f"{name}: expected three numbers")
    return tuple(_number(one, name) for one in given)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    given = fields.get(name, True)
    if not isinstance(given, bool):
        raise ValueError(f"{name}: expected true or false")  # noqa: TRY004 - of a file
    return given


def _integer(given: object, name: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise ValueError(f"{name}: expected an integer")  # noqa: TRY004 - likewise
    return given


def _number(given: object, name: str) -> float:
    if not isinstance(given, int | float) or isinstance(given, bool) or not math.isfinite(given):
        raise ValueError(f"{name}: expected a number")
    return float(given)

"""`validation_jobs.validation_rules`: what is checked, against what, and how much it counts.

The models here are the vocabulary: their JSON Schema is what documents and APIs show. What each check measures stands
in `domain/checks.py`.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
)

from pixcrawler_worker.domain import checks
from pixcrawler_worker.domain.checks import JOB_CHECKS, METADATA_FIELDS, PIXEL_CHECKS, Check, Mode, Severity
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError


class Level(StrEnum):
    """Which checks are on unless the rules say otherwise."""

    BASIC = "basic"  # on what the crawl recorded; no file is read but those that nobody measured
    STANDARD = "standard"  # the stored bytes are read again, compared, decoded and measured
    STRICT = "strict"  # strict JPEG and near duplicates too, and warnings count as errors


def _format(name: str) -> str:
    plain = name.lower().removeprefix(".").removeprefix("image/")
    plain = {"jpeg": "jpg", "tif": "tiff"}.get(plain, plain)
    if plain not in FORMATS:
        raise ValueError(f"{name!r} is no format; known are {', '.join(FORMATS)}")
    return plain


_Format = Annotated[StrictStr, AfterValidator(_format)]
_Count = Annotated[StrictInt, Field(ge=0)]
_Side = Annotated[StrictInt, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_Sha256 = Annotated[StrictStr, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
_Hash64 = Annotated[StrictStr, StringConstraints(pattern=r"^[0-9a-fA-F]{16}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorCheck(_Strict):
    """A check whose findings make an image invalid, unless told otherwise."""

    severity: Severity = Severity.ERROR


class WarningCheck(_Strict):
    """A check whose findings are warnings, unless told otherwise."""

    severity: Severity = Severity.WARN


class InfoCheck(_Strict):
    """A check whose findings are worth knowing, unless told otherwise."""

    severity: Severity = Severity.INFO


class Decode(ErrorCheck):
    """The file is there, and opens as one of the known formats."""

    max_pixels: _Side = Field(default=50_000_000, description="width x height")
    max_frames: _Side = Field(default=500, description="frames of an animation, pages of a TIFF")
    timeout_s: _Positive = Field(default=20, description="seconds that opening it may take")


class StrictJpeg(WarningCheck):
    """JPEG data has no error, not even one that decoders mend silently."""


class Formats(ErrorCheck):
    """The file is of an allowed format, by its bytes."""

    allow: tuple[_Format, ...] = Field(
        default=FORMATS, min_length=1, description="jpg, png, webp, gif, bmp, tiff, avif"
    )


class ExtensionMatch(WarningCheck):
    """The file's name ends as its format does."""


class ContentHash(ErrorCheck):
    """The stored bytes are those that the crawl stored."""


class FileSize(ErrorCheck):
    """The file is neither tiny nor huge."""

    min_bytes: _Count = 1024
    max_bytes: _Count = 52_428_800


class Dimensions(ErrorCheck):
    """The picture is neither small nor large, in pixels as stored."""

    min_width: _Side = 64
    min_height: _Side = 64
    max_width: _Side | None = None
    max_height: _Side | None = None


class AspectRatio(WarningCheck):
    """The picture is no strip."""

    max_ratio: Annotated[float, Field(ge=1)] = Field(default=3.0, description="longer side over shorter side")


class OddSize(WarningCheck):
    """The picture's size is like that of the others of the job."""

    iqr_factor: _Positive = Field(
        default=3.0, description="interquartile ranges beyond the quartiles of sqrt(width x height)"
    )
    min_images: _Side = Field(default=50, description="with fewer images there is no usual size")


class Dark(WarningCheck):
    """The picture has something that is not dark."""

    p99_below: _Share = Field(default=0.32, description="99th percentile of brightness, 0 to 1")


class Light(WarningCheck):
    """The picture has something that is not white."""

    p5_above: _Share = Field(default=0.95, description="5th percentile of brightness, 0 to 1")


class LowInformation(WarningCheck):
    """The picture shows something."""

    entropy_below: Annotated[float, Field(ge=0, le=8)] = Field(default=3.0, description="bits per gray level")


class Uniform(ErrorCheck):
    """The picture is not of one color."""

    std_below: _Positive = Field(default=2.0, description="standard deviation of gray levels, 0 to 255")


class Blurry(WarningCheck):
    """The picture is sharp."""

    score_below: _Share = Field(default=0.29, description="cleanvision's score, 0 to 1")


class Grayscale(InfoCheck):
    """The picture has colors."""

    max_channel_delta: Annotated[StrictInt, Field(ge=0, le=255)] = 8


class Animated(WarningCheck):
    """The picture stands still."""


class Transparency(InfoCheck):
    """Every pixel is opaque."""


class ColorMode(InfoCheck):
    """The picture is stored as RGB or gray."""


class ExifOrientation(InfoCheck):
    """The picture is stored upright."""


class ExifGps(InfoCheck):
    """The file does not say where it was taken."""


class ExactDuplicate(ErrorCheck):
    """No other image of the job has the same bytes; of those that do, one is kept."""

    keep: Literal["best"] = "best"


class NearDuplicate(WarningCheck):
    """No other image of the job looks the same; of those that do, one is kept."""

    max_distance: Annotated[StrictInt, Field(ge=0, le=6)] = Field(
        default=3, description="bits of 64 between two phashes"
    )
    confirm_distance: Annotated[StrictInt, Field(ge=0, le=64)] = Field(
        default=8, description="bits between the dhashes"
    )
    keep: Literal["best"] = "best"


class BlockedHash(ErrorCheck):
    """The image is none of these."""

    sha256: tuple[_Sha256, ...] = ()
    phash: tuple[_Hash64, ...] = ()


class RequiredMetadata(WarningCheck):
    """These are known of the image."""

    fields: tuple[Literal[METADATA_FIELDS], ...] = ("source_url",)  # type: ignore[valid-type]  # the names are listed once


class Classifier(WarningCheck):
    """A classifier's score is not above a threshold."""

    score_above: float = 0.5


class Checks(_Strict):
    """Each is false, true, or an object with what differs from its defaults; left out, the level decides."""

    decode: Decode | StrictBool | None = None
    strict_jpeg: StrictJpeg | StrictBool | None = None
    formats: Formats | StrictBool | None = None
    extension_match: ExtensionMatch | StrictBool | None = None
    content_hash: ContentHash | StrictBool | None = None
    file_size: FileSize | StrictBool | None = None
    dimensions: Dimensions | StrictBool | None = None
    aspect_ratio: AspectRatio | StrictBool | None = None
    odd_size: OddSize | StrictBool | None = None
    dark: Dark | StrictBool | None = None
    light: Light | StrictBool | None = None
    low_information: LowInformation | StrictBool | None = None
    uniform: Uniform | StrictBool | None = None
    blurry: Blurry | StrictBool | None = None
    grayscale: Grayscale | StrictBool | None = None
    animated: Animated | StrictBool | None = None
    transparency: Transparency | StrictBool | None = None
    color_mode: ColorMode | StrictBool | None = None
    exif_orientation: ExifOrientation | StrictBool | None = None
    exif_gps: ExifGps | StrictBool | None = None
    exact_duplicate: ExactDuplicate | StrictBool | None = None
    near_duplicate: NearDuplicate | StrictBool | None = None
    blocked_hash: BlockedHash | StrictBool | None = None
    required_metadata: RequiredMetadata | StrictBool | None = None


#: The model of each check, by its name.
MODELS: Mapping[str, type[ErrorCheck | WarningCheck | InfoCheck]] = {
    name: field.annotation.__args__[0]  # type: ignore[union-attr]  # every field is such a union
    for name, field in Checks.model_fields.items()
}
_ONLY_STRICT = frozenset({"strict_jpeg", "near_duplicate"})


class ValidationRules(_Strict):
    """The rules of a validation job. `{}` means the level `standard`."""

    version: Literal[1] = 1
    level: Level = Level.STANDARD
    mode: Mode | None = Field(default=None, description="lenient, unless the level is strict")
    checks: Checks = Checks()
    classifiers: Mapping[str, Classifier] = Field(default={}, description="installed classifiers to ask, by name")
    sample: _Side | None = Field(
        default=None, description="images to run_checks, chosen by their ids' hashes; all when left out"
    )

    @property
    def effective_mode(self) -> Mode:
        """The mode, which the level sets unless the rules do."""
        return self.mode or (Mode.STRICT if self.level is Level.STRICT else Mode.LENIENT)

    def active(self) -> dict[str, ErrorCheck | WarningCheck | InfoCheck]:
        """Return the checks that are on, with their parameters."""
        found = {}
        for name, model in MODELS.items():
            given = getattr(self.checks, name)
            if given is True or (given is None and self._is_default(name)):
                found[name] = model()
            elif isinstance(given, model):
                found[name] = given
        return found

    def _is_default(self, name: str) -> bool:
        if self.level is Level.BASIC:
            return name not in PIXEL_CHECKS | _ONLY_STRICT
        return self.level is Level.STRICT or name not in _ONLY_STRICT

    @property
    def reads_pixels(self) -> bool:
        """Whether the stored bytes have to be decoded and measured."""
        return bool(self.classifiers) or not PIXEL_CHECKS.isdisjoint(self.active())

    def image_checks(self) -> list[Check]:
        """Return the active checks of single images, those of classifiers last."""
        alone = {name: check for name, check in self.active().items() if name not in JOB_CHECKS}
        return [checks.image_check(name, check.model_dump()) for name, check in alone.items()] + [
            checks.classifier_check(name, severity=given.severity, score_above=given.score_above)
            for name, given in self.classifiers.items()
        ]


_LEVELS = {"fast": "basic", "medium": "standard", "slow": "strict"}
_MEBIBYTE = 1024 * 1024
#: Names that others use at the top, and where they belong.
_ALIASES = {
    "min_width": ("dimensions", "min_width"),
    "min_height": ("dimensions", "min_height"),
    "min_image_width": ("dimensions", "min_width"),
    "min_image_height": ("dimensions", "min_height"),
    "max_size_mb": ("file_size", "max_bytes"),
    "max_file_size_mb": ("file_size", "max_bytes"),
    "min_file_size_bytes": ("file_size", "min_bytes"),
    "formats": ("formats", "allow"),
    "supported_extensions": ("formats", "allow"),
}


def parse(raw: object) -> ValidationRules:
    """Return the rules in a row.

    Raises:
        PermanentError: on an unknown key, a wrong value, or an alias beside what it stands for; the message names the
            key as it was written.
    """
    if not isinstance(raw, dict):
        raise PermanentError(f"validation_rules must be an object, not {type(raw).__name__}")
    plain, written = _without_aliases(raw)
    _refuse_unknown(plain)
    try:
        return ValidationRules.model_validate(plain)
    except ValidationError as error:
        # A check is a union: its own problem tells more than that it is no boolean either.
        problem = max(error.errors(include_url=False), key=lambda one: len(one["loc"]))
        path = [str(part) for part in problem["loc"] if not (isinstance(part, str) and part[:1].isupper())]
        path = [part for part in path if part != "bool"]
        where = written.get(".".join(path[:3]), ".".join(path))
        raise PermanentError(f"validation_rules: {where}: {problem['msg']}") from None


def _without_aliases(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the rules in their own names, and how each aliased path was written."""
    plain = {str(key): value for key, value in raw.items()}
    written: dict[str, str] = {}
    if isinstance(level := plain.get("level"), str):
        plain["level"] = _LEVELS.get(level, level)
    for alias in [name for name in plain if name in _ALIASES]:
        check, parameter = _ALIASES[alias]
        value = plain.pop(alias)
        if alias.endswith("_mb"):
            value = int(value * _MEBIBYTE) if isinstance(value, int | float) and value is not True else value
        checks = plain.get("checks", {})
        given = checks.get(check, {}) if isinstance(checks, dict) else {}
        if not isinstance(given, dict) or parameter in given:
            raise PermanentError(f"validation_rules: {alias} stands beside checks.{check}: give one of them")
        plain["checks"] = {**(checks if isinstance(checks, dict) else {}), check: {**given, parameter: value}}
        written[f"checks.{check}.{parameter}"] = alias
    return plain, written


def _refuse_unknown(plain: Mapping[str, Any]) -> None:
    _known("", plain, [*ValidationRules.model_fields, *_ALIASES])
    checks = plain.get("checks", {})
    if isinstance(checks, dict):
        _known("checks.", checks, MODELS)
        for name, given in checks.items():
            if isinstance(given, dict):
                _known(f"checks.{name}.", given, MODELS[name].model_fields)


def _known(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    names = list(known)
    for key in given:
        if key not in names:
            raise PermanentError(f"validation_rules: there is no {where}{key}; {hint(str(key), names)}")

"""The rules of a validation, as `validation_jobs.validation_rules` has them: checks, thresholds and severities.

The JSON Schema of these models is what documents and APIs show. `domain/checks.py` has what each check measures.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr, StringConstraints

from pixcrawler_worker import options
from pixcrawler_worker.domain import checks
from pixcrawler_worker.domain.checks import (
    JOB_CHECKS,
    METADATA_FIELDS,
    MODEL_CHECKS,
    PIXEL_CHECKS,
    Check,
    Mode,
    Severity,
)
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.options import (
    Count,
    Expected,
    ImageFormat,
    Integer,
    Name,
    Number,
    Options,
    Sha256,
    Share,
    Size,
)


class Level(StrEnum):
    """Which checks are enabled by default."""

    BASIC = "basic"  # checks of recorded facts; only files without facts are read
    STANDARD = "standard"  # files are read, compared with their digests, decoded and measured
    STRICT = "strict"  # strict JPEG and near duplicates too; warnings count as errors


Positive = Annotated[float, Number(above=0)]
Seconds = Annotated[float, Number(above=0, maximum=3600)]
Hash64 = Annotated[
    StrictStr, StringConstraints(pattern=r"^[0-9a-fA-F]{16}$"), Expected("a hash of 16 hexadecimal digits")
]
#: A text with the place of the label.
Template = Annotated[
    options.Name, StringConstraints(pattern=r"\{label\}"), Expected("a string with the placeholder {label}")
]


class ErrorCheck(Options):
    """A check whose findings are errors by default: they make an image invalid."""

    severity: Severity = Severity.ERROR


class WarningCheck(Options):
    """A check whose findings are warnings by default."""

    severity: Severity = Severity.WARN


class InfoCheck(Options):
    """A check whose findings are information by default."""

    severity: Severity = Severity.INFO


class Decode(ErrorCheck):
    """The file exists and can be decoded as one of the known formats."""

    max_pixels: Size = Field(default=50_000_000, description="width x height; at most PIXCRAWLER_MAX_IMAGE_PIXELS")
    max_frames: Size = Field(default=500, description="frames or pages; at most PIXCRAWLER_MAX_IMAGE_FRAMES")
    timeout_s: Seconds = Field(default=20, description="seconds for decoding; at most PIXCRAWLER_DECODE_SECONDS")


class StrictJpeg(WarningCheck):
    """JPEG data has no errors, not even those that decoders usually ignore."""


class Formats(ErrorCheck):
    """The format of the file is allowed, by its content."""

    allow: tuple[ImageFormat, ...] = Field(
        default=FORMATS, min_length=1, max_length=options.MAX_NAMES, description=", ".join(FORMATS)
    )


class ExtensionMatch(WarningCheck):
    """The extension of the file name matches the format."""


class ContentHash(ErrorCheck):
    """The content of the file is what the crawl stored."""


class FileSize(ErrorCheck):
    """The size of the file is within limits, in bytes."""

    min_bytes: Count = 1024
    max_bytes: Count = 52_428_800


class Dimensions(ErrorCheck):
    """Width and height are within limits, in pixels as stored."""

    min_width: Size = 64
    min_height: Size = 64
    max_width: Size | None = None
    max_height: Size | None = None


class AspectRatio(WarningCheck):
    """The image is not extremely wide or high."""

    max_ratio: Annotated[float, Number(minimum=1)] = Field(default=3.0, description="longer side over shorter side")


class OddSize(WarningCheck):
    """The size of the image is similar to the sizes of the other images of the job."""

    iqr_factor: Positive = Field(
        default=3.0, description="interquartile ranges beyond the quartiles of sqrt(width x height)"
    )
    min_images: Size = Field(default=50, description="images of the job from which on sizes are compared")


class Dark(WarningCheck):
    """The image is not dark everywhere."""

    p99_below: Share = Field(default=0.32, description="99th percentile of brightness, 0 to 1")


class Light(WarningCheck):
    """The image is not white everywhere."""

    p5_above: Share = Field(default=0.95, description="5th percentile of brightness, 0 to 1")


class LowInformation(WarningCheck):
    """The image has information."""

    entropy_below: Annotated[float, Number(minimum=0, maximum=8)] = Field(
        default=3.0, description="bits per gray level"
    )


class Uniform(ErrorCheck):
    """The image has more than one color."""

    std_below: Positive = Field(default=2.0, description="standard deviation of gray levels, 0 to 255")


class Blurry(WarningCheck):
    """The image is sharp."""

    score_below: Share = Field(default=0.29, description="cleanvision's score, 0 to 1")


class Grayscale(InfoCheck):
    """The image has colors."""

    max_channel_delta: Annotated[int, Integer(0, 255)] = 8


class Animated(WarningCheck):
    """The image is not animated."""


class Transparency(InfoCheck):
    """Every pixel is opaque."""


class ColorMode(InfoCheck):
    """The image is stored as RGB or as gray levels."""


class ExifOrientation(InfoCheck):
    """The image is stored upright."""


class ExifGps(InfoCheck):
    """The file has no GPS location."""


class ExactDuplicate(ErrorCheck):
    """No other image of the job has the same content; one of the duplicates is kept."""

    keep: Literal["best"] = "best"


class NearDuplicate(WarningCheck):
    """No other image of the job looks almost the same; one of the near duplicates is kept."""

    max_distance: Annotated[int, Integer(0, 6)] = Field(default=3, description="bits of 64 between two phashes")
    confirm_distance: Annotated[int, Integer(0, 64)] = Field(default=8, description="bits between the dhashes")
    keep: Literal["best"] = "best"


class BlockedHash(ErrorCheck):
    """The image is not one of these."""

    sha256: tuple[Sha256, ...] = ()
    phash: tuple[Hash64, ...] = ()


class RequiredMetadata(WarningCheck):
    """The image has these metadata."""

    fields: tuple[Literal[METADATA_FIELDS], ...] = ("source_url",)  # type: ignore[valid-type]  # the names are listed once


class Relevance(WarningCheck):
    """The image shows its label, as a CLIP model sees it. Needs the extra clip, and PIXCRAWLER_CLIP_MODEL."""

    score_below: Annotated[float, Number(minimum=-1, maximum=1)] = Field(
        default=0.2, description="cosine of image and label, -1 to 1"
    )
    templates: tuple[Template, ...] = Field(
        default=("a photo of {label}",), min_length=1, max_length=100, description="texts about the label; their mean"
    )


class Nsfw(WarningCheck):
    """The image is safe for work, as Yahoo's open_nsfw sees it. Needs the extra nsfw."""

    score_above: Share = Field(default=0.8, description="probability of pornographic content, 0 to 1")


class ClassifierCheck(WarningCheck):
    """The score of a classifier is not above a threshold."""

    score_above: Annotated[float, Number()] = 0.5


class Checks(Options):
    """Each check is false, true, or an object with parameters; by default the level enables it."""

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
    relevance: Relevance | StrictBool | None = None
    nsfw: Nsfw | StrictBool | None = None


#: The model of each check, by its name.
MODELS: Mapping[str, type[ErrorCheck | WarningCheck | InfoCheck]] = {
    name: field.annotation.__args__[0]  # type: ignore[union-attr]  # every field is such a union
    for name, field in Checks.model_fields.items()
}
_ONLY_STRICT = frozenset({"strict_jpeg", "near_duplicate"})


class ValidationRules(Options):
    """The rules of a validation job. `{}` means the level `standard`."""

    version: Literal[1] = 1
    level: Level = Level.STANDARD
    mode: Mode | None = Field(default=None, description="by default lenient, and strict for the level strict")
    checks: Checks = Checks()
    classifiers: Mapping[Name, ClassifierCheck] = Field(
        default={}, max_length=100, description="installed classifiers by name"
    )
    sample: Size | None = Field(
        default=None, description="number of images to validate, chosen by the hashes of their ids; by default all"
    )

    @property
    def effective_mode(self) -> Mode:
        """The mode, which the level sets unless the rules do."""
        return self.mode or (Mode.STRICT if self.level is Level.STRICT else Mode.LENIENT)

    def active(self) -> dict[str, ErrorCheck | WarningCheck | InfoCheck]:
        """Return the enabled checks with their parameters."""
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
        if name in MODEL_CHECKS:
            return False
        return self.level is Level.STRICT or name not in _ONLY_STRICT

    def model_checks(self) -> dict[str, ErrorCheck | WarningCheck | InfoCheck]:
        """Return the enabled checks of what a model says of an image."""
        return {name: check for name, check in self.active().items() if name in MODEL_CHECKS}

    @property
    def has_classifiers(self) -> bool:
        """Whether images are scored."""
        return bool(self.classifiers or self.model_checks())

    @property
    def reads_pixels(self) -> bool:
        """Whether the stored files have to be decoded and measured."""
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
_MAX_MEBIBYTES = MAX_INT4 // _MEBIBYTE
#: Top-level keys that stand for a parameter of a check.
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
_WHERE = "validation_rules"


def parse(raw: object) -> ValidationRules:
    """Return the rules in a row.

    Raises:
        PermanentError: when a key is unknown, a value is invalid, or an alias and the parameter that it stands for are
            both given; the message names the key as it was given.
    """
    if not isinstance(raw, dict):
        return options.parse(ValidationRules, raw, _WHERE)
    plain, aliases = _without_aliases(raw)
    plain, moved = _with_model_checks(plain)
    aliases |= moved
    return options.parse(ValidationRules, plain, _WHERE, aliases=aliases, known_aliases=_ALIASES)


def _without_aliases(raw: Mapping[Any, Any]) -> tuple[dict[Any, Any], dict[options.Path, options.Path]]:
    """Return the rules without aliases, and the alias that was given for each path."""
    plain = dict(raw)
    aliases: dict[options.Path, options.Path] = {}
    if isinstance(level := plain.get("level"), str):
        plain["level"] = _LEVELS.get(level, level)
    for alias in [name for name in plain if name in _ALIASES]:
        check, parameter = _ALIASES[alias]
        value = plain.pop(alias)
        if alias.endswith("_mb"):
            value = _bytes(alias, value)
        given_checks = plain.get("checks", {})
        if not isinstance(given_checks, dict):
            break  # an error of its own
        given = given_checks.get(check, {})
        if not isinstance(given, dict) or parameter in given:
            raise PermanentError(f"{_WHERE}.{alias}: conflicts with checks.{check}: give one of them")
        plain["checks"] = given_checks | {check: given | {parameter: value}}
        aliases["checks", check, parameter] = (alias,)
    return plain, aliases


def _with_model_checks(raw: Mapping[Any, Any]) -> tuple[dict[Any, Any], dict[options.Path, options.Path]]:
    """Return the rules with the checks of models among the checks, if they are given among the classifiers.

    Raises:
        PermanentError: when one is given at both places.
    """
    plain = dict(raw)
    aliases: dict[options.Path, options.Path] = {}
    given, given_checks = plain.get("classifiers"), plain.get("checks", {})
    if not isinstance(given, dict) or not isinstance(given_checks, dict):
        return plain, aliases
    for name in sorted(MODEL_CHECKS & given.keys()):
        if name in given_checks:
            raise PermanentError(f"{_WHERE}.classifiers.{name}: conflicts with checks.{name}: give one of them")
        aliases["checks", name] = ("classifiers", name)
    if aliases:
        plain["classifiers"] = {name: value for name, value in given.items() if name not in MODEL_CHECKS}
        plain["checks"] = given_checks | {name: given[name] for name in MODEL_CHECKS & given.keys()}
    return plain, aliases


def _bytes(alias: str, mebibytes: object) -> int:
    if isinstance(mebibytes, int | float) and not isinstance(mebibytes, bool) and 0 <= mebibytes <= _MAX_MEBIBYTES:
        return int(mebibytes * _MEBIBYTE)
    raise PermanentError(
        f"{_WHERE}.{alias}: expected a number from 0 to {_MAX_MEBIBYTES}, got {options.quoted(mebibytes)}"
    )

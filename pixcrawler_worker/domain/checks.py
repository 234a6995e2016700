"""The checks of a validation: each is a pure function of what is known of one image.

Checks that compare the images of a job with each other (`JOB_CHECKS`) have no function here: see
`validate/comparison.py` and `validate/duplicates.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from pixcrawler_worker.domain.facts import Credit, ImageFacts

Value = float | int | str | None


class Severity(StrEnum):
    """The severity of a finding: an error makes an image invalid; a warning does so in the mode `strict`."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


class Mode(StrEnum):
    """Which findings make an image invalid."""

    STRICT = "strict"  # errors and warnings
    LENIENT = "lenient"  # errors
    REPORT_ONLY = "report_only"  # errors, but the results change neither the crawl job nor exports


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that a check found.

    Attributes:
        check: name of the check in the rules.
        severity: of the check, according to the rules.
        value: what was measured.
        threshold: the limit that the value exceeds; None for checks without one.
    """

    check: str
    severity: Severity
    value: Value
    threshold: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Measurements of pixels and tags: of the first frame, reduced to 256 pixels a side, on a white background.

    Attributes:
        brightness_p5: 5th percentile of brightness, 0 (black) to 1 (white).
        brightness_p99: 99th percentile, likewise.
        entropy: of gray levels, 0 to 8 bits.
        std: standard deviation of gray levels, 0 to 127.5.
        sharpness: cleanvision's blur score, 0 (blurred) to 1.
        channel_delta: largest difference between two channels of a pixel, 0 to 255; about 0 for a gray image.
        transparent: whether any pixel is not opaque.
        orientation: of EXIF, 1 to 8; 1 is upright.
        gps: whether EXIF has a GPS location.
        strict_error: the error of a strict JPEG decoder; None when there is none, or no strict decoder was used.
    """

    brightness_p5: float
    brightness_p99: float
    entropy: float
    std: float
    sharpness: float
    channel_delta: int
    transparent: bool
    orientation: int = 1
    gps: bool = False
    strict_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """What the checks know of an image.

    Attributes:
        filename: of its row.
        source_url: URL that it was downloaded from.
        credit: author and license.
        recorded_sha256: digest in its row; None when the row has none.
        sha256: digest of the stored file; None when the file was not read.
        facts: recorded or measured; None when the file is missing or cannot be decoded.
        broken: why the file cannot be decoded, a `Reason` or `missing`; None when it can, or was not read.
        metrics: None when its pixels were not measured.
        scores: of classifiers, by name; an error message in place of the score of a classifier that failed.
    """

    filename: str
    source_url: str
    credit: Credit = field(default_factory=Credit)
    recorded_sha256: bytes | None = None
    sha256: bytes | None = None
    facts: ImageFacts | None = None
    broken: str | None = None
    metrics: Metrics | None = None
    scores: Mapping[str, float | str] = field(default_factory=dict)


#: The value and the threshold of a finding.
Hit = tuple[Value, Value]
#: Returns a hit for an image with a problem, and None for any other.
Test = Callable[[CheckedImage], Hit | None]


class Check(NamedTuple):
    """An active check of single images."""

    name: str
    severity: Severity
    test: Test


#: Checks that compare all images of a job.
JOB_CHECKS = frozenset({"odd_size", "exact_duplicate", "near_duplicate"})
#: Checks of what a model says of an image. Rules have to enable them: a model is installed or configured first.
MODEL_CHECKS = frozenset({"relevance", "nsfw"})
#: What is found in an image that the worker could not check because of a bug.
INTERNAL_ERROR = "internal_error"
#: Checks that need the stored file read and decoded.
PIXEL_CHECKS = frozenset(
    {
        "decode",
        "strict_jpeg",
        "content_hash",
        "dark",
        "light",
        "low_information",
        "uniform",
        "blurry",
        "grayscale",
        "exif_orientation",
        "exif_gps",
        *MODEL_CHECKS,
    }
)
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_PLAIN_MODES = frozenset({"RGB", "L"})
_EXTENSIONS = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tif": "tiff", "heif": "heic", "hif": "heic"}


def image_check(name: str, parameters: Mapping[str, Any]) -> Check:
    """Return a check of single images.

    Args:
        name: of the check in the rules.
        parameters: of the check in the rules, with its `severity`.
    """
    given = dict(parameters)
    severity = Severity(given.pop("severity"))
    return Check(name, severity, _TESTS[name](**given))


def classifier_check(name: str, *, severity: Severity, score_above: float) -> Check:
    """Return the check of a classifier's score."""
    return Check(name, severity, _on_score(name, lambda score: score > score_above, score_above))


def run_checks(
    image: CheckedImage, checks: Iterable[Check], *, on_error: Callable[[Exception, str], str]
) -> list[Finding]:
    """Return the findings of the checks for an image, in the order of the checks.

    A check that raises finds `INTERNAL_ERROR`, and the others are run nevertheless.

    Args:
        image: what is known of it.
        checks: the active checks.
        on_error: takes what a check raised, and its name; returns a line that says so.
    """
    found = []
    for name, severity, test in checks:
        try:
            hit = test(image)
        except Exception as error:  # noqa: BLE001 - a bug in one check is not one in the others
            found.append(internal_error(f"{name}: {on_error(error, name)}"))
            continue
        if hit is not None:
            found.append(Finding(name, severity, *hit))
    return found


def internal_error(line: str) -> Finding:
    """Return the finding of an image that could not be checked because of a bug, which does not make it invalid.

    Args:
        line: what went wrong.
    """
    return Finding(INTERNAL_ERROR, Severity.INFO, line, None)


def is_valid(findings: Iterable[Finding], mode: Mode) -> bool:
    """Return whether an image with these findings is valid."""
    severities = invalidating(mode)
    return not any(finding.severity in severities for finding in findings)


def invalidating(mode: Mode) -> frozenset[Severity]:
    """Return the severities of findings that make an image invalid."""
    return frozenset({Severity.ERROR, Severity.WARN} if mode is Mode.STRICT else {Severity.ERROR})


def _decode(*, max_pixels: int, max_frames: int, timeout_s: float) -> Test:
    del timeout_s  # the decoder enforces it

    def test(image: CheckedImage) -> Hit | None:
        if image.broken is not None:
            return image.broken, None
        facts = image.facts
        if facts is None:
            return None
        if facts.width * facts.height > max_pixels:
            return facts.width * facts.height, max_pixels
        return (facts.frames, max_frames) if facts.frames > max_frames else None

    return test


def _strict_jpeg() -> Test:
    def test(image: CheckedImage) -> Hit | None:
        error = image.metrics and image.metrics.strict_error
        return (error, None) if error else None

    return test


def _content_hash() -> Test:
    def test(image: CheckedImage) -> Hit | None:
        if None in (image.sha256, image.recorded_sha256) or image.sha256 == image.recorded_sha256:
            return None
        assert image.sha256 is not None
        assert image.recorded_sha256 is not None
        return image.sha256.hex(), image.recorded_sha256.hex()

    return test


def _on_facts(test: Callable[[ImageFacts], Hit | None]) -> Test:
    def on_facts(image: CheckedImage) -> Hit | None:
        return None if image.facts is None else test(image.facts)

    return on_facts


def _on_metrics(test: Callable[[Metrics], Hit | None]) -> Test:
    def on_metrics(image: CheckedImage) -> Hit | None:
        return None if image.metrics is None else test(image.metrics)

    return on_metrics


def _on_score(name: str, is_flagged: Callable[[float], bool], threshold: float) -> Test:
    """Return a test of a classifier's score. What went wrong with it is a hit, too."""

    def on_score(image: CheckedImage) -> Hit | None:
        score = image.scores.get(name)
        if isinstance(score, str):
            return score, None
        return (score, threshold) if score is not None and is_flagged(score) else None

    return on_score


def _relevance(*, score_below: float, templates: Sequence[str]) -> Test:
    del templates  # of the texts that the classifier compares images with
    return _on_score("relevance", lambda score: score < score_below, score_below)


def _nsfw(*, score_above: float) -> Test:
    return _on_score("nsfw", lambda score: score > score_above, score_above)


def _formats(*, allow: Sequence[str]) -> Test:
    allowed, listed = frozenset(allow), ", ".join(allow)
    return _on_facts(lambda facts: None if facts.format in allowed else (facts.format, listed))


def _extension_match() -> Test:
    def test(image: CheckedImage) -> Hit | None:
        if image.facts is None:
            return None
        extension = image.filename.rpartition(".")[2].lower() if "." in image.filename else ""
        matches = _EXTENSIONS.get(extension, extension) == image.facts.format
        return None if matches else (extension, image.facts.format)

    return test


def _file_size(*, min_bytes: int, max_bytes: int) -> Test:
    def test(facts: ImageFacts) -> Hit | None:
        if facts.file_size < min_bytes:
            return facts.file_size, min_bytes
        return (facts.file_size, max_bytes) if facts.file_size > max_bytes else None

    return _on_facts(test)


def _dimensions(*, min_width: int, min_height: int, max_width: int | None, max_height: int | None) -> Test:
    def test(facts: ImageFacts) -> Hit | None:
        size = f"{facts.width}x{facts.height}"
        if facts.width < min_width or facts.height < min_height:
            return size, f"{min_width}x{min_height}"
        if (max_width is not None and facts.width > max_width) or (
            max_height is not None and facts.height > max_height
        ):
            return size, f"{max_width or 'any'}x{max_height or 'any'}"
        return None

    return _on_facts(test)


def _aspect_ratio(*, max_ratio: float) -> Test:
    def test(facts: ImageFacts) -> Hit | None:
        ratio = max(facts.width, facts.height) / min(facts.width, facts.height)
        return (round(ratio, 3), max_ratio) if ratio > max_ratio else None

    return _on_facts(test)


def _dark(*, p99_below: float) -> Test:
    return _on_metrics(lambda m: (m.brightness_p99, p99_below) if m.brightness_p99 < p99_below else None)


def _light(*, p5_above: float) -> Test:
    return _on_metrics(lambda m: (m.brightness_p5, p5_above) if m.brightness_p5 > p5_above else None)


def _low_information(*, entropy_below: float) -> Test:
    return _on_metrics(lambda m: (m.entropy, entropy_below) if m.entropy < entropy_below else None)


def _uniform(*, std_below: float) -> Test:
    return _on_metrics(lambda m: (m.std, std_below) if m.std < std_below else None)


def _blurry(*, score_below: float) -> Test:
    return _on_metrics(lambda m: (m.sharpness, score_below) if m.sharpness < score_below else None)


def _grayscale(*, max_channel_delta: int) -> Test:
    return _on_metrics(lambda m: (m.channel_delta, max_channel_delta) if m.channel_delta <= max_channel_delta else None)


def _animated() -> Test:
    return _on_facts(lambda facts: (facts.frames, 1) if facts.frames > 1 else None)


def _transparency() -> Test:
    def test(image: CheckedImage) -> Hit | None:
        if image.facts is None:
            return None
        transparent = image.metrics.transparent if image.metrics else image.facts.mode in _ALPHA_MODES
        return (image.facts.mode, None) if transparent else None

    return test


def _color_mode() -> Test:
    return _on_facts(lambda facts: None if facts.mode in _PLAIN_MODES else (facts.mode, "RGB, L"))


def _exif_orientation() -> Test:
    return _on_metrics(lambda m: None if m.orientation == 1 else (m.orientation, 1))


def _exif_gps() -> Test:
    return _on_metrics(lambda m: ("GPS", None) if m.gps else None)


def _blocked_hash(*, sha256: Iterable[str], phash: Iterable[str]) -> Test:
    digests = frozenset(bytes.fromhex(one) for one in sha256)
    hashes = frozenset(int(one, 16) for one in phash)

    def test(image: CheckedImage) -> Hit | None:
        digest = image.sha256 or image.recorded_sha256
        if digest in digests:
            assert digest is not None
            return digest.hex(), None
        if image.facts is not None and image.facts.phash in hashes:
            return f"{image.facts.phash:016x}", None
        return None

    return test


#: Fields that `required_metadata` can require.
METADATA_FIELDS = ("source_url", "page_url", "title", "author", "license", "license_url", "attribution")


def _required_metadata(*, fields: Sequence[str]) -> Test:
    def test(image: CheckedImage) -> Hit | None:
        known = {"source_url": image.source_url}
        missing = [name for name in fields if not (known.get(name) or getattr(image.credit, name, None))]
        return (", ".join(missing), None) if missing else None

    return test


_TESTS: Mapping[str, Callable[..., Test]] = {
    "decode": _decode,
    "strict_jpeg": _strict_jpeg,
    "formats": _formats,
    "extension_match": _extension_match,
    "content_hash": _content_hash,
    "file_size": _file_size,
    "dimensions": _dimensions,
    "aspect_ratio": _aspect_ratio,
    "dark": _dark,
    "light": _light,
    "low_information": _low_information,
    "uniform": _uniform,
    "blurry": _blurry,
    "grayscale": _grayscale,
    "animated": _animated,
    "transparency": _transparency,
    "color_mode": _color_mode,
    "exif_orientation": _exif_orientation,
    "exif_gps": _exif_gps,
    "blocked_hash": _blocked_hash,
    "required_metadata": _required_metadata,
    "relevance": _relevance,
    "nsfw": _nsfw,
}

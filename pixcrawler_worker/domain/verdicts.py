"""What a validation finds in one image: each check is a function of what is known of it, and nothing else.

Checks that compare images with each other (`COLLECTIVE`) have no function here; see `validate/duplicates.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pixcrawler_worker.domain.facts import Credit, ImageFacts

Value = float | int | str | None


class Severity(StrEnum):
    """How bad a finding is: only an error makes an image invalid, unless warnings count."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


class Mode(StrEnum):
    """What follows from findings."""

    STRICT = "strict"  # warnings make an image invalid, too
    LENIENT = "lenient"  # only errors do
    REPORT_ONLY = "report_only"  # as lenient, but nothing follows from the verdicts


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        check: its name in the rules.
        severity: as the rules have it.
        value: what was measured.
        threshold: what it was measured against; None when there is no such thing.
    """

    check: str
    severity: Severity
    value: Value
    threshold: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What pixels and tags say; pixels are those of the first frame, reduced to 256 a side, transparency on white.

    Attributes:
        brightness_p5: 5th percentile of brightness, 0 (black) to 1 (white).
        brightness_p99: 99th percentile, likewise.
        entropy: of gray levels, 0 to 8 bits.
        std: standard deviation of gray levels, 0 to 127.5.
        sharpness: cleanvision's blur score, 0 (blurred) to 1.
        channel_delta: largest difference between two of a pixel's channels, 0 to 255; about 0 in a picture without
            color.
        transparent: whether any pixel is not opaque.
        orientation: EXIF's, 1 to 8; 1 is upright.
        gps: whether EXIF has a place.
        strict_error: what a strict JPEG decoder complains of; None when it does not, or was not asked.
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
class Subject:
    """An image as checks see it.

    Attributes:
        filename: from its row.
        source_url: where it was found.
        credit: whose it is.
        recorded_sha256: digest that the crawl recorded; None when nobody did.
        sha256: digest of the stored bytes; None when they were not read.
        facts: what its bytes are, recorded or measured; None when they cannot be opened, or are not there.
        broken: why they cannot be opened, a `Reason` or `missing`; None when they can, or nobody tried.
        metrics: None when its pixels were not measured.
        scores: of classifiers, by their names; in place of a score, why one could not give any.
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


#: What a check answers: the value and the threshold when it found something.
Hit = tuple[Value, Value]
Test = Callable[[Subject], Hit | None]
#: A check that is on: its name, its severity, and what it asks.
Check = tuple[str, Severity, Test]

#: Checks over all images of a job at once.
COLLECTIVE = frozenset({"odd_size", "exact_duplicate", "near_duplicate"})
#: Checks for which the stored bytes have to be read and decoded.
ON_PIXELS = frozenset(
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
    }
)
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_PLAIN_MODES = frozenset({"RGB", "L"})
_EXTENSIONS = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tif": "tiff"}


def check(name: str, parameters: Mapping[str, Any]) -> Check:
    """Return a check with its parameters, `severity` among them, as the rules have them."""
    given = dict(parameters)
    severity = Severity(given.pop("severity"))
    return name, severity, _TESTS[name](**given)


def classifier(name: str, *, severity: Severity, score_above: float) -> Check:
    """Return the check on a classifier's score."""

    def test(image: Subject) -> Hit | None:
        score = image.scores.get(name)
        if isinstance(score, str):
            return score, None
        return (score, score_above) if score is not None and score > score_above else None

    return name, severity, test


def judge(image: Subject, checks: Iterable[Check]) -> list[Finding]:
    """Return what the checks find in an image, in their order."""
    found = []
    for name, severity, test in checks:
        hit = test(image)
        if hit is not None:
            found.append(Finding(name, severity, *hit))
    return found


def is_valid(findings: Iterable[Finding], mode: Mode) -> bool:
    """Return the verdict on an image with these findings."""
    damning = {Severity.ERROR, Severity.WARN} if mode is Mode.STRICT else {Severity.ERROR}
    return not any(finding.severity in damning for finding in findings)


def _decode(*, max_pixels: int, max_frames: int, timeout_s: float) -> Test:
    del timeout_s  # Whoever decodes has kept to it.

    def test(image: Subject) -> Hit | None:
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
    def test(image: Subject) -> Hit | None:
        error = image.metrics and image.metrics.strict_error
        return (error, None) if error else None

    return test


def _content_hash() -> Test:
    def test(image: Subject) -> Hit | None:
        if None in (image.sha256, image.recorded_sha256) or image.sha256 == image.recorded_sha256:
            return None
        assert image.sha256 is not None
        assert image.recorded_sha256 is not None
        return image.sha256.hex(), image.recorded_sha256.hex()

    return test


def _on_facts(test: Callable[[ImageFacts], Hit | None]) -> Test:
    def on_facts(image: Subject) -> Hit | None:
        return None if image.facts is None else test(image.facts)

    return on_facts


def _on_metrics(test: Callable[[Metrics], Hit | None]) -> Test:
    def on_metrics(image: Subject) -> Hit | None:
        return None if image.metrics is None else test(image.metrics)

    return on_metrics


def _formats(*, allow: Sequence[str]) -> Test:
    allowed, listed = frozenset(allow), ", ".join(allow)
    return _on_facts(lambda facts: None if facts.format in allowed else (facts.format, listed))


def _extension_match() -> Test:
    def test(image: Subject) -> Hit | None:
        if image.facts is None:
            return None
        extension = image.filename.rpartition(".")[2].lower() if "." in image.filename else ""
        fits = _EXTENSIONS.get(extension, extension) == image.facts.format
        return None if fits else (extension, image.facts.format)

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
    def test(image: Subject) -> Hit | None:
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

    def test(image: Subject) -> Hit | None:
        digest = image.sha256 or image.recorded_sha256
        if digest in digests:
            assert digest is not None
            return digest.hex(), None
        if image.facts is not None and image.facts.phash in hashes:
            return f"{image.facts.phash:016x}", None
        return None

    return test


#: Fields that `required_metadata` may ask for.
METADATA = ("source_url", "page_url", "title", "author", "license", "license_url", "attribution")


def _required_metadata(*, fields: Sequence[str]) -> Test:
    def test(image: Subject) -> Hit | None:
        known = {"source_url": image.source_url}
        lacking = [name for name in fields if not (known.get(name) or getattr(image.credit, name, None))]
        return (", ".join(lacking), None) if lacking else None

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
}

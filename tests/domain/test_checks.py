"""Each check at its threshold, on what is known of one image."""

from dataclasses import replace
from typing import Any

import pytest
from factories import make_facts

from pixcrawler_worker.domain import checks
from pixcrawler_worker.domain.checks import Check, CheckedImage, Finding, Metrics, Mode, Severity, is_valid
from pixcrawler_worker.domain.facts import Credit

METRICS = Metrics(
    brightness_p5=0.2,
    brightness_p99=0.9,
    entropy=7.0,
    std=50.0,
    sharpness=0.5,
    channel_delta=100,
    transparent=False,
)
DIGEST = bytes(range(32))
GOOD = CheckedImage(
    filename="a.jpg",
    source_url="https://example.org/a.jpg",
    recorded_sha256=DIGEST,
    sha256=DIGEST,
    facts=make_facts("a", sha256=DIGEST, width=300, height=100, file_size=5000),
    metrics=METRICS,
)


def with_facts(**values: Any) -> CheckedImage:
    assert GOOD.facts
    return replace(GOOD, facts=replace(GOOD.facts, **values))


def with_metrics(**values: Any) -> CheckedImage:
    return replace(GOOD, metrics=replace(METRICS, **values))


#: (check, its parameters, an image that just passes, one that just does not, value and threshold of the finding)
BOUNDARIES: list[tuple[str, dict[str, Any], CheckedImage, CheckedImage, object, object]] = [
    (
        "decode",
        {"max_pixels": 30_000, "max_frames": 5, "timeout_s": 20},
        with_facts(frames=5),
        with_facts(width=301),
        30_100,
        30_000,
    ),
    (
        "decode",
        {"max_pixels": 30_000, "max_frames": 5, "timeout_s": 20},
        GOOD,
        with_facts(frames=6),
        6,
        5,
    ),
    (
        "decode",
        {"max_pixels": 30_000, "max_frames": 5, "timeout_s": 20},
        GOOD,
        replace(GOOD, facts=None, metrics=None, broken="corrupt"),
        "corrupt",
        None,
    ),
    ("strict_jpeg", {}, GOOD, with_metrics(strict_error="premature end"), "premature end", None),
    ("formats", {"allow": ("png", "jpg")}, GOOD, with_facts(format="gif"), "gif", "png, jpg"),
    ("extension_match", {}, replace(GOOD, filename="A.JPEG"), replace(GOOD, filename="a.png"), "png", "jpg"),
    ("extension_match", {}, replace(GOOD, filename="a.b.jfif"), replace(GOOD, filename="a"), "", "jpg"),
    (
        "content_hash",
        {},
        replace(GOOD, recorded_sha256=None),
        replace(GOOD, sha256=bytes(32)),
        bytes(32).hex(),
        DIGEST.hex(),
    ),
    ("file_size", {"min_bytes": 5000, "max_bytes": 9000}, GOOD, with_facts(file_size=4999), 4999, 5000),
    (
        "file_size",
        {"min_bytes": 10, "max_bytes": 9000},
        with_facts(file_size=9000),
        with_facts(file_size=9001),
        9001,
        9000,
    ),
    (
        "dimensions",
        {"min_width": 300, "min_height": 100, "max_width": None, "max_height": None},
        GOOD,
        with_facts(width=299),
        "299x100",
        "300x100",
    ),
    (
        "dimensions",
        {"min_width": 1, "min_height": 100, "max_width": None, "max_height": None},
        GOOD,
        with_facts(height=99),
        "300x99",
        "1x100",
    ),
    (
        "dimensions",
        {"min_width": 1, "min_height": 1, "max_width": None, "max_height": 100},
        GOOD,
        with_facts(height=101),
        "300x101",
        "anyx100",
    ),
    ("aspect_ratio", {"max_ratio": 3.0}, GOOD, with_facts(height=99), 3.03, 3.0),
    (
        "aspect_ratio",
        {"max_ratio": 3.0},
        with_facts(width=100, height=300),
        with_facts(width=99, height=300),
        3.03,
        3.0,
    ),
    ("dark", {"p99_below": 0.32}, with_metrics(brightness_p99=0.32), with_metrics(brightness_p99=0.31), 0.31, 0.32),
    ("light", {"p5_above": 0.95}, with_metrics(brightness_p5=0.95), with_metrics(brightness_p5=0.96), 0.96, 0.95),
    ("low_information", {"entropy_below": 3.0}, with_metrics(entropy=3.0), with_metrics(entropy=2.9), 2.9, 3.0),
    ("uniform", {"std_below": 2.0}, with_metrics(std=2.0), with_metrics(std=1.9), 1.9, 2.0),
    ("blurry", {"score_below": 0.29}, with_metrics(sharpness=0.29), with_metrics(sharpness=0.28), 0.28, 0.29),
    ("grayscale", {"max_channel_delta": 8}, with_metrics(channel_delta=9), with_metrics(channel_delta=8), 8, 8),
    ("animated", {}, GOOD, with_facts(frames=2), 2, 1),
    ("transparency", {}, with_facts(mode="RGBA"), with_metrics(transparent=True), "RGB", None),
    (
        "transparency",
        {},
        replace(GOOD, metrics=None),
        replace(with_facts(mode="RGBA"), metrics=None),
        "RGBA",
        None,
    ),
    ("color_mode", {}, with_facts(mode="L"), with_facts(mode="CMYK"), "CMYK", "RGB, L"),
    ("exif_orientation", {}, GOOD, with_metrics(orientation=6), 6, 1),
    ("exif_gps", {}, GOOD, with_metrics(gps=True), "GPS", None),
    (
        "blocked_hash",
        {"sha256": (DIGEST.hex().upper(),), "phash": ()},
        replace(GOOD, sha256=bytes(32)),
        GOOD,
        DIGEST.hex(),
        None,
    ),
    (
        "blocked_hash",
        {"sha256": (), "phash": ("00000000000000ff",)},
        GOOD,
        with_facts(phash=255),
        "00000000000000ff",
        None,
    ),
    (
        "required_metadata",
        {"fields": ("source_url", "license", "author")},
        replace(GOOD, credit=Credit(license="cc0-1.0", author="Ada")),
        replace(GOOD, credit=Credit(license="cc0-1.0", author="")),
        "author",
        None,
    ),
    (
        "relevance",
        {"score_below": 0.2, "templates": ("a photo of {label}",)},
        replace(GOOD, scores={"relevance": 0.2, "relevance_probability": 0.0}),
        replace(GOOD, scores={"relevance": 0.1999}),
        0.1999,
        0.2,
    ),
    (
        "nsfw",
        {"score_above": 0.8},
        replace(GOOD, scores={"nsfw": 0.8}),
        replace(GOOD, scores={"nsfw": 0.8001}),
        0.8001,
        0.8,
    ),
]


def run_checks(image: CheckedImage, active: list[Check]) -> list[Finding]:
    return checks.run_checks(image, active, on_error=lambda error, _: type(error).__name__)


def test_a_check_that_raises_leaves_the_image_valid_and_the_other_checks_are_run() -> None:
    def broken(_image: CheckedImage) -> None:
        raise ZeroDivisionError

    active = [Check("odd", Severity.ERROR, broken), Check("bad", Severity.WARN, lambda _: (1, 2))]
    found = run_checks(GOOD, active)
    assert found == [
        Finding("internal_error", Severity.INFO, "odd: ZeroDivisionError", None),
        Finding("bad", Severity.WARN, 1, 2),
    ]
    assert is_valid(found[:1], Mode.STRICT)


@pytest.mark.parametrize(
    ("name", "parameters", "passes", "fails", "hit"),
    [(*boundary[:4], boundary[4:]) for boundary in BOUNDARIES],
    ids=[f"{number}-{boundary[0]}" for number, boundary in enumerate(BOUNDARIES)],
)
def test_a_value_beyond_the_threshold_is_a_finding_and_one_at_it_is_not(
    name: str, parameters: dict[str, Any], passes: CheckedImage, fails: CheckedImage, hit: tuple[Any, Any]
) -> None:
    check = checks.image_check(name, parameters | {"severity": "warn"})
    assert run_checks(passes, [check]) == []
    assert run_checks(fails, [check]) == [Finding(name, Severity.WARN, *hit)]


def test_every_check_of_single_images_has_a_threshold_here() -> None:
    assert {boundary[0] for boundary in BOUNDARIES} == set(checks._TESTS)  # noqa: SLF001 - the table itself


@pytest.mark.parametrize("name", sorted({boundary[0] for boundary in BOUNDARIES} - {"decode"}))
def test_unknown_values_are_no_findings(name: str) -> None:
    parameters = next(boundary[1] for boundary in BOUNDARIES if boundary[0] == name)
    unknown = CheckedImage(filename="a.jpg", source_url="https://example.org/a.jpg", broken="missing")
    if name == "required_metadata":
        parameters = {"fields": ("source_url",)}
    assert run_checks(unknown, [checks.image_check(name, parameters | {"severity": "error"})]) == []


def test_a_classifiers_score_above_its_threshold_is_a_finding() -> None:
    check = checks.classifier_check("nsfw", severity=Severity.ERROR, score_above=0.5)
    assert run_checks(replace(GOOD, scores={"nsfw": 0.5}), [check]) == []
    assert run_checks(replace(GOOD, scores={}), [check]) == []
    assert run_checks(replace(GOOD, scores={"nsfw": 0.6}), [check]) == [Finding("nsfw", Severity.ERROR, 0.6, 0.5)]
    assert run_checks(replace(GOOD, scores={"nsfw": "failed: x"}), [check]) == [
        Finding("nsfw", Severity.ERROR, "failed: x", None)
    ]


@pytest.mark.parametrize(
    ("severities", "lenient", "strict"),
    [
        ([], True, True),
        (["info"], True, True),
        (["info", "warn"], True, False),
        (["error"], False, False),
        (["warn", "error"], False, False),
    ],
)
def test_only_errors_make_an_image_invalid_unless_warnings_count(
    severities: list[str], *, lenient: bool, strict: bool
) -> None:
    found = [Finding("check", Severity(severity), None, None) for severity in severities]
    assert is_valid(found, Mode.LENIENT) is is_valid(found, Mode.REPORT_ONLY) is lenient
    assert is_valid(found, Mode.STRICT) is strict

"""The rules of a validation: what is valid, and the errors for everything else."""

import json
from typing import Any

import pytest

from pixcrawler_worker.domain.checks import JOB_CHECKS, PIXEL_CHECKS, Mode, Severity
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.validate.rules import MODELS, Level, ValidationRules, parse

#: The checks as they are documented: every check with its defaults.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "decode": {"severity": "error", "max_pixels": 50000000, "max_frames": 500, "timeout_s": 20},
    "strict_jpeg": {"severity": "warn"},
    "formats": {"severity": "error", "allow": ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "jxl"]},
    "extension_match": {"severity": "warn"},
    "content_hash": {"severity": "error"},
    "file_size": {"severity": "error", "min_bytes": 1024, "max_bytes": 52428800},
    "dimensions": {"severity": "error", "min_width": 64, "min_height": 64, "max_width": None, "max_height": None},
    "aspect_ratio": {"severity": "warn", "max_ratio": 3.0},
    "odd_size": {"severity": "warn", "iqr_factor": 3.0, "min_images": 50},
    "dark": {"severity": "warn", "p99_below": 0.32},
    "light": {"severity": "warn", "p5_above": 0.95},
    "low_information": {"severity": "warn", "entropy_below": 3.0},
    "uniform": {"severity": "error", "std_below": 2.0},
    "blurry": {"severity": "warn", "score_below": 0.29},
    "grayscale": {"severity": "info", "max_channel_delta": 8},
    "animated": {"severity": "warn"},
    "transparency": {"severity": "info"},
    "color_mode": {"severity": "info"},
    "exif_orientation": {"severity": "info"},
    "exif_gps": {"severity": "info"},
    "exact_duplicate": {"severity": "error", "keep": "best"},
    "near_duplicate": {"severity": "warn", "max_distance": 3, "confirm_distance": 8, "keep": "best"},
    "blocked_hash": {"severity": "error", "sha256": [], "phash": []},
    "required_metadata": {"severity": "warn", "fields": ["source_url"]},
}

#: Those of what a model says, which no level enables.
MODEL_CHECKS_DOCUMENTED: dict[str, dict[str, Any]] = {
    "relevance": {"severity": "warn", "score_below": 0.2, "templates": ["a photo of {label}"]},
    "nsfw": {"severity": "warn", "score_above": 0.8},
}


def active(raw: object) -> dict[str, dict[str, Any]]:
    return {name: json.loads(check.model_dump_json()) for name, check in parse(raw).active().items()}


def test_the_defaults_are_those_that_are_documented() -> None:
    assert active({"level": "strict"}) == DOCUMENTED
    assert set(MODELS) == set(DOCUMENTED | MODEL_CHECKS_DOCUMENTED)


def test_levels_enable_checks() -> None:
    standard = set(DOCUMENTED) - {"strict_jpeg", "near_duplicate"}
    assert set(active({})) == set(active({"level": "standard"})) == standard
    assert set(active({"level": "basic"})) == standard - PIXEL_CHECKS
    assert not parse({"level": "basic"}).reads_pixels
    assert parse({"level": "basic", "checks": {"blurry": True}}).reads_pixels
    assert parse({}).reads_pixels


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("where", ["checks", "classifiers"])
def test_rules_enable_the_checks_of_models_among_the_checks_or_the_classifiers(level: Level, where: str) -> None:
    given: dict[str, Any] = {"relevance": {"templates": ["{label}"], "severity": "error"}, "nsfw": {}}
    rules = parse({"level": level, where: given})
    assert {name: json.loads(check.model_dump_json()) for name, check in rules.model_checks().items()} == {
        "relevance": MODEL_CHECKS_DOCUMENTED["relevance"] | given["relevance"],
        "nsfw": MODEL_CHECKS_DOCUMENTED["nsfw"],
    }
    assert rules.reads_pixels
    assert rules.has_classifiers
    assert not rules.classifiers
    assert not parse({"level": level}).has_classifiers
    assert parse({"classifiers": {"watermark": {}, "nsfw": {}}}).classifiers.keys() == {"watermark"}


def test_warnings_count_where_the_level_or_the_mode_says_so() -> None:
    assert parse({}).effective_mode is Mode.LENIENT
    assert parse({"level": "strict"}).effective_mode is Mode.STRICT
    assert parse({"level": "strict", "mode": "report_only"}).effective_mode is Mode.REPORT_ONLY


def test_a_check_is_false_true_or_an_object_with_what_differs() -> None:
    rules = parse({"checks": {"blurry": False, "near_duplicate": True, "dark": {"severity": "error"}}})
    assert "blurry" not in rules.active()
    assert active({"checks": {"near_duplicate": True}})["near_duplicate"] == DOCUMENTED["near_duplicate"]
    assert active({"checks": {"dark": {"severity": "error"}}})["dark"] == {"severity": "error", "p99_below": 0.32}
    assert {name for name, _, _ in rules.image_checks()} == set(rules.active()) - JOB_CHECKS


@pytest.mark.parametrize(
    ("alias", "check", "parameter", "value"),
    [
        ({"min_width": 7}, "dimensions", "min_width", 7),
        ({"min_height": 7}, "dimensions", "min_height", 7),
        ({"min_image_width": 7}, "dimensions", "min_width", 7),
        ({"min_image_height": 7}, "dimensions", "min_height", 7),
        ({"max_size_mb": 1.5}, "file_size", "max_bytes", 1572864),
        ({"max_file_size_mb": 2}, "file_size", "max_bytes", 2097152),
        ({"min_file_size_bytes": 5}, "file_size", "min_bytes", 5),
        ({"formats": ["JPEG", "image/png"]}, "formats", "allow", ["jpg", "png"]),
        ({"supported_extensions": [".tif", "jpg"]}, "formats", "allow", ["tiff", "jpg"]),
    ],
    ids=str,
)
def test_aliases_stand_for_parameters(alias: dict[str, Any], check: str, parameter: str, value: object) -> None:
    assert active(alias)[check] == DOCUMENTED[check] | {parameter: value}


@pytest.mark.parametrize(("alias", "level"), [("fast", "basic"), ("medium", "standard"), ("slow", "strict")])
def test_levels_have_aliases(alias: str, level: str) -> None:
    assert parse({"level": alias}).level is Level(level)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "validation_rules: expected an object, got an array"),
        ({"levle": "basic"}, "validation_rules.levle: unknown option, did you mean 'level'?"),
        ({"level": "hard"}, 'validation_rules.level: expected "basic", "standard" or "strict", got "hard"'),
        ({"mode": "hard"}, 'validation_rules.mode: expected "strict", "lenient" or "report_only", got "hard"'),
        ({"checks": []}, "validation_rules.checks: expected an object, got an array"),
        ({"checks": {"blury": True}}, "validation_rules.checks.blury: unknown option, did you mean 'blurry'?"),
        (
            {"checks": {"blurry": {"score_bellow": 1}}},
            "validation_rules.checks.blurry.score_bellow: unknown option, did you mean 'score_below'?",
        ),
        (
            {"checks": {"blurry": {"score_below": 7}}},
            "validation_rules.checks.blurry.score_below: expected a number from 0 to 1, got 7",
        ),
        ({"checks": {"blurry": 3}}, "validation_rules.checks.blurry: expected an object, true or false, got 3"),
        (
            {"checks": {"dark": {"severity": "bad"}}},
            'checks.dark.severity: expected "error", "warn" or "info", got "bad"',
        ),
        (
            {"checks": {"formats": {"allow": ["jpgg"]}}},
            "checks.formats.allow[0]: there is no image format 'jpgg'; did you mean 'jpg'?",
        ),
        (
            {"checks": {"required_metadata": {"fields": ["x"]}}},
            'checks.required_metadata.fields[0]: expected "source_url", ',
        ),
        (
            {"checks": {"relevance": {"templates": ["a photo"]}}},
            'checks.relevance.templates[0]: expected a string with the placeholder {label}, got "a photo"',
        ),
        (
            {"checks": {"relevance": {"templates": ["{label}", 5]}}},
            "checks.relevance.templates[1]: expected a string with the placeholder {label}, got 5",
        ),
        ({"checks": {"relevance": {"templates": []}}}, "checks.relevance.templates: expected at least 1 entries"),
        ({"checks": {"relevance": {"score_below": 3}}}, "relevance.score_below: expected a number from -1 to 1, got 3"),
        (
            {"classifiers": {"relevance": {"score_below": -3}}},
            "validation_rules.classifiers.relevance.score_below: expected a number from -1 to 1, got -3",
        ),
        ({"classifiers": {"nsfw": 5}}, "validation_rules.classifiers.nsfw: expected an object, true or false, got 5"),
        (
            {"classifiers": {"nsfw": {}}, "checks": {"nsfw": True}},
            "validation_rules.classifiers.nsfw: conflicts with checks.nsfw: give one of them",
        ),
        (
            {"classifiers": {"watermark": {"score": 1}}},
            "validation_rules.classifiers.watermark.score: unknown option, did you mean 'score_above'?",
        ),
        (
            {"checks": {"blocked_hash": {"sha256": ["abc"]}}},
            'checks.blocked_hash.sha256[0]: expected a SHA-256 of 64 hexadecimal digits, got "abc"',
        ),
        (
            {"checks": {"near_duplicate": {"max_distance": 7}}},
            "checks.near_duplicate.max_distance: expected an integer from 0 to 6, got 7",
        ),
        ({"min_image_width": "x"}, 'validation_rules.min_image_width: expected an integer of at least 1, got "x"'),
        ({"max_size_mb": "big"}, 'validation_rules.max_size_mb: expected a number from 0 to 2047, got "big"'),
        ({"formats": "jpg"}, 'validation_rules.formats: expected an array, got "jpg"'),
        (
            {"min_width": 3, "checks": {"dimensions": {"min_width": 4}}},
            "validation_rules.min_width: conflicts with checks.dimensions",
        ),
        ({"min_width": 3, "min_image_width": 4}, "validation_rules.min_image_width: conflicts with checks.dimensions"),
        ({"sample": 0}, "validation_rules.sample: expected an integer of at least 1, got 0"),
        (
            {"classifiers": {"nsfw": {"score": 1}}},
            "validation_rules.classifiers.nsfw.score: unknown option, did you mean 'score_above'?",
        ),
        ({"version": 2}, "validation_rules.version: expected 1, got 2"),
    ],
    ids=str,
)
def test_an_invalid_key_or_value_is_named_as_it_was_given(raw: object, message: str) -> None:
    with pytest.raises(PermanentError) as caught:
        parse(raw)
    assert str(caught.value).startswith("validation_rules")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_schema_has_every_check() -> None:
    schema = ValidationRules.model_json_schema()
    assert set(schema["$defs"]["Checks"]["properties"]) == set(DOCUMENTED | MODEL_CHECKS_DOCUMENTED)
    assert {Severity(one) for one in schema["$defs"]["Severity"]["enum"]} == set(Severity)

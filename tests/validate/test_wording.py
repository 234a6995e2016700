"""Every check has words, and every finding a line that says what its numbers are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.checks import Finding, Severity
from pixcrawler_worker.domain.explanations import EXPLANATIONS
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.validate import wording
from pixcrawler_worker.validate.rules import Checks


@pytest.mark.parametrize("check", [*Checks.model_fields, "internal_error"])
def test_every_check_is_described(check: str) -> None:
    assert wording.heading(check).startswith(f"{check}: ")


@pytest.mark.parametrize(
    ("check", "value", "threshold", "line"),
    [
        ("dark", 0.0567, 0.32, "brightness 0.0567, flagged below 0.32"),
        ("light", 0.987654, 0.95, "brightness 0.988, flagged above 0.95"),
        ("decode", "missing", None, "file missing in the storage"),
        ("decode", "corrupt", None, "corrupt image"),
        ("decode", 60_000_000, 50_000_000, "60,000,000 pixels or frames, at most 50,000,000 allowed"),
        ("exact_duplicate", 7, None, "same content as image 7"),
        ("near_duplicate", 7, 3, "looks like image 7"),
        ("extension_match", "png", "jpg", "extension 'png', but the content is jpg"),
        ("watermark", 0.91, 0.8, "score 0.91, flagged above 0.8"),
        ("watermark", "it raised {value}", None, "it raised {value}"),
        ("internal_error", "blurry: ValueError: no", None, "blurry: ValueError: no"),
        ("required_metadata", "author, license", None, "missing: author, license"),
    ],
)
def test_a_finding_is_a_line(check: str, value: float | str, threshold: float | None, line: str) -> None:
    assert wording.describe(Finding(check, Severity.WARN, value, threshold)) == line


@pytest.mark.parametrize("reason", Reason)
def test_a_file_that_cannot_be_decoded_has_the_words_of_the_reason(reason: Reason) -> None:
    assert wording.describe(Finding("decode", Severity.ERROR, reason, None)) == EXPLANATIONS[reason].meaning


VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=80)


@given(check=st.sampled_from([*Checks.model_fields, "internal_error", "of_a_plug_in"]), value=VALUES, threshold=VALUES)
def test_any_finding_has_a_line(check: str, value: float | str | None, threshold: float | str | None) -> None:
    """Other versions and plug-ins write other values."""
    assert isinstance(wording.describe(Finding(check, Severity.INFO, value, threshold)), str)

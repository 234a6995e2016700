"""Every rejection reason has words, the documents have the same, and commands and settings in them exist."""

import re
from pathlib import Path

import pytest

from pixcrawler_worker.domain.explanations import EXPLANATIONS, explain
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.settings import Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "rejection-reasons.md"


def documented() -> dict[str, tuple[str, str]]:
    """Meaning and remedy of the reasons in the table."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return {reason: (meaning, remedy) for reason, meaning, remedy in rows}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained_in_the_program_and_in_the_document(reason: Reason) -> None:
    found = EXPLANATIONS[reason]
    assert documented().get(reason) == (found.meaning, found.remedy)
    assert found.remedy.endswith(".")
    assert len(found.meaning) <= 50


def test_the_document_has_no_other_reasons_and_their_order() -> None:
    assert list(documented()) == list(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_that_may_pass_names_the_retry(reason: Reason) -> None:
    assert ("jobs retry" in EXPLANATIONS[reason].remedy) == reason.is_retriable


def test_the_named_settings_exist() -> None:
    texts = " ".join(found.remedy for found in EXPLANATIONS.values())
    names = set(re.findall(r"PIXCRAWLER_(\w+)", texts))
    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_the_job_is_filled_in() -> None:
    assert "`pixcrawler jobs retry 7`" in explain("timeout", job="7").remedy
    assert "`pixcrawler jobs retry JOB`" in explain("timeout").remedy


def test_a_reason_of_another_version_is_its_own_name() -> None:
    found = explain("too_blue")
    assert (found.meaning, found.remedy) == ("too_blue", "")

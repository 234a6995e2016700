"""The line of the log about an attempt, and its counts."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
from pixcrawler_worker.jobs import attempt_log
from pixcrawler_worker.jobs.attempt_log import End
from pixcrawler_worker.jobs.kind import Report, Rest, Tally


def line(end: End, **values: Any) -> Mapping[str, Any]:
    """The one line of an attempt that took two seconds."""
    with capture_logs() as logs:
        attempt_log.ended("toy", end, began=time.monotonic() - 2, **values)
    (found,) = logs
    assert 2 <= found.pop("seconds") < 3
    return found


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pixcrawler_{name}_total", {"kind": "toy", **labels}) or 0.0


def test_a_completed_chunk_is_one_line_with_counts_reasons_and_the_slowest_hosts() -> None:
    before = count("images", outcome="stored"), count("rejections", reason="timeout"), count("bytes")
    tally = Tally(
        outcomes={"stored": 5, "rejected": 3, "left": 0},
        rejected={Reason.TIMEOUT: 2, Reason.CORRUPT: 1, Reason.EMPTY: 0},
        bytes=1234,
        hosts={"a.example": 0.5, "b.example": 3.123, "c.example": 1.0, "d.example": 2.0},
    )
    found = line(End.COMPLETED, report=Report({}, tally=tally))
    assert found == {
        "event": "chunk completed",
        "log_level": "info",
        "stored": 5,
        "rejected": 3,
        "bytes": 1234,
        "reasons": {"timeout": 2, "corrupt": 1},
        "slowest_hosts": {"b.example": 3.12, "d.example": 2.0, "c.example": 1.0},
    }
    after = count("images", outcome="stored"), count("rejections", reason="timeout"), count("bytes")
    assert [now - then for now, then in zip(after, before, strict=True)] == [5, 2, 1234]


@pytest.mark.parametrize(
    ("outcomes", "level"),
    [
        ({"stored": 3, "rejected": 4}, "warning"),
        ({"stored": 4, "rejected": 4}, "info"),
        ({"rejected": 2}, "info"),
        ({"valid": 1, "invalid": 3}, "warning"),
        ({"exported": 1, "skipped": 3}, "warning"),
        ({"stored": 0, "rejected": 3, "put_off": 5}, "info"),
    ],
)
def test_it_is_a_warning_when_most_was_rejected(outcomes: Mapping[str, int], level: str) -> None:
    tally = Tally(outcomes=outcomes, rejected={"too_small": 1, "corrupt": 2})
    found = line(End.COMPLETED, report=Report({}, tally=tally))
    assert found["log_level"] == level
    assert found.get("top_reason") == ("corrupt" if level == "warning" else None)


def test_a_chunk_that_is_put_back_says_for_how_long_and_for_which_hosts() -> None:
    tally = Tally({"stored": 1, "put_off": 4}, waiting={"a.example": 1, "b.example": 3})
    found = line(End.CONTINUED, report=Report({}, rest=Rest({}, timedelta(seconds=7)), tally=tally))
    assert found == {
        "event": "chunk put back with the rest of its work",
        "log_level": "info",
        "stored": 1,
        "put_off": 4,
        "waiting_for": {"b.example": 3, "a.example": 1},
        "delay": 7.0,
    }


@pytest.mark.parametrize(
    ("end", "error", "expected"),
    [
        (End.FAILED, PermanentError("no"), {"event": "chunk failed", "log_level": "warning", "reason": "no"}),
        (
            End.RELEASED,
            TransientError("later"),
            {"event": "chunk released", "log_level": "warning", "reason": "later", "outage": False},
        ),
        (
            End.RELEASED,
            OutageError("away"),
            {"event": "chunk released", "log_level": "warning", "reason": "away", "outage": True},
        ),
    ],
)
def test_a_chunk_without_a_result_is_one_line_with_the_reason(
    end: End, error: Exception, expected: Mapping[str, object]
) -> None:
    before = count("chunk_attempts", outcome=end)
    assert line(end, error=error) == expected
    assert count("chunk_attempts", outcome=end) == before + 1


def test_what_a_kind_of_another_package_reports_does_not_undo_an_attempt() -> None:
    tally = Tally(outcomes={"stored": "many"})  # type: ignore[dict-item]  # as a plug-in may
    with capture_logs() as logs:
        attempt_log.ended("toy", End.COMPLETED, began=time.monotonic(), report=Report({}, tally=tally))
    assert [entry["event"] for entry in logs] == ["the end of an attempt could not be counted"]

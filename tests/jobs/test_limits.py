from datetime import timedelta
from typing import Any

import pytest

from pixcrawler_worker.celery import app
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits

SECOND = timedelta(seconds=1)


def test_the_order_that_the_ledger_needs_holds() -> None:
    seconds = [
        LIMITS.chunk_budget,
        LIMITS.chunk_deadline,
        LIMITS.soft_time_limit,
        LIMITS.time_limit,
        LIMITS.grace_period,
        LIMITS.visibility_timeout,
    ]
    assert [limit.total_seconds() for limit in seconds] == [200, 600, 840, 900, 1200, 3600]


def test_celery_runs_with_them() -> None:
    assert app.conf.task_soft_time_limit == LIMITS.soft_time_limit.total_seconds()
    assert app.conf.task_time_limit == LIMITS.time_limit.total_seconds()
    assert app.conf.broker_transport_options["visibility_timeout"] == LIMITS.visibility_timeout.total_seconds()


@pytest.mark.parametrize(
    "changed",
    [
        {"chunk_budget": LIMITS.chunk_deadline},
        {"chunk_deadline": LIMITS.soft_time_limit},
        {"chunk_deadline": LIMITS.soft_time_limit - SECOND},  # no time left to write the result
        {"soft_time_limit": LIMITS.time_limit},
        {
            "soft_time_limit": 20 * SECOND,
            "chunk_deadline": 2 * SECOND,
            "chunk_budget": SECOND,
            "transition_time": SECOND,
        },
        {"time_limit": LIMITS.grace_period},
        {"grace_period": LIMITS.visibility_timeout},
        {"visibility_timeout": LIMITS.grace_period},
        {"heartbeats_per_lease": 1},
    ],
    ids=str,
)
def test_limits_in_another_order_are_rejected(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|lease"):
        JobLimits(**changed)


@pytest.mark.parametrize("lease", [1, 60, 600])
def test_a_lease_outlives_two_lost_heartbeats(lease: int) -> None:
    assert LIMITS.heartbeat_interval(timedelta(seconds=lease)) * 3 < timedelta(seconds=lease)

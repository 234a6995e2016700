from datetime import UTC, datetime

import pytest
from ledger import scalar

from pixcrawler_worker.db.session import Sessions


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("infinity", datetime.max.replace(tzinfo=UTC)),
        ("294276-12-31 23:59:59+00", datetime.max.replace(tzinfo=UTC)),
        ("-infinity", datetime.min.replace(tzinfo=UTC)),
        ("4713-01-01 00:00:00+00 BC", datetime.min.replace(tzinfo=UTC)),
        ("2026-01-02 03:04:05+00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_a_time_beyond_the_range_of_python_is_the_end_of_that_range(
    sessions: Sessions, written: str, read: datetime
) -> None:
    assert scalar(sessions, f"SELECT timestamptz '{written}'") == read
    assert scalar(sessions, f"SELECT timestamptz '{written}'").astimezone(UTC).isoformat() == read.isoformat()

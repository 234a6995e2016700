"""The trigger on the documented tables: every update moves `updated_at`, whoever writes it."""

from typing import Any

import ledger
import pytest
from factories import make_job
from sqlalchemy import text

from pixcrawler_worker.db.session import Sessions

TABLES = ("profiles", "projects", "crawl_jobs", "validation_jobs", "export_jobs")
LONG_AGO = "2001-02-03 04:05:06+00"


@pytest.fixture
def rows(sessions: Sessions) -> None:
    """A row in every table, last written long ago."""
    ledger.execute(sessions, "DELETE FROM profiles")
    job_id = make_job(sessions)
    ledger.execute(sessions, f"INSERT INTO validation_jobs (crawl_job_id, name) VALUES ({job_id}, 'check')")
    ledger.execute(
        sessions,
        f"INSERT INTO export_jobs (crawl_job_id, user_id, name) SELECT {job_id}, id, 'archive' FROM profiles",
    )
    for table in TABLES:
        ledger.execute(sessions, f"UPDATE {table} SET updated_at = '{LONG_AGO}'")


def written(sessions: Sessions, table: str) -> Any:
    with sessions.begin() as session:
        return session.scalar(text(f"SELECT updated_at FROM {table}"))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.usefixtures("rows")
def test_an_update_that_does_not_name_it_moves_it(sessions: Sessions, table: str) -> None:
    assert written(sessions, table).year == 2001, "a value that is written stays"
    ledger.execute(sessions, f"UPDATE {table} SET created_at = created_at")
    with sessions.begin() as session:
        seconds = session.scalar(text(f"SELECT extract(epoch FROM clock_timestamp() - updated_at) FROM {table}"))
    assert seconds is not None
    assert 0 <= seconds < 60

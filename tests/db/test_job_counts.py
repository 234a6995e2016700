"""The numbers of jobs and chunks for metrics, in a real database."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import factories
import ledger
import psycopg
import pytest
from factories import TABLES
from sqlalchemy import Engine, text

from pixcrawler_worker.db import job_counts, session
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.errors import TransientError

#: Enough on a machine that is busy.
PATIENT = {"max_query": timedelta(seconds=30), "max_time": timedelta(seconds=60)}


@pytest.fixture(autouse=True)
def no_jobs(sessions: Sessions) -> Iterator[None]:
    yield
    ledger.execute(sessions, "DELETE FROM crawl_jobs")


def test_an_empty_database_has_zeros(engine: Engine) -> None:
    found = job_counts.read(engine, TABLES, **PATIENT)
    kinds = ("crawl", "validation", "export")
    statuses = ("pending", "running", "completed", "failed", "cancelled")
    assert found.jobs == {(kind, status): 0 for kind in kinds for status in statuses}
    assert found.chunks == {(kind, state): 0 for kind in kinds for state in ("queued", "running")}
    assert found.oldest_pending == found.oldest_queued == dict.fromkeys(kinds, 0)
    assert found.oldest_expired == 0
    assert found.left_out == set()


def test_jobs_and_open_chunks_are_counted_by_kind_with_the_ages_of_the_oldest(
    engine: Engine, sessions: Sessions
) -> None:
    crawl = factories.start_job(sessions, chunks=3)
    factories.start_job(sessions, chunks=2, kind=EXPORT_JOBS)
    validation = factories.start_job(sessions, chunks=1, kind=VALIDATION_JOBS)
    ledger.claim(sessions, ledger.chunks_of(sessions, crawl)[0].id)
    running = ledger.claim(sessions, ledger.chunks_of(sessions, validation)[0].id)
    ledger.execute(sessions, "UPDATE crawl_jobs SET created_at = now() - interval '1 hour' WHERE status = 'pending'")
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET available_at = now() - interval '2 hours' WHERE crawl_job_id = :job",
        job=crawl.id,
    )
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET lease_until = now() - interval '10 min' WHERE id = :id",
        id=running.chunk_id,
    )
    found = job_counts.read(engine, TABLES, **PATIENT)
    # A validation and an export have crawl jobs of their own.
    assert {key: count for key, count in found.jobs.items() if count} == {
        ("crawl", "pending"): 2,
        ("crawl", "running"): 1,
        ("validation", "running"): 1,
        ("export", "running"): 1,
    }
    assert {key: count for key, count in found.chunks.items() if count} == {
        ("crawl", "queued"): 2,
        ("crawl", "running"): 1,
        ("validation", "running"): 1,
        ("export", "queued"): 2,
    }
    assert 3600 <= found.oldest_pending["crawl"] < 3660
    assert 7200 <= found.oldest_queued["crawl"] < 7260
    assert 0 <= found.oldest_queued["export"] < 60
    assert found.oldest_queued["validation"] == 0
    assert found.oldest_expired is not None
    assert 600 <= found.oldest_expired < 660


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0001-01-01", "now() + interval '1 hour'"])
def test_odd_times_and_a_status_of_another_program_do_no_harm(engine: Engine, sessions: Sessions, moment: str) -> None:
    factories.start_job(sessions)
    factories.make_job(sessions)
    value = moment if "now" in moment else f"'{moment}'"
    ledger.execute(sessions, f"UPDATE crawl_jobs SET created_at = {value} WHERE status = 'pending'")
    ledger.execute(sessions, f"UPDATE pixcrawler.chunks SET available_at = {value}")
    factories.make_job(sessions, status="paused by the API")
    found = job_counts.read(engine, TABLES, **PATIENT)
    expected = 1_000_000_000 if moment in {"-infinity", "0001-01-01"} else 0
    assert found.oldest_pending["crawl"] == found.oldest_queued["crawl"] == expected
    assert found.jobs["crawl", job_counts.UNKNOWN] == 1


def test_what_takes_too_long_is_left_out_and_the_rest_is_there(
    engine: Engine, database_url: str, sessions: Sessions
) -> None:
    factories.make_job(sessions)
    with closing(psycopg.connect(database_url)) as locking:
        locking.execute("LOCK TABLE pixcrawler.chunks")
        found = job_counts.read(engine, TABLES, max_query=timedelta(seconds=0.1))
    assert found.left_out == {"chunks", "oldest_queued", "oldest_expired"}
    assert found.jobs["crawl", "pending"] == 1
    assert found.oldest_expired is None
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT current_setting('statement_timeout')")) == "15s"


def test_all_of_it_has_an_end(engine: Engine, database_url: str) -> None:
    with closing(psycopg.connect(database_url)) as locking:
        locking.execute("LOCK TABLE pixcrawler.chunks, crawl_jobs")
        found = job_counts.read(engine, TABLES, max_time=timedelta(seconds=0.2))
    assert found.left_out == {"jobs", "chunks", "oldest_pending", "oldest_queued", "oldest_expired"}
    assert found.jobs == {}


def test_a_database_that_is_away_is_a_transient_error() -> None:
    engine = session.connect("postgresql://postgres@127.0.0.1:1/nothing", pool_size=1)
    with pytest.raises(TransientError, match="the database does not answer"):
        job_counts.read(engine, TABLES)
    engine.dispose()

"""The notifications of status changes, as an API listens to them."""

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import factories
import ledger
import psycopg
import pytest
from factories import TABLES

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

#: Whether anything else is to come: the connection waits this long for it, in seconds.
QUIET = 0.3


@pytest.fixture
def heard(database_url: str) -> Iterator[Callable[[int], list[dict[str, Any]]]]:
    """Returns the next notifications, and fails when there are more or fewer."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("LISTEN pixcrawler_jobs")

        def take(count: int) -> list[dict[str, Any]]:
            found = list(connection.notifies(timeout=10, stop_after=count)) if count else []
            found += list(connection.notifies(timeout=QUIET))
            assert len(found) == count
            return [json.loads(notification.payload) for notification in found]

        yield take


def test_each_change_of_a_crawl_is_heard_once_and_nothing_else_of_it(
    runtime: Runtime, heard: Callable[[int], list[dict[str, Any]]]
) -> None:
    job_id = factories.make_job(runtime.sessions)
    ref = CRAWL.table.ref(job_id)
    submission.start(runtime, CRAWL, job_id, {"urls": ["https://example.org/1.jpg"]})
    (chunk_id,) = ledger.ids_of(runtime.sessions, ref)
    ledger.finish(runtime.sessions, ledger.claim(runtime.sessions, chunk_id))
    ledger.at_once(*[partial(submission.cancel, runtime, CRAWL, job_id)] * 3)
    submission.retry(runtime, CRAWL, job_id)
    assert heard(4) == [
        {"kind": "crawl", "id": job_id, "status": status} for status in ("running", "cancelled", "running", "completed")
    ]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_jobs_of_all_kinds_are_named_by_kind_and_id(
    runtime: Runtime, heard: Callable[[int], list[dict[str, Any]]], table: JobTable
) -> None:
    ref = factories.start_job(runtime.sessions, kind=table)
    submission.cancel(runtime, JOB_KINDS[table.name], ref.id)
    last = "cancelled" if table.name == "crawl" else "failed"
    assert heard(2) == [{"kind": table.name, "id": ref.id, "status": status} for status in ("running", last)]


def test_a_change_by_an_api_without_rights_on_the_schema_is_heard_when_it_is_committed(
    runtime: Runtime, database_url: str, heard: Callable[[int], list[dict[str, Any]]]
) -> None:
    job_id = factories.make_job(runtime.sessions)
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE ROLE writer")
        connection.execute("GRANT SELECT, UPDATE ON crawl_jobs TO writer")
        connection.execute("SET ROLE writer")
        for status in ("running", "running"):
            connection.execute("UPDATE crawl_jobs SET status = %s WHERE id = %s", (status, job_id))
        assert heard(0) == []
        connection.execute("SAVEPOINT before")
        connection.execute("UPDATE crawl_jobs SET status = 'failed' WHERE id = %s", (job_id,))
        connection.execute("ROLLBACK TO SAVEPOINT before")
        connection.execute("UPDATE crawl_jobs SET progress = 7, status = status WHERE id = %s", (job_id,))
        connection.execute("RESET ROLE")
        connection.execute("REVOKE ALL ON crawl_jobs FROM writer")
        connection.execute("DROP ROLE writer")
        connection.commit()
        assert heard(1) == [{"kind": "crawl", "id": job_id, "status": "running"}]


def test_they_are_in_a_dump_and_work_where_it_is_restored(
    runtime: Runtime, database_url: str, empty_database_url: str
) -> None:
    job_id = factories.make_job(runtime.sessions, status="running")
    postgres = launcher.locate("postgres")
    assert postgres is not None
    dump = subprocess.run([postgres.with_name("pg_dump"), database_url], check=True, capture_output=True).stdout
    with psycopg.connect(empty_database_url, autocommit=True) as listener:
        listener.execute("LISTEN pixcrawler_jobs")
        restore = [str(postgres.with_name("psql")), "--quiet", "--set", "ON_ERROR_STOP=1", empty_database_url]
        subprocess.run(restore, input=dump, check=True, capture_output=True)
        assert list(listener.notifies(timeout=QUIET)) == [], "what is restored has not changed"
        listener.execute("UPDATE crawl_jobs SET status = 'failed' WHERE id = %s", (job_id,))
        (notification,) = listener.notifies(timeout=10, stop_after=1)
        assert json.loads(notification.payload)["status"] == "failed"

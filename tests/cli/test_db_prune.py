"""`pixcrawler db prune`: what goes, and what stays as it was."""

import json
import threading
from collections.abc import Mapping
from datetime import timedelta

import factories
import psycopg
import pytest
from calls import call
from psycopg.rows import dict_row

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import crawl_history, crawls, retention
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs import sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import finding_counts

#: A job that ended long ago: its chunks have results, and its candidates outcomes.
_SETTLE = """
    UPDATE pixcrawler.chunks SET state = 'completed', payload = jsonb_build_object('source', 'urls', 'query', 'cat',
            'label', 'cat', 'page', seq, 'page_size', 10, 'quota', 10),
        result = jsonb_build_object('offered', 10, 'stored', 1, 'left', jsonb_build_array(3, 4), 'more', false,
            'reasons', jsonb_build_object('too_small', 2, 'not_an_image', seq % 2))
        WHERE crawl_job_id = %(job)s;
    UPDATE public.crawl_jobs SET status = 'completed', progress = 100, completed_chunks = total_chunks,
        total_images = 60, downloaded_images = 50,
        valid_images = 0, completed_at = now() - interval '100 days' WHERE id = %(job)s;
    INSERT INTO pixcrawler.crawl_plans (crawl_job_id, options, cleaned_at)
        VALUES (%(job)s, '{"chunk_size": 10}', now());
    INSERT INTO pixcrawler.crawl_urls SELECT %(job)s, page, ARRAY['http://one/', 'http://two/']
        FROM generate_series(0, 9) page;
    INSERT INTO pixcrawler.crawl_candidates (crawl_job_id, url_hash, url, reason)
        SELECT %(job)s, sha256(n::text::bytea), 'http://example.org/' || n, CASE WHEN n %% 3 = 0 THEN 'too_small' END
        FROM generate_series(1, 60) n;
    INSERT INTO public.activity_logs (action, resource_type, resource_id, timestamp)
        SELECT 'crawl_job.' || event, 'crawl_job', %(job)s, now() - interval '100 days'
        FROM unnest(ARRAY['started', 'completed', 'build_requested']) event
"""


@pytest.fixture(autouse=True)
def clean(database_url: str) -> None:
    _run(database_url, "TRUNCATE public.profiles, public.activity_logs CASCADE")


@pytest.fixture
def job(sessions: Sessions, database_url: str) -> int:
    return settled(sessions, database_url)


def settled(sessions: Sessions, url: str, *changes: str, chunks: int = 8) -> int:
    job_id = factories.start_job(sessions, chunks=chunks).id
    for statement in (_SETTLE + ";" + ";".join(changes)).split(";"):
        if statement.strip():
            _run(url, statement.replace("%(job)s", str(job_id)).replace("%%", "%"))
    return job_id


def _run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def _rows(url: str, query: str) -> list[dict[str, object]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def _count(url: str, table: str) -> int:
    (row,) = _rows(url, f"SELECT count(*)::int AS rows FROM {table}")
    assert isinstance(row["rows"], int)
    return row["rows"]


def _seen(env: Mapping[str, str], sessions: Sessions, url: str, job_id: int) -> list[object]:
    """What users see of a job, and what its counters, retries and reports are made from."""
    shown = json.loads(call(env, "jobs", "show", "--json", str(job_id)).output)
    shown.pop("activity")
    with sessions.begin() as session:
        ref = CRAWL_JOBS.ref(job_id)
        counted = (
            jobs.counters(session, ref),
            crawls.candidate_counts(session, job_id, list_source=planner.URLS),
            crawl_history.reasons(session, job_id),
            crawls.has_retriable(session, ref),
        )
    failures = sorted(call(env, "jobs", "failures", str(job_id)).output.splitlines())
    row = _rows(url, f"SELECT * FROM public.crawl_jobs WHERE id = {job_id}")
    retried = call(env, "jobs", "retry", str(job_id))
    return [shown, counted, failures, row, retried.output, retried.exit_code]


def test_nothing_that_is_seen_changes(
    env: Mapping[str, str], runtime: Runtime, sessions: Sessions, database_url: str, job: int
) -> None:
    before = _seen(env, sessions, database_url, job)
    for number in range(2):
        done = call(env, "db", "prune", "--chunks", "90", "--candidates", "90", "--logs", "90")
        assert done.exit_code == 0, done.output
        assert ("2 entries of activity_logs deleted" in done.output) is (number == 0)
        assert ("7 chunks of 1 crawl jobs deleted" in done.output) is (number == 0)
        assert ("40 candidates of 1 crawl jobs deleted" in done.output) is (number == 0)
        assert _count(database_url, "pixcrawler.chunks") == 1
        assert _count(database_url, "pixcrawler.crawl_candidates") == 20
        assert _rows(database_url, "SELECT action FROM activity_logs") == [{"action": "crawl_job.build_requested"}]
        assert _seen(env, sessions, database_url, job) == before
    # A row that is deleted lets the next sweep count the job again.
    _run(database_url, f"INSERT INTO pixcrawler.recounts (crawl_job_id) VALUES ({job})")
    sweeper.sweep(runtime, JOB_KINDS.values())
    assert _count(database_url, "pixcrawler.recounts") == 0
    assert _seen(env, sessions, database_url, job) == before
    assert _rows(database_url, "SELECT action FROM activity_logs WHERE action LIKE '%repaired'") == []


def test_a_dry_run_deletes_nothing_and_counts_what_a_run_deletes(
    env: Mapping[str, str], database_url: str, job: int
) -> None:
    shown = call(env, "db", "prune", "--chunks", "90", "--candidates", "90", "--logs", "90", "--dry-run").output
    assert _count(database_url, "pixcrawler.chunks") == 8
    done = call(env, "db", "prune", "--chunks", "90", "--candidates", "90", "--logs", "90").output
    assert shown.replace("would be deleted", "deleted") == done
    assert "7 chunks of 1 crawl jobs deleted" in done


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE public.crawl_jobs SET completed_at = now() - interval '89 days' WHERE id = %(job)s",
        "UPDATE public.crawl_jobs SET status = 'running', completed_at = NULL WHERE id = %(job)s",
        "UPDATE public.crawl_jobs SET status = 'cancelled' WHERE id = %(job)s",
        "UPDATE public.crawl_jobs SET status = 'failed' WHERE id = %(job)s",
        "UPDATE public.crawl_jobs SET failed_chunks = 1 WHERE id = %(job)s",
        "UPDATE pixcrawler.chunks SET state = 'failed', error = 'x' WHERE crawl_job_id = %(job)s AND seq = 1",
        """UPDATE pixcrawler.chunks SET result = result || '{"retriable": {"1": "timeout"}}'
            WHERE crawl_job_id = %(job)s AND seq = 1""",
        """UPDATE pixcrawler.crawl_candidates SET retriable = true WHERE crawl_job_id = %(job)s AND url_hash =
            (SELECT url_hash FROM pixcrawler.crawl_candidates WHERE reason IS NOT NULL LIMIT 1)""",
        "UPDATE pixcrawler.crawl_plans SET cleaned_at = NULL WHERE crawl_job_id = %(job)s",
        "UPDATE pixcrawler.crawl_plans SET as_given = true WHERE crawl_job_id = %(job)s",
    ],
)
def test_a_job_that_may_run_again_keeps_its_rows(
    env: Mapping[str, str], sessions: Sessions, database_url: str, change: str
) -> None:
    settled(sessions, database_url, change)
    done = call(env, "db", "prune", "--chunks", "90", "--candidates", "90").output
    assert "0 chunks deleted" in done
    assert "0 candidates deleted" in done
    assert _count(database_url, "pixcrawler.chunks") == 8
    assert _count(database_url, "pixcrawler.crawl_candidates") == 60


@pytest.mark.parametrize("status", ["pending", "running", "failed", "cancelled"])
def test_the_log_of_a_job_that_has_not_completed_stays(
    env: Mapping[str, str], sessions: Sessions, database_url: str, status: str
) -> None:
    settled(sessions, database_url, f"UPDATE public.crawl_jobs SET status = '{status}' WHERE id = %(job)s")
    _run(database_url, "INSERT INTO activity_logs (action, timestamp) VALUES ('login', now() - interval '91 days')")
    _run(database_url, "INSERT INTO activity_logs (action) VALUES ('login')")
    assert "1 entries of activity_logs deleted" in call(env, "db", "prune", "--logs", "90").output
    assert _count(database_url, "activity_logs") == 4


def test_runs_at_once_keep_the_sums_exact(env: Mapping[str, str], sessions: Sessions, database_url: str) -> None:
    job = settled(sessions, database_url, chunks=2500)
    with sessions.begin() as session:
        before = crawls.candidate_counts(session, job, list_source=planner.URLS)
        counters = jobs.counters(session, CRAWL_JOBS.ref(job))
    deleted: list[int] = []

    def prune() -> None:
        age = timedelta(days=90)
        while True:
            with sessions.begin() as session:
                rows = retention.delete_chunks(session, job, age, list_source=planner.URLS)
            deleted.append(rows)
            if not rows:
                return

    threads = [threading.Thread(target=prune) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(deleted) == retention.BATCH
    assert sum(deleted) == 2499
    with sessions.begin() as session:
        assert crawls.candidate_counts(session, job, list_source=planner.URLS) == before
        assert jobs.counters(session, CRAWL_JOBS.ref(job)) == counters


def test_what_is_deleted_has_to_be_named_and_allowed(env: Mapping[str, str], database_url: str) -> None:
    assert call(env, "db", "prune").exit_code == 2
    assert call(env, "db", "prune", "--logs", "0").exit_code == 2
    _run(database_url, "CREATE ROLE prunes_nothing LOGIN")
    _run(database_url, "GRANT USAGE ON SCHEMA pixcrawler TO prunes_nothing")
    try:
        other = database_url.replace("user=pixcrawler", "user=prunes_nothing")
        with pytest.raises(PermanentError, match=r"may not delete rows of public\.activity_logs"):
            call({**env, "PIXCRAWLER_DATABASE_URL": other}, "db", "prune", "--logs", "90")
    finally:
        _run(database_url, "DROP OWNED BY prunes_nothing")
        _run(database_url, "DROP ROLE prunes_nothing")


def other(sessions: Sessions, url: str, kind: JobTable, *changes: str, chunks: int = 8) -> int:
    """Make a validation or an export that ended long ago."""
    job_id = factories.start_job(sessions, chunks=chunks, kind=kind).id
    for change in (
        """UPDATE pixcrawler.chunks SET state = 'completed',
            result = jsonb_build_object('images', 10, 'counts', jsonb_build_object('blank', 2, 'blurry', seq % 2))
            WHERE %(kind)s_job_id = %(job)s""",
        """UPDATE public.%(kind)s_jobs SET status = 'completed', completed_at = now() - interval '100 days'
            WHERE id = %(job)s""",
        *changes,
    ):
        _run(url, change.replace("%(job)s", str(job_id)).replace("%(kind)s", kind.name))
    return job_id


@pytest.mark.parametrize("kind", [VALIDATION_JOBS, EXPORT_JOBS], ids=lambda kind: kind.name)
def test_nothing_that_is_seen_of_validations_and_exports_changes(
    env: Mapping[str, str], sessions: Sessions, database_url: str, kind: JobTable
) -> None:
    job_id, name = other(sessions, database_url, kind), f"{kind.name}:{{}}"

    def seen() -> list[object]:
        shown = json.loads(call(env, "jobs", "show", "--json", name.format(job_id)).output)
        with sessions.begin() as session:
            counted = jobs.counters(session, kind.ref(job_id)), finding_counts.counts(session, job_id)
        retried = call(env, "jobs", "retry", name.format(job_id))
        listed = call(env, "jobs", "list", "--json").output
        return [shown, counted, retried.output, retried.exit_code, listed]

    before = seen()
    assert "8" in str(before)
    dry = call(env, "db", "prune", "--chunks", "90", "--dry-run").output
    assert f"7 chunks of {kind.name}s of 1 jobs would be deleted" in dry
    assert _count(database_url, "pixcrawler.chunks") == 8
    assert dry.replace("would be deleted", "deleted") == call(env, "db", "prune", "--chunks", "90").output
    assert _count(database_url, "pixcrawler.chunks") == 1
    assert seen() == before
    assert f"0 chunks of {kind.name}s deleted" in call(env, "db", "prune", "--chunks", "90").output
    assert seen() == before


@pytest.mark.parametrize("kind", [VALIDATION_JOBS, EXPORT_JOBS], ids=lambda kind: kind.name)
def test_a_validation_or_an_export_that_may_run_again_keeps_its_chunks(
    env: Mapping[str, str], sessions: Sessions, database_url: str, kind: JobTable
) -> None:
    for change in (
        "UPDATE public.%(kind)s_jobs SET completed_at = now() - interval '89 days' WHERE id = %(job)s",
        "UPDATE public.%(kind)s_jobs SET status = 'failed' WHERE id = %(job)s",
        "UPDATE public.%(kind)s_jobs SET status = 'running', completed_at = NULL WHERE id = %(job)s",
        "UPDATE pixcrawler.chunks SET state = 'failed', error = 'x' WHERE %(kind)s_job_id = %(job)s AND seq = 1",
        "UPDATE pixcrawler.chunks SET state = 'cancelled' WHERE %(kind)s_job_id = %(job)s AND seq = 1",
    ):
        other(sessions, database_url, kind, change)
    assert (
        f"0 chunks of {kind.name}s deleted; those of 2 jobs stay" in call(env, "db", "prune", "--chunks", "90").output
    )
    assert _count(database_url, "pixcrawler.chunks") == 40


def test_large_validations_are_pruned_in_batches(env: Mapping[str, str], sessions: Sessions, database_url: str) -> None:
    job_id = other(sessions, database_url, VALIDATION_JOBS, chunks=2500)
    with sessions.begin() as session:
        before = finding_counts.counts(session, job_id)
        assert retention.delete_simple_chunks(session, VALIDATION_JOBS, job_id, timedelta(days=90)) == retention.BATCH
    with sessions.begin() as session:
        assert finding_counts.counts(session, job_id) == before
    assert "1,499 chunks of validations of 1 jobs deleted" in call(env, "db", "prune", "--chunks", "90").output
    with sessions.begin() as session:
        assert finding_counts.counts(session, job_id) == before
        assert jobs.counters(session, VALIDATION_JOBS.ref(job_id)).total == 2500

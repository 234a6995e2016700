"""`pixcrawler db maintain` and `pixcrawler db prune`."""

from collections.abc import Mapping

import psycopg
import pytest
from calls import call
from fakes.postgres_pooler import postgres_pooler

from pixcrawler_worker.db import maintenance, session
from pixcrawler_worker.errors import PermanentError


def _run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _value(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_tables_are_vacuumed_and_invalid_indexes_built_again(env: Mapping[str, str]) -> None:
    url = env["PIXCRAWLER_DATABASE_URL"]
    _run(
        url,
        "CREATE INDEX broken ON public.images (height)",
        "CREATE INDEX ix_image_crawl_job_id_ccnew ON public.images (crawl_job_id)",
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid IN ('public.broken'::regclass, 'public.ix_image_crawl_job_id_ccnew'::regclass)",
    )
    shown = call(env, "db", "maintain", "--dry-run").output
    assert 'REINDEX INDEX CONCURRENTLY "public"."broken"  -- invalid\n' in shown
    assert not _value(url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.broken'::regclass")
    done = call(env, "db", "maintain")
    assert done.exit_code == 0, done.output
    assert "NOT DONE" not in done.output
    assert _value(url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.broken'::regclass")
    assert _value(url, "SELECT to_regclass('public.ix_image_crawl_job_id_ccnew')") is None
    for table in ("pixcrawler.chunks", "public.images", "public.crawl_jobs"):
        assert f"VACUUM (ANALYZE, SKIP_LOCKED) {table}  -- " in done.output
    assert "REINDEX" not in call(env, "db", "maintain").output
    _run(url, "DROP INDEX public.broken")


def test_a_bloated_index_is_built_again(env: Mapping[str, str], database_url: str) -> None:
    _run(
        database_url,
        "INSERT INTO public.activity_logs (action) SELECT 'x' FROM generate_series(1, 20000)",
        "DELETE FROM public.activity_logs WHERE id % 50 <> 0",
    )
    assert "REINDEX" not in call(env, "db", "maintain").output
    size = "SELECT pg_relation_size('public.pk_activity_logs')"
    before = _value(database_url, size)
    engine = session.connect(database_url, pool_size=1)
    steps = [step for step in maintenance.steps(engine, min_wasted_bytes=100_000) if "REINDEX" in step.statement]
    engine.dispose()
    assert {step.statement.split('"')[3] for step in steps} >= {"pk_activity_logs", "ix_activity_log_timestamp"}
    assert not any("images" in step.statement for step in steps)
    with maintenance.exclusive(database_url) as connection:
        assert {maintenance.run(connection, step).error for step in steps} == {None}
    after = _value(database_url, size)
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after < before / 4


def test_only_one_run_maintains_at_a_time(env: Mapping[str, str], database_url: str) -> None:
    with maintenance.exclusive(database_url):
        done = call(env, "db", "maintain")
        assert done.exit_code == 0
        assert done.output.startswith("another run maintains the database: session ")
        assert "None" not in done.output
    # The lock is gone with the connection.
    assert "VACUUM" in call(env, "db", "maintain").output


def test_what_cannot_be_done_now_leaves_the_rest(env: Mapping[str, str], database_url: str) -> None:
    with psycopg.connect(database_url) as migration:
        migration.execute("LOCK TABLE public.projects")
        done = call(env, "db", "maintain")
    assert done.exit_code == 0
    skipped = [line for line in done.output.splitlines() if ": skipped: " in line]
    assert [line.split()[3] for line in skipped] == ["public.projects"]
    assert done.output.splitlines()[-1].endswith(": done")
    with maintenance.exclusive(database_url) as connection:
        missing = maintenance.run(connection, maintenance.Step('REINDEX INDEX CONCURRENTLY "public"."none"', ""))
        assert "does not exist" in (missing.error or "")
        assert not missing.skipped


def test_a_role_that_does_not_own_the_tables_runs_nothing(env: Mapping[str, str], database_url: str) -> None:
    _run(database_url, "CREATE ROLE maintains_nothing LOGIN")
    try:
        other = database_url.replace("user=pixcrawler", "user=maintains_nothing")
        with pytest.raises(PermanentError, match="the role does not own"):
            call({**env, "PIXCRAWLER_DATABASE_URL": other}, "db", "maintain")
    finally:
        _run(database_url, "DROP ROLE maintains_nothing")


def test_a_pooler_is_rejected_before_a_lock_is_taken(env: Mapping[str, str], database_url: str) -> None:
    with postgres_pooler(database_url) as pooled, pytest.raises(PermanentError, match="port of a pooler"):
        call({**env, "PIXCRAWLER_DATABASE_URL": pooled}, "db", "maintain")
    assert _value(database_url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0

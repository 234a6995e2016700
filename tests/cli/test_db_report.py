"""`pixcrawler db report`."""

import json
import threading
import time
from collections.abc import Mapping

import psycopg
from calls import call
from sqlalchemy import Engine

from pixcrawler_worker.db import session, statistics

#: The embedded server is built without the extension: a table with its columns, as its version 1.8 has them.
_STAND_IN = (
    'CREATE SCHEMA "Extensions"',
    """CREATE TABLE "Extensions".pg_stat_statements (dbid oid, calls bigint, total_exec_time float8,
        mean_exec_time float8, rows bigint, query text)""",
    """INSERT INTO "Extensions".pg_stat_statements SELECT oid, 7, 14000, 2000, 70, E'SELECT\\n slow($1)'
        FROM pg_database WHERE datname = current_database()""",
    """INSERT INTO "Extensions".pg_stat_statements SELECT oid, 1, 1, 1, 0, $$ALTER ROLE x PASSWORD 'hunter2'$$
        FROM pg_database WHERE datname = current_database()""",
    """INSERT INTO "Extensions".pg_stat_statements VALUES (1, 1, 99999, 99999, 1, 'SELECT another_database()')""",
    """INSERT INTO pg_extension SELECT 4242, 'pg_stat_statements', 10, n.oid, false, '1.8'
        FROM pg_namespace n WHERE nspname = 'Extensions'""",
)


def test_a_report_fits_a_terminal(env: Mapping[str, str]) -> None:
    with psycopg.connect(env["PIXCRAWLER_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("ANALYZE")
    done = call(env, "db", "report")
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    for part in ("TABLE ", "IDS OF ", "DATABASE ", "INDEX ", "invalid: none", "TRANSACTIONS ", "STATEMENTS"):
        assert part in done.output


def test_unused_and_invalid_indexes_are_named(env: Mapping[str, str]) -> None:
    url = env["PIXCRAWLER_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE INDEX nothing_uses_it ON public.images (width)")
        connection.execute("CREATE INDEX broken ON public.images (height)")
        connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.broken'::regclass")
        try:
            text = call(env, "db", "report").output
            found = json.loads(call(env, "db", "report", "--json").output)
        finally:
            connection.execute("DROP INDEX public.nothing_uses_it, public.broken")
    by_name = {index["name"]: index for index in found["indexes"]}
    assert by_name["public.nothing_uses_it"]["unused"]
    assert not any(index["unused"] for name, index in by_name.items() if name.startswith("public.pk_"))
    assert not by_name["public.broken"]["valid"]
    assert "invalid: 1, " in text
    assert "  public.broken\n" in text
    assert "  public.nothing_uses_it\n" in text


def test_sessions_in_the_way_are_shown_without_secrets(env: Mapping[str, str]) -> None:
    url = env["PIXCRAWLER_DATABASE_URL"]
    engine = session.connect(url, pool_size=2)
    with psycopg.connect(url) as blocker, psycopg.connect(url, autocommit=True) as waiting:
        blocker.execute("LOCK TABLE public.projects")
        blocker.execute("SELECT 'postgresql://user:hunter2@db.example/name'")
        waiter = threading.Thread(target=lambda: waiting.execute("SELECT count(*) FROM public.projects"))
        waiter.start()
        try:
            found = _until_blocked(engine)
            text = call(env, "db", "report").output
        finally:
            blocker.rollback()
            waiter.join()
            engine.dispose()
        pids = blocker.info.backend_pid, waiting.info.backend_pid
    by_pid = {one.pid: one for one in found}
    assert by_pid.keys() == set(pids)
    assert by_pid[pids[1]].blocked_by == (pids[0],)
    assert by_pid[pids[1]].waits_for.startswith("Lock: ")
    assert by_pid[pids[0]].state == "idle in transaction"
    assert by_pid[pids[0]].idle_seconds is not None
    assert f"waits for the locks of {pids[0]}\n" in text
    assert "hunter2" not in text
    assert max(map(len, text.splitlines())) <= 80


def _until_blocked(engine: Engine) -> list[statistics.OpenTransaction]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if found := statistics.transactions(engine):
            return found
    raise AssertionError("no session waits for a lock")


def test_slow_statements_are_listed_where_they_are_counted(env: Mapping[str, str]) -> None:
    assert "STATEMENTS: pg_stat_statements is not there" in call(env, "db", "report").output
    with psycopg.connect(env["PIXCRAWLER_DATABASE_URL"], autocommit=True) as connection:
        for statement in _STAND_IN:
            connection.execute(statement.encode())
        try:
            text = call(env, "db", "report").output
            found = json.loads(call(env, "db", "report", "--json").output)["statements"]
        finally:
            connection.execute("DELETE FROM pg_extension WHERE extname = 'pg_stat_statements'")
            connection.execute('DROP SCHEMA "Extensions" CASCADE')
    assert "hunter2" not in text + json.dumps(found)
    assert found[1]["statement"] == "ALTER ROLE x PASSWORD '***'"
    assert found[0] == {"calls": 7, "seconds": 14.0, "mean_ms": 2000.0, "rows": 70, "statement": "SELECT slow($1)"}
    assert "SELECT slow($1)\n" in text
    assert max(map(len, text.splitlines())) <= 80

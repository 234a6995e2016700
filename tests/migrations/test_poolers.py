"""Migrations through a pooler in transaction mode: nothing of them stays behind for the next run or for others."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import catalog
import psycopg
import pytest
from alembic.util import CommandError
from fakes.pgbouncer import pgbouncer
from fakes.postgres_pooler import postgres_pooler

from pixcrawler_worker.db import migrate, server

_LOCK = int.from_bytes(b"pixcrawl")
#: What a migration sets, and the search path.
_SETTINGS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "search_path", "TimeZone")
_SHOW = "SELECT " + ", ".join(f"current_setting('{name}')" for name in _SETTINGS)


@pytest.fixture(params=["fake", "pgbouncer"])
def pooled(request: pytest.FixtureRequest, database: str) -> Iterator[str]:
    # Outside of the directories of pytest, which another user cannot enter.
    with TemporaryDirectory(prefix="pgbouncer") as directory:
        chosen = postgres_pooler(database) if request.param == "fake" else pgbouncer(database, Path(directory))
        with chosen as url:
            yield url


def fetch(connection: psycopg.Connection, query: str) -> tuple[object, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row


def test_an_upgrade_through_a_pooler_leaves_no_lock_and_no_setting_behind(
    pooled: str, database: str, migrated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as other:
        before = fetch(other, _SHOW)
        seen, ended = set(), threading.Event()

        def look() -> None:
            while not ended.is_set():
                seen.add(fetch(other, _SHOW))
                time.sleep(0.01)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for _ in range(2):
                server.upgrade(pooled)
                assert "through a pooler" in (said := capsys.readouterr().err)
                assert "use the port of PostgreSQL itself" in said
        finally:
            ended.set()
            looking.join()
        assert seen == {before}
        assert fetch(other, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == (0,)
    assert catalog.describe(database) == catalog.describe(migrated)


def test_a_lock_that_is_not_free_is_an_error_that_names_who_has_it(migrated: str) -> None:
    """As an earlier version has left it behind on a connection of a pooler."""
    with psycopg.connect(migrated, autocommit=True, application_name="left behind") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        expected = (
            rf"not free for 1 s: .*held by: pid {connection.info.backend_pid} left behind idle.*pg_terminate_backend"
        )
        with pytest.raises(CommandError, match=expected):
            migrate.upgrade(migrated, lock_seconds=1)
        connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
    migrate.upgrade(migrated, lock_seconds=1)


def test_odd_defaults_of_the_role_change_nothing_in_what_is_migrated(database: str, migrated: str) -> None:
    odd = "&options=" + "".join(
        f"-c%20{setting}%20"
        for setting in (
            "default_transaction_isolation=serializable",
            "search_path=pixcrawler,pg_catalog",
            "standard_conforming_strings=off",
            "statement_timeout=300",
            "lock_timeout=10",
            "TimeZone=Asia/Kathmandu",
        )
    )
    migrate.upgrade(database + odd)
    assert catalog.describe(database) == catalog.describe(migrated)

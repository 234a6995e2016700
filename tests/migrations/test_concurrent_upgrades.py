"""Concurrent migrations, and a migration while the service runs."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import catalog
import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from pixcrawler_worker.db import migrate

PROJECT = Path(__file__).parents[2]
ALEMBIC = Path(sysconfig.get_path("scripts")) / "alembic"

_UPGRADE = "import sys; from pixcrawler_worker.db import migrate; migrate.upgrade(sys.argv[1])"

#: The same number as in `env.py`: all versions must use the same one.
_LOCK = int.from_bytes(b"pixcrawl")


def _start_upgrade(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _UPGRADE, url], stderr=subprocess.PIPE, text=True)


def _start_alembic(url: str) -> subprocess.Popen[str]:
    """Run Alembic in a checkout, with the URL in the variable that hosting platforms set."""
    inherited = {name: value for name, value in os.environ.items() if name != "PIXCRAWLER_DATABASE_URL"}
    environment = inherited | {"DATABASE_URL": url}
    return subprocess.Popen(
        [ALEMBIC, "upgrade", "head"], cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True
    )


def _wait_for(connection: psycopg.Connection, waiting: int) -> None:
    """Return when that many sessions wait for an advisory lock of this database."""
    deadline = time.monotonic() + 30
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
    while connection.execute(query).fetchone() != (waiting,):
        assert time.monotonic() < deadline, "no session waits for the lock"
        time.sleep(0.02)


def test_two_concurrent_upgrades_of_an_empty_database_both_succeed(database: str, migrated: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        upgrades = [_start_upgrade(database), _start_alembic(database)]
        try:
            _wait_for(connection, 2)
            assert catalog.describe(database) == []
            connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
            for upgrade in upgrades:
                _, errors = upgrade.communicate(timeout=60)
                assert (upgrade.returncode, errors) == (0, "")
        finally:
            for upgrade in upgrades:
                upgrade.kill()
                upgrade.communicate()
    assert catalog.describe(database) == catalog.describe(migrated)


def test_a_migration_fails_within_seconds_when_a_table_is_locked(database: str) -> None:
    migrate.upgrade(database, "0001")
    before = catalog.describe(database)
    with psycopg.connect(database) as service:
        # Ends the transaction if the migration waits instead.
        service.execute("SET idle_in_transaction_session_timeout = '8s'")
        # The lock of every transaction that writes to the table.
        service.execute("LOCK TABLE crawl_jobs IN ROW EXCLUSIVE MODE")
        started = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"):
            migrate.upgrade(database)
        assert time.monotonic() - started < 8
        assert catalog.describe(database) == before
        service.rollback()
    migrate.upgrade(database)

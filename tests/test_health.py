import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from pixcrawler_worker import health, settings
from pixcrawler_worker.db import migrate
from pixcrawler_worker.embedded import Services
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.health import Finding

NAMES = ["settings", "database", "migrations", "clock", "broker", "storage", "sources"]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test, which runs in an empty directory."""
    for name in os.environ:
        if name.startswith("PIXCRAWLER_") or name in {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def all_well(database_url: str, services: Services, tmp_path: Path) -> dict[str, str]:
    return {"database_url": database_url, "broker_url": services.broker_url, "storage_url": tmp_path.as_uri()}


def examined(configured: dict[str, str]) -> dict[str, Finding]:
    findings = health.examine(settings.load(**configured))
    assert [finding.name for finding in findings] == NAMES
    for finding in findings:
        assert finding.detail
        assert "\n" not in finding.detail
        assert "hunter2" not in finding.detail
    return {finding.name: finding for finding in findings}


def ill(configured: dict[str, str], *names: str) -> str:
    """Exactly these checks fail; what the first of them says."""
    found = examined(configured)
    assert [name for name in NAMES if not found[name].well] == list(names)
    return found[names[0]].detail


@contextmanager
def revision(database_url: str, number: str) -> Iterator[None]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE pixcrawler.alembic_version SET version_num = %s", [number])
        try:
            yield
        finally:
            connection.execute("UPDATE pixcrawler.alembic_version SET version_num = %s", [migrate.head()])


@contextmanager
def server_setting(redis_url: str, name: str, value: str) -> Iterator[None]:
    with redis.Redis.from_url(redis_url) as server:
        before = server.config_get(name)[name]
        server.config_set(name, value)
        try:
            yield
        finally:
            server.config_set(name, before)


def test_all_is_well(all_well: dict[str, str], tmp_path: Path) -> None:
    found = examined(all_well)
    assert [finding for finding in found.values() if not finding.well] == []
    assert found["database"].detail.startswith("PostgreSQL 18")
    assert found["migrations"].detail == f"at {migrate.head()}, the newest"
    assert found["broker"].detail.startswith("Redis ")
    assert found["sources"].detail == "usable: commons, openverse, urls"
    assert [entry for entry in (tmp_path / "health").iterdir() if entry.is_file()] == [], "it leaves no file behind"


def test_nothing_is_configured() -> None:
    detail = ill({}, "database", "migrations", "clock", "broker")
    assert "set PIXCRAWLER_DATABASE_URL" in detail


def test_a_slip_in_a_setting(all_well: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXCRAWLER_LEASE_SECOND", "5")
    assert ill(all_well, "settings") == (
        "PIXCRAWLER_LEASE_SECOND means nothing here, did you mean PIXCRAWLER_LEASE_SECONDS?"
    )


def test_a_name_that_is_somebody_elses(all_well: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXCRAWLER_API_HOST", "0.0.0.0")
    found = examined(all_well)["settings"]
    assert found.well
    assert "PIXCRAWLER_API_HOST" in found.detail


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://user:hunter2@127.0.0.1:1/pixcrawler", "Connection refused"),
        ("postgresql:///pixcrawler?host=/nowhere&password=hunter2", "the database does not answer"),
        ("postgresql://user:hunter2@127.0.0.1:1/pixcrawler?color=red", 'invalid connection option "color"'),
        ("postgresql://user:hunter2@127.0.0.1:port/pixcrawler", "cannot be read"),
        ("mysql://user:hunter2@127.0.0.1/pixcrawler", "must begin with postgresql://"),
    ],
)
def test_the_database_is_away(all_well: dict[str, str], address: str, said: str) -> None:
    assert said in ill(all_well | {"database_url": address}, "database", "migrations", "clock")


def test_the_database_has_no_tables(all_well: dict[str, str], empty_database_url: str) -> None:
    without = all_well | {"database_url": empty_database_url}
    assert "run `pixcrawler db upgrade`" in ill(without, "migrations")
    with pytest.raises(PermanentError, match="no tables yet"):
        health.require_migrated(settings.load(**without))


def test_the_database_is_at_another_migration(all_well: dict[str, str], database_url: str) -> None:
    with revision(database_url, "0001"):
        detail = ill(all_well, "migrations")
    assert detail == (
        f"the database is at migration 0001, this version needs {migrate.head()}: run `pixcrawler db upgrade`"
    )


def test_a_worker_may_start_where_the_tables_are_right_and_waits_where_nobody_answers(all_well: dict[str, str]) -> None:
    health.require_migrated(settings.load(**all_well))
    away = all_well | {"database_url": "postgresql://user:hunter2@127.0.0.1:1/pixcrawler"}
    with pytest.raises(TransientError, match="does not answer"):
        health.require_migrated(settings.load(**away))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("redis://:hunter2@127.0.0.1:1/0", "Connection refused"),
        ("redis+socket:///nowhere?virtual_host=0", "No such file"),
        ("redis://:hunter2/x@127.0.0.1:6379/0", "the broker's address cannot be read"),
        ("amqp://user:hunter2@127.0.0.1", "the broker's address cannot be read"),
    ],
)
def test_the_broker_is_away(all_well: dict[str, str], address: str, said: str) -> None:
    assert said in ill(all_well | {"broker_url": address}, "broker")


def test_a_broker_that_may_drop_messages(all_well: dict[str, str], services: Services) -> None:
    with server_setting(services.redis_url, "maxmemory-policy", "allkeys-lru"):
        detail = ill(all_well, "broker")
    assert detail == "Redis may drop messages: set maxmemory-policy to noeviction, not allkeys-lru"


def test_a_broker_whose_administration_is_closed_to_us_is_judged_all_the_same(
    all_well: dict[str, str], services: Services
) -> None:
    with redis.Redis.from_url(services.redis_url) as server:
        server.acl_setuser("tenant", enabled=True, passwords=["+hunter2"], keys=["*"], commands=["+@all", "-config"])
        try:
            hosted = services.redis_url.replace("unix://", "unix://tenant:hunter2@")
            assert examined(all_well | {"broker_url": hosted})["broker"].well
            with server_setting(services.redis_url, "maxmemory-policy", "volatile-ttl"):
                assert "may drop messages" in ill(all_well | {"broker_url": hosted}, "broker")
        finally:
            server.acl_deluser("tenant")


def test_a_broker_with_a_wrong_password(all_well: dict[str, str], services: Services) -> None:
    stranger = services.redis_url.replace("unix://", "unix://stranger:hunter2@")
    assert "Redis does not answer" in ill(all_well | {"broker_url": stranger}, "broker")


@pytest.mark.parametrize("kind", ["no address", "below a file", "a folder in the place of files"])
def test_the_storage_cannot_be_used(all_well: dict[str, str], kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "health").touch()
    address = {
        "no address": "ftp://host/folder",
        "below a file": (tmp_path / "file" / "folder").as_uri(),
        "a folder in the place of files": (tmp_path / "taken").as_uri(),
    }[kind]
    assert address in ill(all_well | {"storage_url": address}, "storage")


def test_a_source_that_is_configured_is_usable(all_well: dict[str, str]) -> None:
    found = examined(all_well | {"gallery_url": "http://pictures.example"})
    assert found["sources"].detail == "usable: commons, gallery, openverse, urls"


def test_a_source_whose_package_is_broken_is_one_line_of_the_doctor(all_well: dict[str, str], tmp_path: Path) -> None:
    package = tmp_path / "broken-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[pixcrawler.sources]\nbroken = not_there:Source\n")
    configured = {f"PIXCRAWLER_{name.upper()}": value for name, value in all_well.items()}
    done = subprocess.run(
        [sys.executable, "-m", "pixcrawler_worker.cli.main", "doctor", "--json"],
        check=False,
        env=os.environ | configured | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.returncode == 1
    ailing = [finding for finding in json.loads(done.stdout) if not finding["well"]]
    assert [finding["name"] for finding in ailing] == ["sources"]
    assert "source 'broken' cannot be loaded from not_there:Source" in ailing[0]["detail"]

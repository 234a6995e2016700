import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
import redis
import supabase
from fakes.postgres_pooler import postgres_pooler
from fakes.workers import responding
from psycopg import conninfo

from pixcrawler_worker import health, settings
from pixcrawler_worker.db import revisions
from pixcrawler_worker.db.job_counts import JobCounts
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.health import CheckResult
from pixcrawler_worker.inspection.sandbox import LAYERS

NAMES = ["settings", "database", "migrations", "clock", "broker", "workers", "storage", "sources", "decoder"]
QUEUES = ("crawl", "validation", "export", "maintenance")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test, which runs in an empty directory."""
    for name in os.environ:
        if name.startswith("PIXCRAWLER_") or name in {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def service_settings(database_url: str, broker_url: str, tmp_path: Path) -> dict[str, str]:
    return {"database_url": database_url, "broker_url": broker_url, "storage_url": tmp_path.as_uri()}


@pytest.fixture(scope="module")
def broker_url(services: Services) -> Iterator[str]:
    """A database of Redis of this module's own, which a worker consumes."""
    url = services.broker_url.replace("virtual_host=0", "virtual_host=7")
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=7")) as server:
        server.flushdb()
        with responding(url, *QUEUES):
            yield url
        server.flushdb()


def run_checks(configured: dict[str, str]) -> dict[str, CheckResult]:
    results = health.run_checks(settings.load(**configured))
    without_workers = [name for name in NAMES if name != "workers"]
    broker_is_ok = next(result.ok for result in results if result.name == "broker")
    assert [result.name for result in results] == (NAMES if broker_is_ok else without_workers)
    for result in results:
        assert result.detail
        assert "\n" not in result.detail
        assert "hunter2" not in result.detail
    return {result.name: result for result in results}


def failing(configured: dict[str, str], *names: str) -> str:
    """Return the detail of the first of these checks, which fail, and no others."""
    found = run_checks(configured)
    assert [name for name, result in found.items() if not result.ok] == list(names)
    return found[names[0]].detail


@contextmanager
def revision(database_url: str, number: str) -> Iterator[None]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE pixcrawler.alembic_version SET version_num = %s", [number])
        try:
            yield
        finally:
            connection.execute("UPDATE pixcrawler.alembic_version SET version_num = %s", [revisions.head()])


@contextmanager
def server_setting(redis_url: str, name: str, value: str) -> Iterator[None]:
    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield
        finally:
            client.config_set(name, before)


def test_all_checks_pass(service_settings: dict[str, str], tmp_path: Path) -> None:
    found = run_checks(service_settings)
    assert [result for result in found.values() if not result.ok] == []
    assert found["database"].detail.startswith("PostgreSQL 18")
    assert found["migrations"].detail == f"at {revisions.head()}, the newest"
    assert found["broker"].detail.startswith("Redis ")
    assert found["workers"].detail == "1 consuming all queues (worker@test); no message waits"
    assert found["sources"].detail == "usable: commons, gbif, inaturalist, internet_archive, met, nasa, openverse, urls"
    assert [entry for entry in (tmp_path / "health").iterdir() if entry.is_file()] == [], "it leaves no file behind"


def test_nothing_is_configured() -> None:
    detail = failing({}, "database", "migrations", "clock", "broker")
    assert "set PIXCRAWLER_DATABASE_URL" in detail


def test_a_misspelled_setting(service_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXCRAWLER_LEASE_SECOND", "5")
    assert failing(service_settings, "settings") == (
        "unknown setting PIXCRAWLER_LEASE_SECOND, did you mean PIXCRAWLER_LEASE_SECONDS?"
    )


def test_an_unknown_setting_like_no_other_is_ignored(
    service_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXCRAWLER_API_HOST", "0.0.0.0")
    found = run_checks(service_settings)["settings"]
    assert found.ok
    assert "PIXCRAWLER_API_HOST" in found.detail


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://user:hunter2@127.0.0.1:1/pixcrawler", "Connection refused"),
        ("postgresql:///pixcrawler?host=/nowhere&password=hunter2", "the database does not answer"),
        ("postgresql://user:hunter2@127.0.0.1:1/pixcrawler?color=red", 'invalid connection option "color"'),
        (
            "postgresql://user:hunter2@127.0.0.1:port/pixcrawler",
            "invalid database URL: expected for example postgresql://",
        ),
        ("mysql://user:hunter2@127.0.0.1/pixcrawler", "must begin with postgresql://"),
    ],
)
def test_a_database_that_cannot_be_reached(service_settings: dict[str, str], url: str, message: str) -> None:
    assert message in failing(service_settings | {"database_url": url}, "database", "migrations", "clock")


def test_the_database_has_no_tables(service_settings: dict[str, str], empty_database_url: str) -> None:
    without = service_settings | {"database_url": empty_database_url}
    assert "run `pixcrawler db upgrade`" in failing(without, "migrations")
    with pytest.raises(PermanentError, match="no tables yet"):
        health.require_migrated(settings.load(**without))


def test_the_database_is_at_another_migration(service_settings: dict[str, str], database_url: str) -> None:
    with revision(database_url, "0001"):
        detail = failing(service_settings, "migrations")
    assert detail == (
        f"the database is at migration 0001, this version needs {revisions.head()}: run `pixcrawler db upgrade`"
    )


@contextmanager
def replica() -> Iterator[str]:
    """A server in recovery: a new cluster that waits for a primary, of which there is none."""
    installed = launcher.locate("postgres")
    assert installed is not None
    # Neither initdb nor the server runs as root, and another user does not enter the directories of pytest.
    user = "nobody" if os.getuid() == 0 else None
    with TemporaryDirectory(prefix="replica") as name:
        directory, cluster = Path(name), Path(name, "cluster")
        cluster.mkdir(mode=0o700)
        if user:
            shutil.chown(directory, "nobody")
            shutil.chown(cluster, "nobody")
        initdb: list[str | Path] = [
            installed.with_name("initdb"),
            "-D",
            cluster,
            "-U",
            "pixcrawler",
            "-A",
            "trust",
            "--no-sync",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=user)
        (cluster / "standby.signal").touch()
        words: list[str | Path] = [installed, "-D", cluster, "-k", directory]
        words += ["-c", "listen_addresses=", "-c", "port=5432"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, user=user) as server:
            try:
                assert server.stderr is not None
                assert any("ready to accept read-only connections" in line for line in server.stderr)
                yield f"postgresql:///postgres?host={directory}&port=5432&user=pixcrawler"
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(30)


def test_a_replica_is_no_database_to_work_on(service_settings: dict[str, str]) -> None:
    with replica() as url:
        detail = failing(service_settings | {"database_url": url}, "database", "migrations")
        with pytest.raises(TransientError, match="is a replica"):
            health.require_rights(settings.load(**service_settings | {"database_url": url}))
    assert detail == "the database is a replica, which takes no writes: connect to its primary"


@pytest.mark.parametrize("by", ["database", "user"])
def test_a_database_that_is_read_only_is_named_with_the_origin_of_that(
    service_settings: dict[str, str], database_url: str, by: str
) -> None:
    name = conninfo.conninfo_to_dict(database_url)["dbname" if by == "database" else "user"]
    writable = f"{database_url}&options=-c%20default_transaction_read_only%3Doff"
    with psycopg.connect(writable, autocommit=True) as connection:
        connection.execute(f"ALTER {by} {name} SET default_transaction_read_only = on".encode())
        try:
            detail = failing(service_settings, "database")
        finally:
            connection.execute(f"ALTER {by} {name} RESET default_transaction_read_only".encode())
    assert detail.startswith(f"the database is read only: default_transaction_read_only is on (by: {by});")


def test_a_database_without_foreign_keys_and_triggers_is_none_to_work_on(
    service_settings: dict[str, str], database_url: str
) -> None:
    without = service_settings | {"database_url": f"{database_url}&options=-c%20session_replication_role%3Dreplica"}
    assert failing(without, "database").startswith("foreign keys and triggers are off: session_replication_role is")
    with pytest.raises(PermanentError, match="foreign keys and triggers are off"):
        health.require_rights(settings.load(**without))


def test_rights_that_the_role_lacks_are_named(service_settings: dict[str, str], database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE lacking LOGIN IN ROLE pg_read_all_data")
        connection.execute("GRANT USAGE ON SCHEMA pixcrawler TO lacking")
        try:
            detail = failing(service_settings | {"database_url": supabase.as_role(database_url, "lacking")}, "database")
        finally:
            connection.execute("DROP OWNED BY lacking; DROP ROLE lacking")
    assert detail.startswith(
        "the role of the worker lacks rights in the database: run deploy/roles.sql, or as the owner"
    )
    assert "GRANT INSERT, UPDATE ON public.images TO lacking" in detail


def test_a_pooler_is_named(service_settings: dict[str, str], database_url: str) -> None:
    with postgres_pooler(database_url) as url:
        assert run_checks(service_settings | {"database_url": url})["database"].detail.endswith(", through a pooler")


def test_only_a_database_that_does_not_answer_is_a_transient_error(service_settings: dict[str, str]) -> None:
    health.require_migrated(settings.load(**service_settings))
    unreachable = service_settings | {"database_url": "postgresql://user:hunter2@127.0.0.1:1/pixcrawler"}
    with pytest.raises(TransientError, match="does not answer"):
        health.require_migrated(settings.load(**unreachable))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:hunter2@127.0.0.1:1/0", "Connection refused"),
        ("redis+socket:///nowhere?virtual_host=0", "No such file"),
        ("redis://:hunter2/x@127.0.0.1:6379/0", "invalid broker URL"),
        ("amqp://user:hunter2@127.0.0.1", "invalid broker URL"),
    ],
)
def test_a_broker_that_cannot_be_reached(service_settings: dict[str, str], url: str, message: str) -> None:
    assert message in failing(service_settings | {"broker_url": url}, "broker")


def test_a_broker_that_may_drop_messages(service_settings: dict[str, str], services: Services) -> None:
    with server_setting(services.redis_url, "maxmemory-policy", "allkeys-lru"):
        detail = failing(service_settings, "broker")
    assert detail == "Redis may drop messages: set maxmemory-policy to noeviction, not allkeys-lru"


def test_a_broker_that_is_full(service_settings: dict[str, str], services: Services) -> None:
    with server_setting(services.redis_url, "maxmemory", "1"):
        assert failing(service_settings, "broker").startswith("Redis is full, and workers wait until it has room: ")


def test_a_broker_that_rejects_config_commands_is_checked_all_the_same(
    service_settings: dict[str, str], services: Services
) -> None:
    with redis.Redis.from_url(services.redis_url) as server:
        server.acl_setuser("tenant", enabled=True, passwords=["+hunter2"], keys=["*"], commands=["+@all", "-config"])
        try:
            hosted = services.redis_url.replace("unix://", "unix://tenant:hunter2@")
            found = run_checks(service_settings | {"broker_url": hosted})
            assert found["broker"].ok
            assert "expected for example redis://" not in found["workers"].detail
            with server_setting(services.redis_url, "maxmemory-policy", "volatile-ttl"):
                assert "may drop messages" in failing(service_settings | {"broker_url": hosted}, "broker")
        finally:
            server.acl_deluser("tenant")


@pytest.fixture
def lists(services: Services) -> Iterator[redis.Redis]:
    """Another database of Redis, which no worker consumes."""
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=8")) as server:
        server.flushdb()
        yield server
        server.flushdb()


def test_without_a_worker_the_messages_that_wait_are_counted(
    service_settings: dict[str, str], lists: redis.Redis
) -> None:
    alone = service_settings | {"broker_url": service_settings["broker_url"].replace("=7", "=8")}
    start = "start one with `celery -A pixcrawler_worker worker`"
    assert failing(alone, "workers") == f"no worker responds, and no message waits: {start}"
    lists.lpush("crawl", "a")
    lists.lpush("crawl\x06\x163", "b", "c")
    lists.lpush("export\x06\x169", "d")
    lists.lpush("of others", "e")
    with responding(alone["broker_url"], "of others", "celery"):
        assert failing(alone, "workers") == f"no worker responds, and 4 messages wait (crawl 3, export 1): {start}"


def test_queues_that_no_worker_consumes_are_named(service_settings: dict[str, str], lists: redis.Redis) -> None:
    some = service_settings | {"broker_url": service_settings["broker_url"].replace("=7", "=8")}
    lists.lpush("export", "d")
    with responding(some["broker_url"], "crawl", "maintenance"), responding(some["broker_url"], "crawl", name="b@test"):
        assert failing(some, "workers").startswith(
            "no worker consumes validation, export, and 1 message waits (export 1): start one with"
        )


def test_a_broker_with_a_wrong_password(service_settings: dict[str, str], services: Services) -> None:
    wrong = services.redis_url.replace("unix://", "unix://wrong:hunter2@")
    assert "Redis does not answer" in failing(service_settings | {"broker_url": wrong}, "broker")


@pytest.mark.parametrize("kind", ["unknown scheme", "below a file", "a folder in the place of files"])
def test_the_storage_cannot_be_used(service_settings: dict[str, str], kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "health").touch()
    url = {
        "unknown scheme": "ftp://host/folder",
        "below a file": (tmp_path / "file" / "folder").as_uri(),
        "a folder in the place of files": (tmp_path / "taken").as_uri(),
    }[kind]
    assert url in failing(service_settings | {"storage_url": url}, "storage")


def test_a_source_that_is_configured_is_usable(service_settings: dict[str, str]) -> None:
    found = run_checks(service_settings | {"gallery_url": "http://images.example"})
    assert (
        found["sources"].detail
        == "usable: commons, gallery, gbif, inaturalist, internet_archive, met, nasa, openverse, urls"
    )


#: A source of another package that cannot be asked what it needs.
BUGGY = """
from pixcrawler_worker.sources import protocol
class Source(protocol.Source):
    summary, terms = "x", "x"
    def missing(self): return {}["key"]
    async def search(self, query, http): raise NotImplementedError
"""


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("not_there:Source", "source 'broken' cannot be loaded from not_there:Source"),
        ("buggy_source:Source", "source 'broken' met an internal error: KeyError('key')"),
        ("pixcrawler_worker.sources.protocol:Source", "source 'broken' met an internal error: TypeError("),
    ],
)
def test_a_source_whose_package_is_broken_is_one_line_of_the_doctor(
    service_settings: dict[str, str], tmp_path: Path, place: str, message: str
) -> None:
    package = tmp_path / "broken-1.dist-info"
    package.mkdir()
    (tmp_path / "buggy_source.py").write_text(BUGGY)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[pixcrawler.sources]\nbroken = {place}\n")
    configured = {f"PIXCRAWLER_{name.upper()}": value for name, value in service_settings.items()}

    def shown(command: str) -> tuple[int, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "pixcrawler_worker.cli.main", command, "--json"],
            check=False,
            env=os.environ | configured | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    code, results = shown("doctor")
    assert code == 1
    failed = [result for result in results if not result["ok"]]
    assert [result["name"] for result in failed] == ["sources"]
    assert message in failed[0]["detail"]
    code, sources = shown("sources")
    assert (code, len(sources) > 5) == (0, True)
    (broken,) = [source for source in sources if source["name"] == "broken"]
    assert message in broken["state"]


def test_the_layers_of_the_sandbox_are_named_or_why_one_is_missing(service_settings: dict[str, str]) -> None:
    decoder = run_checks(service_settings)["decoder"]
    assert decoder.ok
    assert decoder.detail.startswith("its sandbox has resource limits, ")
    for layer in LAYERS:
        assert layer in decoder.detail


def report(**numbers: Any) -> str:
    return health.queue_report(JobCounts(**numbers), sweep_seconds=10)


def test_what_waits_is_counted_with_the_age_of_the_oldest() -> None:
    assert report() == "no queued chunk, 0 running"
    jobs = {("crawl", "pending"): 2, ("export", "pending"): 1, ("crawl", "running"): 9}
    chunks = {("crawl", "queued"): 1200, ("export", "queued"): 1, ("crawl", "running"): 4}
    ages: dict[str, Any] = {"oldest_pending": {"crawl": 20, "export": 300}, "oldest_queued": {"crawl": 59, "export": 3}}
    assert report(jobs=jobs, chunks=chunks, **ages) == (
        "3 pending jobs (the oldest for 5 min, export), 1,201 queued chunks (the oldest due for 59 s, crawl), 4 running"
    )
    assert "add workers" in report(chunks=chunks, oldest_queued={"crawl": 1000})
    assert "PIXCRAWLER_START_PENDING" in report(jobs=jobs, oldest_pending={"crawl": 100_000})
    assert "(not read in time: chunks)" in report(left_out={"chunks"})


def test_a_queue_that_nothing_works_off_fails() -> None:
    with pytest.raises(PermanentError, match=r"\(the oldest due for 17 min, crawl\), 0 running: nothing runs"):
        report(chunks={("crawl", "queued"): 1}, oldest_queued={"crawl": 1000})
    with pytest.raises(PermanentError, match="a lease expired 17 min ago, and no sweep took its chunk back"):
        report(chunks={("crawl", "running"): 1}, oldest_expired=1000.0)

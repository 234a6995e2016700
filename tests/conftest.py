"""Real PostgreSQL, Redis and S3 from wheels, once per run; a database of its own for every test module."""

import gc
import itertools
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import hypothesis
import psycopg
import pytest
import redis
import structlog
from fakes import s3
from sqlalchemy import Engine

from pixcrawler_worker import runtime, settings
from pixcrawler_worker.db import migrate, session
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.runtime import Runtime

_numbers = itertools.count(1)

# Read when huggingface_hub is imported: the stand-in for the hub takes uploads by LFS.
os.environ["HF_HUB_DISABLE_XET"] = "1"
# Read when NumPy is imported. The decode process has it, too: threads wait for each other longer than products take.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# How long an example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_configure() -> None:
    """Let tests interrupt the commands that they start: a shell's background jobs pass on that SIGINT is ignored."""
    gc.disable()  # until the tests are collected
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what is imported out of each look for cycles: in a part of the tests, these were 7 % of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(autouse=True)
def restored_log() -> Iterator[None]:
    """Restore how entries are logged, which a test may configure: tests of other files follow in this process."""
    root, structured = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.contextvars.clear_contextvars()
    structlog.configure(**structured)


def _other_database(url: str, name: str) -> str:
    return url.replace("/pixcrawler?", f"/{name}?")


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def older_postgres(program: Path, folder: Path) -> Path:
    """Return `postgres` of another version than the one that is embedded, which takes what that one takes at its start.

    Versions before 17 have no locale that is built in, those before 15 one way to copy a database, and 13 always prints
    what to do after `initdb`.
    """
    home = program.resolve().parent
    scripts = {
        "initdb": "for word; do\n  shift\n  case $word in\n"
        "    --locale-provider=*|--builtin-locale=*|--no-instructions) ;;\n"
        f'    *) set -- "$@" "$word" ;;\n  esac\ndone\nexec {home / "initdb"} "$@"\n',
        "postgres": f'if test "$1" = --single; then\n  sed \'s/ STRATEGY file_copy//\' | {home / "postgres"} "$@"\n'
        f'else\n  exec {home / "postgres"} "$@"\nfi\n',
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}")
        (folder / name).chmod(0o755)
    return folder / "postgres"


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    given = os.environ.get("TEST_POSTGRES")
    postgres = older_postgres(Path(given), tmp_path_factory.mktemp("postgres")) if given else None

    def locate(program: str) -> Path | None:
        return postgres if postgres and program == "postgres" else launcher.locate(program)

    with launcher.running(tmp_path_factory.mktemp("services"), durable=False, locate=locate) as running:
        yield running


@pytest.fixture
def redis_url(services: Services) -> Iterator[str]:
    """The URL, for redis-py, of an empty database of Redis of this test's own."""
    url = services.redis_url.replace("db=0", "db=5")
    with redis.Redis.from_url(url) as server:
        server.flushdb()
        yield url
        server.flushdb()


@pytest.fixture(scope="session")
def template(services: Services) -> str:
    """Name of a migrated database that every other one is a copy of."""
    _execute(services.database_url, "CREATE DATABASE migrated")
    migrate.upgrade(_other_database(services.database_url, "migrated"))
    return "migrated"


@pytest.fixture(scope="module")
def database_url(services: Services, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _execute(services.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _other_database(services.database_url, name)
    _execute(services.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def empty_database_url(services: Services) -> Iterator[str]:
    name = f"empty_{next(_numbers)}"
    _execute(services.database_url, f"CREATE DATABASE {name}")
    yield _other_database(services.database_url, name)
    _execute(services.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def engine(database_url: str) -> Iterator[Engine]:
    engine = session.connect(database_url, pool_size=16)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def sessions(engine: Engine) -> Sessions:
    return session.sessions(engine)


@pytest.fixture(scope="module", name="runtime")
def connected_runtime(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """Return a runtime on the module's database, with its own storage; downloads from loopback are allowed."""
    folder = tmp_path_factory.mktemp("data")
    loaded = settings.load(
        database_url=database_url,
        data_dir=folder,
        storage_url=(folder / "storage").as_uri(),
        allowed_networks="127.0.0.0/8",
        # Nothing listens there: a test of a provider has its own URL.
        commons_url="http://127.0.0.1:1/",
        openverse_url="http://127.0.0.1:1/",
    )
    with closing(runtime.connect(loaded)) as opened:
        yield opened


@pytest.fixture(scope="session", name="s3")
def served_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_url(s3: s3.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an empty prefix in S3, and set the environment to its server."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/test-{next(_numbers)}"

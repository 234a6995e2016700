"""A database that knows one kind of job more."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
import structlog
from toy.kind import SCHEMA

from pixcrawler_worker import runtime, settings
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.runtime import Runtime


@pytest.fixture(scope="module", name="runtime")
def connected_runtime(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
    loaded = settings.load(database_url=database_url, data_dir=tmp_path_factory.mktemp("data"), lease_seconds=1)
    with closing(runtime.connect(loaded)) as opened:
        yield opened


@pytest.fixture(scope="module")
def sessions(runtime: Runtime) -> Sessions:
    return runtime.sessions


@pytest.fixture(autouse=True, scope="module")
def plain_tracebacks() -> Iterator[None]:
    """Log bugs as the worker does: by default, showing local variables takes a second for each of them."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, renderer])
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    """Sweeps look at all jobs: only those of the test are to be there."""
    with sessions.begin() as session:
        session.connection().exec_driver_sql("DELETE FROM profiles")

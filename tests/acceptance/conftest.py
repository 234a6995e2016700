"""Tests with real worker processes, broker, database and web server, each in its own process."""

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from acceptance_stack import Stack

from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded.services import Services

_HOSTS = Path(__file__).parents[1] / "fakes" / "hosts.py"
_databases = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this directory more time: each starts several processes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(300), append=False)


@pytest.fixture(scope="session")
def host() -> Iterator[str]:
    """Base URL of a web server with faults, in its own process."""
    with _hosts("--port", "0") as base:
        yield base


@pytest.fixture(scope="session")
def slow_host() -> Iterator[str]:
    """The same, with a delay of 0.2 s for every valid image, so that a test can interrupt a download."""
    with _hosts("--port", "0", "--delay", "0.2") as base:
        yield base


@contextlib.contextmanager
def _hosts(*args: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, str(_HOSTS), *args], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def stack(services: Services, database_url: str, sessions: Sessions, host: str, tmp_path: Path) -> Iterator[Stack]:
    number = next(_databases) % 15 + 1
    broker = services.broker_url.replace("virtual_host=0", f"virtual_host={number}")
    url = services.redis_url.replace("db=0", f"db={number}")
    with contextlib.closing(Stack(sessions, database_url, broker, url, tmp_path, host)) as stack:
        yield stack
    with redis.Redis.from_url(url) as server:
        server.flushdb()

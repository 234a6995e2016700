"""Tests with real worker processes, broker, database and web server, each in its own process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance_stack import Stack, hosts, opened
from restricted_services import WANTED, require_use, restricted_database, restricted_redis

from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded.services import Services


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this directory more time: each starts several processes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(300), append=False)


@pytest.fixture(scope="session")
def host() -> Iterator[str]:
    """Base URL of a web server with faults, in its own process."""
    with hosts("--port", "0") as base:
        yield base


@pytest.fixture(scope="session")
def slow_host() -> Iterator[str]:
    """The same, with a delay of 0.2 s for every valid image, so that a test can interrupt a download."""
    with hosts("--port", "0", "--delay", "0.2") as base:
        yield base


@pytest.fixture
def stack(services: Services, database_url: str, sessions: Sessions, host: str, tmp_path: Path) -> Iterator[Stack]:
    with opened(services, database_url, sessions, host, tmp_path) as stack:
        if not WANTED:
            yield stack
            return
        with restricted_database(database_url) as restricted, restricted_redis() as (everything, of_workers):
            stack.broker_url = stack.redis_url = everything
            stack.restricted_urls = restricted, of_workers
            yield stack
            if stack.worked:
                require_use(database_url)

"""Tests of what hostile input and forgetful programs could do, some of them with real workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance_stack import Stack, hosts, opened

from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded.services import Services


@pytest.fixture(scope="session")
def host() -> Iterator[str]:
    with hosts("--port", "0") as base:
        yield base


@pytest.fixture
def stack(services: Services, database_url: str, sessions: Sessions, host: str, tmp_path: Path) -> Iterator[Stack]:
    with opened(services, database_url, sessions, host, tmp_path) as stack:
        yield stack

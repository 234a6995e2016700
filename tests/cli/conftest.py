"""The environment of commands: an empty directory, no settings except those of the test, and a cleanup."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from pixcrawler_worker.embedded.services import Services

_FALLBACKS = {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"}


@pytest.fixture(autouse=True)
def bare(tmp_path: Path) -> Iterator[None]:
    """Restore the environment, which commands change."""
    environment = dict(os.environ)
    for name in environment:
        if name.startswith("PIXCRAWLER_") or name in _FALLBACKS | {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}:
            del os.environ[name]
    try:
        with contextlib.chdir(tmp_path):
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture
def env(services: Services, database_url: str, tmp_path: Path) -> Mapping[str, str]:
    """An environment with configured services."""
    return {
        "PIXCRAWLER_DATABASE_URL": database_url,
        "PIXCRAWLER_BROKER_URL": services.broker_url.replace("virtual_host=0", "virtual_host=9"),
        "PIXCRAWLER_STORAGE_URL": (tmp_path / "storage").as_uri(),
    }


@pytest.fixture
def broker(services: Services) -> Iterator[redis.Redis]:
    """The database in Redis that `env` names, empty."""
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=9"), decode_responses=True) as server:
        server.flushdb()
        yield server
        server.flushdb()

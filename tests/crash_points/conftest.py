"""A database that knows one kind of job more, reached directly and through a proxy that breaks on request."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from crash_points.points import Points
from fakes.postgres_proxy import postgres_proxy
from toy.kind import SCHEMA

from pixcrawler_worker import runtime, settings
from pixcrawler_worker.runtime import Runtime


@contextmanager
def connected(url: str, folder: Path) -> Iterator[Runtime]:
    loaded = settings.load(database_url=url, data_dir=folder, storage_url=(folder / "storage").as_uri())
    with closing(runtime.connect(loaded)) as opened:
        yield opened


@pytest.fixture(scope="module")
def points(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Points]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
    folder = tmp_path_factory.mktemp("data")
    with (
        postgres_proxy(database_url) as wire,
        connected(database_url, folder) as direct,
        connected(wire.url, folder) as shaky,
    ):
        yield Points(direct, shaky, wire)

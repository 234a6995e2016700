"""A new database for every test, because these tests change schemas."""

import itertools
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from pixcrawler_worker.embedded.services import Services

_numbers = itertools.count(1)


@pytest.fixture
def new_database(services: Services) -> Iterator[Callable[..., str]]:
    """Create a database, empty or a copy of another one, and return its URL."""
    created: list[str] = []
    with psycopg.connect(services.database_url, autocommit=True) as connection:

        def make(copy_of: str = "template1") -> str:
            created.append(f"history_{next(_numbers)}")
            names = [sql.Identifier(name) for name in (created[-1], copy_of)]
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
            return services.database_url.replace("/pixcrawler?", f"/{created[-1]}?")

        yield make
        for name in created:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(new_database: Callable[..., str]) -> str:
    """The URL of an empty database."""
    return new_database()


@pytest.fixture
def migrated(new_database: Callable[..., str], template: str) -> str:
    """The URL of a database at the newest revision."""
    return new_database(copy_of=template)

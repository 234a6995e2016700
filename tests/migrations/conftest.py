"""A database of its own for every test: what one does to a schema must not be there for the next."""

import itertools
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from pixcrawler_worker.embedded.services import Services

_numbers = itertools.count(1)


@pytest.fixture
def new_database(services: Services) -> Iterator[Callable[..., str]]:
    """Makes a database, empty or a copy of another, and returns its address."""
    made: list[str] = []
    with psycopg.connect(services.database_url, autocommit=True) as connection:

        def make(copy_of: str = "template1") -> str:
            made.append(f"history_{next(_numbers)}")
            names = [sql.Identifier(name) for name in (made[-1], copy_of)]
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
            return services.database_url.replace("/pixcrawler?", f"/{made[-1]}?")

        yield make
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(new_database: Callable[..., str]) -> str:
    """An empty database's address."""
    return new_database()


@pytest.fixture
def migrated(new_database: Callable[..., str], template: str) -> str:
    """Address of a database at the newest revision."""
    return new_database(copy_of=template)

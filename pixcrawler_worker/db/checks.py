"""Questions about the database itself."""

from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db import migrate
from pixcrawler_worker.errors import TransientError


def revision(engine: Engine) -> str | None:
    """Return the migration that the database is at; None when it was never migrated.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        return migrate.current(engine)
    except DBAPIError as error:
        raise TransientError(_silent(error)) from error


def upgrade(url: str) -> None:
    """Bring the database's tables to what this version needs.

    Raises:
        TransientError: when the database does not answer, or somebody holds one of its tables.
    """
    try:
        migrate.upgrade(url)
    except DBAPIError as error:
        raise TransientError(f"the database could not be migrated: {str(error.orig).partition(chr(10))[0]}") from error


def server_version(engine: Engine) -> str:
    """Return the server's version, as `18.1`.

    Raises:
        TransientError: when the database does not answer.
    """
    return str(_ask(engine, "SHOW server_version"))


def now(engine: Engine) -> float:
    """Return the database's clock, in seconds since 1970.

    Raises:
        TransientError: when the database does not answer.
    """
    return float(_ask(engine, "SELECT extract(epoch FROM clock_timestamp())::float8"))


def _ask(engine: Engine, question: str) -> Any:  # noqa: ANN401 - whatever the one column holds
    try:
        with engine.connect() as connection:
            return connection.execute(text(question)).scalar_one()
    except DBAPIError as error:
        raise TransientError(_silent(error)) from error


def _silent(error: DBAPIError) -> str:
    return f"the database does not answer: {str(error.orig).partition(chr(10))[0]}"

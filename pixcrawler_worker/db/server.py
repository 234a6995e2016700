"""The database server: its version, its clock, whether it takes writes, and the migration that its tables are at."""

from typing import Any

import psycopg
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db import revisions, session
from pixcrawler_worker.errors import PermanentError, TransientError

_WRITABLE = text("""
    SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only'),
        current_setting('session_replication_role'),
        (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only')
""")


def revision(engine: Engine) -> str | None:
    """Return the migration that the database is at; None if it was never migrated.

    Raises:
        PermanentError: when the role may not read it.
        TransientError: when the database does not answer.
    """
    try:
        return revisions.current(engine)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise PermanentError(f"the migration of the database cannot be read: {_first_line(error)}") from error
        raise TransientError(_message(error)) from error


def upgrade(url: str, *, supabase: str = "auto") -> None:
    """Run the migrations that this version needs.

    Args:
        url: of the database, in the form of libpq.
        supabase: `auto`, `require` or `off`: see `migrate.upgrade`.

    Raises:
        TransientError: when the database does not answer, one of its tables is locked, or it is not one of Supabase and
            has to be.
    """
    # Alembic takes memory, and time to import, in every process of a worker, and only migrations need it.
    from alembic.util import CommandError  # noqa: PLC0415

    from pixcrawler_worker.db import migrate  # noqa: PLC0415

    try:
        migrate.upgrade(url, supabase=supabase)
    except CommandError as error:
        raise TransientError(f"the database could not be migrated: {error}") from error
    except DBAPIError as error:
        raise TransientError(f"the database could not be migrated: {_first_line(error)}") from error


def version(engine: Engine) -> str:
    """Return the version of PostgreSQL, such as `18.1`.

    Raises:
        TransientError: when the database does not answer.
    """
    return str(_scalar(engine, "SHOW server_version"))


def require_writable(engine: Engine) -> None:
    """Return if the database takes writes, else raise.

    Raises:
        PermanentError: when it takes them without triggers and foreign keys, by a setting.
        TransientError: when it does not: it is a replica, or read only by a setting; the message says which.
    """
    try:
        with engine.connect() as connection:
            is_replica, setting, role, origin = connection.execute(_WRITABLE).one()
    except DBAPIError as error:
        raise TransientError(_message(error)) from error
    if is_replica:
        raise TransientError("the database is a replica, which takes no writes: connect to its primary")
    if setting == "on":
        raise TransientError(
            f"the database is read only: default_transaction_read_only is on (by: {origin}); providers set it when the"
            " disk is full"
        )
    # Only a superuser may set it, and may have set it for others: a transaction cannot set it back.
    if role == "replica":
        raise PermanentError(
            "foreign keys and triggers are off: session_replication_role is replica. Reset it, for the role or the"
            " database: ALTER ROLE ... RESET session_replication_role"
        )


def is_pooled(engine: Engine) -> bool:
    """Return whether connections go through a pooler.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        with engine.connect() as connection:
            return session.is_pooled(connection)
    except DBAPIError as error:
        raise TransientError(_message(error)) from error


def now(engine: Engine) -> float:
    """Return the time of the database in seconds since 1970.

    Raises:
        TransientError: when the database does not answer.
    """
    return float(_scalar(engine, "SELECT extract(epoch FROM clock_timestamp())::float8"))


def _scalar(engine: Engine, query: str) -> Any:  # noqa: ANN401 - the value of a column of any type
    try:
        with engine.connect() as connection:
            return connection.execute(text(query)).scalar_one()
    except DBAPIError as error:
        raise TransientError(_message(error)) from error


def _message(error: DBAPIError) -> str:
    return f"the database does not answer: {_first_line(error)}"


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]

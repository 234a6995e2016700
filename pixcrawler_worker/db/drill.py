"""Prove that a backup can be restored: dump, restore into a temporary database, and compare."""

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db import backup, comparison, session
from pixcrawler_worker.db.client_programs import ClientPrograms
from pixcrawler_worker.db.comparison import Contents, Difference
from pixcrawler_worker.db.session import describe
from pixcrawler_worker.errors import PermanentError

#: Names of temporary databases begin with this.
PREFIX = "pixcrawler_drill_"

_LOCALE = text("""
    SELECT pg_encoding_to_char(encoding) AS encoding, datcollate, datctype FROM pg_database
    WHERE datname = current_database()
""")


@dataclass(frozen=True, slots=True)
class Result:
    """What was compared, and where it differs.

    Attributes:
        original: what the database has.
        restored: what the other one has.
        differences: between the two; none when the backup is good.
        bytes: of the dump; None when there was none.
    """

    original: Contents
    restored: Contents
    differences: list[Difference]
    bytes: int | None


@contextlib.contextmanager
def temporary_database(engine: Engine, *, keep: bool = False) -> Iterator[str]:
    """Create an empty database on the same server, yield its name, and drop it.

    Args:
        engine: of a database of the server; its role needs CREATEDB.
        keep: do not drop it.

    Raises:
        PermanentError: when it cannot be created.
    """
    name = f"{PREFIX}{secrets.token_hex(4)}"
    try:
        with engine.connect() as connection:
            like = connection.execute(_LOCALE).one()
        _execute(
            engine,
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {_literal(like.encoding)}"
            f" LC_COLLATE {_literal(like.datcollate)} LC_CTYPE {_literal(like.datctype)}",
        )
    except DBAPIError as error:
        raise PermanentError(
            f"no temporary database could be created: {describe(error)}; the role needs CREATEDB, on the port of"
            " PostgreSQL itself"
        ) from error
    try:
        yield name
    finally:
        if not keep:
            _execute(engine, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _execute(engine: Engine, statement: str) -> None:
    """Run a statement outside of a transaction."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def other_database(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return make_url(session.sqlalchemy_url(url)).set(database=name).render_as_string(hide_password=False)


def run(
    url: str,
    *,
    programs: ClientPrograms,
    keep: bool = False,
    restored: Callable[[str], None] = lambda _: None,
) -> Result:
    """Dump a database, restore it into a temporary one, and compare the two.

    Both are read in the snapshot of the dump: workers may run meanwhile.

    Args:
        url: of the database, in the form of libpq.
        programs: not older than the server.
        keep: do not drop the temporary database.
        restored: called with the URL of the temporary database when it is restored.

    Raises:
        PermanentError: when the temporary database cannot be created.
        TransientError: when the database does not answer, or a program fails.
    """
    with _engine(url) as engine, tempfile.TemporaryDirectory(prefix="pixcrawler-drill-") as folder:
        file = Path(folder) / "drill.dump"
        with comparison.snapshot(engine) as connection:
            original = comparison.read(connection)
            if original.revision is None:
                raise PermanentError("the database has no tables of PixCrawler: run pixcrawler db upgrade")
            size = backup.dump(url, file, programs=programs, snapshot=comparison.export(connection))
            with temporary_database(engine, keep=keep) as name:
                backup.restore(url, file, programs=programs, database=name)
                other = other_database(url, name)
                restored(other)
                with _engine(other) as other_engine, comparison.snapshot(other_engine) as other_connection:
                    now = comparison.read(other_connection)
                    found = list(comparison.differences(original, now, (connection, other_connection)))
    return Result(original, now, found, size)


def compare(url: str, name: str) -> Result:
    """Compare a database with another one of the same server, into which it was restored.

    Raises:
        TransientError: when one of them does not answer.
    """
    with (
        _engine(url) as engine,
        _engine(other_database(url, name)) as other_engine,
        comparison.snapshot(engine) as connection,
        comparison.snapshot(other_engine) as other_connection,
    ):
        original, now = comparison.read(connection), comparison.read(other_connection)
        found = list(comparison.differences(original, now, (connection, other_connection)))
    return Result(original, now, found, None)


@contextlib.contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = session.connect(url, pool_size=1)
    try:
        yield engine
    finally:
        engine.dispose()


def name_of(url: str) -> str:
    """Return the name of the database in a URL."""
    return make_url(session.sqlalchemy_url(url)).database or ""

"""Vacuum, analyze, and build bloated or invalid indexes again while workers run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors
from psycopg.errors import Diagnostic
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db import session, statistics
from pixcrawler_worker.db.models import Base
from pixcrawler_worker.db.session import describe
from pixcrawler_worker.db.statistics import IndexUse
from pixcrawler_worker.errors import PermanentError, TransientError

#: An index is bloated when it wastes this many bytes, and this share of its own: a smaller one costs nothing.
MIN_WASTED_BYTES, MIN_WASTED_SHARE = 10_000_000, 0.5
#: Key of the lock of a run: the ASCII codes of "pixm".
_LOCK = int.from_bytes(b"pixm")
#: No statement waits longer for a lock. What fails because of that is left to the next run.
_LOCK_TIMEOUT = "10s"
#: What an interrupted REINDEX CONCURRENTLY leaves behind: the old or the new index, under another name.
_LEFT_BEHIND = re.compile(r"_cc(new|old)\d*$")

_NOT_OWNED = text("""
    SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE format('%s.%s', n.nspname, c.relname) = ANY (:tables) AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1
""")
_BUILDING = text("SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())")
_HOLDER = text("""
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of a maintenance.

    Attributes:
        statement: that is run, outside of a transaction.
        reason: for it.
    """

    statement: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was run.

    Attributes:
        step: that was run.
        error: why it could not be done now; None when it was.
        skipped: whether that is because something else has the table, such as autovacuum, which does the same.
    """

    step: Step
    error: str | None
    skipped: bool = False


class MaintenanceRunsError(Exception):
    """Another run maintains the database now; the message says which session has the lock."""


@contextmanager
def exclusive(url: str) -> Iterator[Connection]:
    """Yield a connection on which statements run one by one; no other run has one at the same time.

    Raises:
        MaintenanceRunsError: when another run has one.
        PermanentError: when the connection goes through a pooler, which would keep the lock, or the role does not own
            the tables.
        TransientError: when the database does not answer.
    """
    engine = session.connect(url, pool_size=1)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if session.is_pooled(connection):
                raise PermanentError("this is the port of a pooler: maintenance needs the port of PostgreSQL itself")
            if others := connection.scalars(_NOT_OWNED, {"tables": _tables()}).all():
                raise PermanentError(
                    f"the role does not own {others[0]}"
                    + (f" and {len(others) - 1} others" if len(others) > 1 else "")
                    + ": run maintenance as the role that runs pixcrawler db upgrade"
                )
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
                raise MaintenanceRunsError(f"session {connection.scalar(_HOLDER, {'key': _LOCK})} has the lock")
            # Of this connection, which is closed afterwards.
            connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
            connection.execute(text("SET statement_timeout = 0"))
            yield connection
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error
    finally:
        engine.dispose()


def steps(engine: Engine, *, min_wasted_bytes: int = MIN_WASTED_BYTES) -> list[Step]:
    """Return what there is to do, in this order: indexes first, whose old versions a vacuum does not have to visit.

    Args:
        engine: any connection to the database.
        min_wasted_bytes: of an index that is built again.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        with engine.connect() as connection:
            is_building = bool(connection.scalar(_BUILDING))
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error
    # One that another session builds is invalid until it is complete.
    indexes = [] if is_building else statistics.indexes(engine)
    found = [step for index in indexes if (step := _index_step(index, min_wasted_bytes))]
    vacuums = [Step(f"VACUUM (ANALYZE, SKIP_LOCKED) {table}", "dead rows and statistics") for table in _tables()]
    return found + vacuums


def run(connection: Connection, step: Step) -> Done:
    """Run a step on the connection of `exclusive`. One that cannot be done now leaves the others to be run."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    skipped: list[str] = []

    def note(notice: Diagnostic) -> None:
        if notice.sqlstate == errors.LockNotAvailable.sqlstate:
            skipped.append(notice.message_primary or "its table is locked")

    driver.add_notice_handler(note)
    try:
        connection.exec_driver_sql(step.statement)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return Done(step, describe(error))
    finally:
        driver.remove_notice_handler(note)
    return Done(step, skipped[0], skipped=True) if skipped else Done(step, None)


def _index_step(index: IndexUse, min_wasted_bytes: int) -> Step | None:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in index.name.split(".", 1))
    if not index.valid:
        if _LEFT_BEHIND.search(index.name):
            return Step(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted}", "left behind by an interrupted REINDEX")
        return Step(f"REINDEX INDEX CONCURRENTLY {quoted}", "invalid")
    wasted = index.wasted_bytes
    if wasted >= min_wasted_bytes and wasted >= index.bytes * MIN_WASTED_SHARE:
        return Step(
            f"REINDEX INDEX CONCURRENTLY {quoted}", f"about {wasted / 1e6:,.1f} of {index.bytes / 1e6:,.1f} MB wasted"
        )
    return None


def _tables() -> list[str]:
    """Return the names of all tables, with their schema."""
    return [f"{table.schema or 'public'}.{table.name}" for table in Base.metadata.sorted_tables]

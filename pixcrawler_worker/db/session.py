"""Connections to PostgreSQL, and transactions that are short, bounded in time, and tried again when that helps."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import psycopg
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from pixcrawler_worker.errors import PermanentError, TransientError

__all__ = ["Session", "Sessions", "address", "close", "connect", "sessions", "transact"]

T = TypeVar("T")
Sessions = sessionmaker[Session]

#: What PostgreSQL ends by itself: waiting for a lock, one statement, a transaction in which nothing happens.
LOCK_TIMEOUT, STATEMENT_TIMEOUT, IDLE_TIMEOUT = timedelta(seconds=3), timedelta(seconds=15), timedelta(seconds=30)
_TIMEOUTS = {
    "lock_timeout": LOCK_TIMEOUT,
    "statement_timeout": STATEMENT_TIMEOUT,
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
}
_SET_TIMEOUTS = text(
    "SELECT " + ", ".join(f"set_config('{name}', '{value.seconds}s', true)" for name, value in _TIMEOUTS.items())
)

#: Whole classes (two letters) and single codes of SQLSTATE that a new transaction may not meet again: serialization,
#: deadlock, lock timeout, a server that shuts down, starts or cuts a session off, and a broken connection.
_PASSING = ("40001", "40P01", "55P03", "57P", "25P03", "08", "53300")

#: Seconds between the tries of a transaction.
_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)


def address(url: str) -> str:
    """Return a libpq-style address (`postgres://`, `postgresql://`) as SQLAlchemy wants it, for psycopg 3.

    Raises:
        PermanentError: when it is no address of a PostgreSQL database. The text never repeats a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise PermanentError("the database's address must begin with postgresql:// or postgres://")
    try:
        make_url(plain := f"postgresql+psycopg://{rest}")
    except (ArgumentError, ValueError) as error:
        raise PermanentError("the database's address cannot be read: postgresql://user@host/name") from error
    return plain


def connect(url: str, *, pool_size: int = 4) -> Engine:
    """Return an engine for this process. Make it after a fork, never before.

    Works behind a transaction pooler as it is: nothing is prepared, and every setting is local to its transaction.
    A dead peer is noticed within a minute (keepalives and the kernel's own deadline for unacknowledged data).
    """
    engine = create_engine(
        address(url),
        pool_size=pool_size,
        max_overflow=4,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={
            "application_name": "pixcrawler",
            "connect_timeout": 5,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "prepare_threshold": None,
        },
    )

    @event.listens_for(engine, "begin")
    def set_limits(connection: Connection) -> None:
        connection.execute(_SET_TIMEOUTS)

    return engine


def sessions(engine: Engine) -> Sessions:
    """Return what opens sessions on the engine."""
    return sessionmaker(engine, expire_on_commit=False)


def close(opener: Sessions) -> None:
    """Close the connections that nobody uses any more."""
    engine = opener.kw["bind"]
    assert isinstance(engine, Engine)
    engine.dispose()


def transact(opener: Sessions, work: Callable[[Session], T], *, pauses: Sequence[float] = _PAUSES) -> T:
    """Run `work` in a transaction of its own and return what it returned; run all of it again on passing trouble.

    A COMMIT whose answer got lost may have happened, so `work` runs again then as well: it must find out by itself
    that it already did what it was to do. The ledger's transitions do, by the fence.

    Raises:
        TransientError: when the trouble did not pass within a few seconds.
    """
    for pause in (*pauses, None):
        try:
            with opener.begin() as session:
                return work(session)
        except (DBAPIError, psycopg.Error) as error:
            if not _passing(error):
                raise
            if pause is None:
                raise TransientError(f"the database does not answer: {_first_line(error)}") from error
        except PoolTimeoutError as error:
            raise TransientError("no connection to the database was free for 10 s") from error
        time.sleep(pause)
    raise AssertionError("the last turn returns or raises")


def _passing(error: DBAPIError | psycopg.Error) -> bool:
    state = getattr(_of_driver(error), "sqlstate", None)
    if state is None:
        # Without an answer from the server only a broken connection passes; the rest are mistakes in the call.
        cut = isinstance(error, DBAPIError) and error.connection_invalidated
        return cut or isinstance(error, OperationalError | psycopg.OperationalError)
    return bool(state.startswith(_PASSING))


def _first_line(error: DBAPIError | psycopg.Error) -> str:
    return str(_of_driver(error)).partition("\n")[0]


def _of_driver(error: DBAPIError | psycopg.Error) -> BaseException | None:
    """Return the driver's own error, which is what a COPY raises: SQLAlchemy does not know of it."""
    return error.orig if isinstance(error, DBAPIError) else error

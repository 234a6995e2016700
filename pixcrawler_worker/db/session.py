"""Connections to PostgreSQL, and transactions with timeouts that are retried after transient errors."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine, create_engine, event, exc, text
from sqlalchemy.engine import Connection, Dialect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from pixcrawler_worker import metrics
from pixcrawler_worker.db import statement_spans, timestamps
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.stored_json import UnreadableJson
from pixcrawler_worker.errors import OutageError, PermanentError
from pixcrawler_worker.masking import mask

__all__ = [
    "Session",
    "Sessions",
    "close",
    "connect",
    "describe",
    "driver",
    "execute_prepared",
    "execute_text",
    "is_about_a_row",
    "is_pooled",
    "may_pass",
    "sessions",
    "set_local",
    "sqlalchemy_url",
    "transact",
]

T = TypeVar("T")
Sessions = sessionmaker[Session]

#: PostgreSQL ends by itself what takes longer: waiting for a lock, one statement, a transaction without statements.
LOCK_TIMEOUT, STATEMENT_TIMEOUT, IDLE_TIMEOUT = timedelta(seconds=3), timedelta(seconds=15), timedelta(seconds=30)
#: What the code relies on, whatever defaults the role or the database has: the schema of the documented tables, and how
#: values are written and read. Set once for a connection that goes to the server itself. Behind a pooler each
#: transaction sets it: what is set for a session is lost behind a transaction pooler, or reaches its other clients.
_RELIED_UPON = {
    "lock_timeout": f"{LOCK_TIMEOUT.seconds}s",
    "statement_timeout": f"{STATEMENT_TIMEOUT.seconds}s",
    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT.seconds}s",
    # The private schema is for the tables of kinds of jobs that plug-ins and tests add.
    "search_path": "public, pixcrawler",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "row_security": "on",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
}


def _calls(is_local: str) -> str:
    calls = [f"set_config('{name}', '{value}', {is_local})" for name, value in _RELIED_UPON.items()]
    # Since PostgreSQL 17. Statements, and pauses between them, have limits of their own.
    unlimited = f"set_config('transaction_timeout', '0', {is_local})"
    calls.append(f"CASE WHEN current_setting('transaction_timeout', true) <> '0' THEN {unlimited} END")
    return ", ".join(calls)


_SET_LOCAL = text(f"SELECT {_calls('true')}")
# One request: behind a pooler, which gives its clients process ids of its own, nothing outlives the statement.
_SET_IF_DIRECT = f"SELECT pg_backend_pid(), {_calls('pg_backend_pid() <> %(pid)s')}"
#: Key in what the pool keeps with a connection: whether it goes to the server itself.
_DIRECT = "pixcrawler.direct"
#: From how many executions on a statement would be prepared by itself: never. The others are planned with their values,
#: by which they find partial indexes; see `execute_prepared`.
_NEVER = 2**31
#: SQLSTATE codes of prepared statements that the server at the other end does not know, or knows already: behind a
#: pooler that was not recognized.
_NOT_PREPARED = ("26000", "42P05")
#: The function of PostgreSQL that rejects a prepared statement after a migration has changed the types of its result.
_STALE_PLAN = "RevalidateCachedQuery"

#: Prefixes of the SQLSTATE codes that report the state of the server and not a mistake in the statement: the same
#: transaction may succeed later. By class (PostgreSQL, appendix A), because any statement may meet any of them.
_PASSING = (
    "08",  # connection exception, also from poolers
    "25006",  # read only: a standby, or a primary that is about to change
    "25P",  # the transaction was idle or open for too long
    "28",  # authorization, for example while a password is changed
    "40",  # rollback: serialization failure, deadlock, statement completion unknown
    "53",  # insufficient resources: disk, memory, connections
    "55",  # an object in use, a lock that is not available
    "57",  # operator intervention: statement timeout, cancel, shutdown, startup
    "58",  # system error: I/O
    "72",  # snapshot too old
    "F0",  # configuration file
    "XX",  # internal error, corrupted data or index
)
#: By which words metrics count them.
_METRIC_CAUSES = {
    "connection": ("08", "28", "57P", "25006"),
    "timeout": ("57014", "55", "25P"),
    "resources": ("53", "58"),
    "conflict": ("40",),
}
#: Likewise of those that may be about one row: its values, a constraint, a trigger, the size of an index entry.
_ABOUT_A_ROW = ("22", "23", "44", "54", "P0")
#: Characters of an error that are worth showing.
_MAX_DESCRIPTION = 500

#: Levels of a JSON value: what is nested more deeply can be read, but not written or copied by recursion.
_MAX_DEPTH = 200

#: Seconds between the attempts at a transaction, and seconds after which there is no further attempt: one that ran into
#: a timeout of its own has waited enough.
_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)
_PAUSES_END = 10


def sqlalchemy_url(url: str) -> str:
    """Return a libpq-style URL (`postgres://`, `postgresql://`) as the URL of SQLAlchemy's dialect for psycopg 3.

    Raises:
        PermanentError: when it is not the URL of a PostgreSQL database. The message never contains the password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise PermanentError("invalid database URL: it must begin with postgresql:// or postgres://")
    try:
        parsed = make_url(converted := f"postgresql+psycopg://{rest}")
    except (ArgumentError, ValueError):
        # Its text may hold a part of the password.
        raise PermanentError("invalid database URL: expected for example postgresql://user@host/name") from None
    if "@" in (parsed.host or "") + (parsed.database or ""):
        # Behind the first one, a part of the password would be looked up as a host.
        raise PermanentError("invalid database URL: an @ in the password must be percent-encoded, as %40")
    return converted


def connect(url: str, *, pool_size: int = 4) -> Engine:
    """Return an engine for this process. Call it after a fork, never before.

    Where it reaches the server itself, settings are those of the connection, and `execute_prepared` prepares. It works
    behind a transaction pooler, too: no statement is prepared, every setting is local to its transaction. A dead peer
    is noticed within a minute, by keepalives and by the kernel's timeout for unacknowledged data. That a connection has
    died while it was idle is noticed by its next transaction, which `transact` makes again at once.
    """
    engine = create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=4,
        pool_timeout=10,
        json_deserializer=_read_json,
        connect_args={
            "application_name": "pixcrawler",
            "connect_timeout": 5,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "prepare_threshold": None,
            "client_encoding": "utf8",
        },
        # With another one by default, transitions that wait for each other would fail instead.
        isolation_level="READ COMMITTED",
    )

    _say_when_broken(engine.dialect)

    @event.listens_for(engine, "connect")
    def set_up(connection: psycopg.Connection, record: ConnectionPoolEntry) -> None:
        timestamps.register(connection)
        record.info[_DIRECT] = _set_if_direct(connection)
        if record.info[_DIRECT]:
            connection.prepare_threshold = _NEVER

    event.listen(engine, "begin", _set_unless_direct)
    statement_spans.listen(engine)
    return engine


def _say_when_broken(dialect: Dialect) -> None:
    """Have an error of psycopg raised when the first connection of an engine breaks in what SQLAlchemy asks there.

    Otherwise that is "This Connection is closed", or NotImplementedError, which look like mistakes in the code: nothing
    would be tried again. Each child makes an engine for its first task.
    """
    initialize = dialect.initialize

    def initialize_or_raise(connection: Connection) -> None:
        driver_connection: Any = connection.connection.driver_connection
        try:
            initialize(connection)
        except Exception as error:
            if not driver_connection.closed:
                raise
            raise psycopg.OperationalError("the connection broke when it was new") from error

    dialect.initialize = initialize_or_raise  # type: ignore[method-assign]  # there is no event for it


def _set_if_direct(connection: psycopg.Connection) -> bool:
    """Set what the code relies on for a connection to the server itself; return whether it is one."""
    pid = connection.info.backend_pid
    with connection.cursor() as cursor:
        found = cursor.execute(_SET_IF_DIRECT, {"pid": pid}).fetchone()
    connection.commit()
    assert found is not None
    return bool(found[0] == pid)


def _set_unless_direct(connection: Connection) -> None:
    if not connection.info.get(_DIRECT):
        set_local(connection)


def set_local(connection: Connection) -> None:
    """Set what the code relies on until the transaction ends."""
    connection.execute(_SET_LOCAL)


def is_pooled(connection: Connection) -> bool:
    """Return whether the server at the other end is a pooler: it gives its clients process ids of its own."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver.info.backend_pid != int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)


def driver(session: Session) -> psycopg.Connection[Any]:
    """Return the connection of psycopg that a session uses, in the session's transaction."""
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


def execute_prepared(session: Session, statement: str, values: Mapping[str, object]) -> psycopg.Cursor[Any]:
    """Execute a statement of psycopg in the transaction of a session; prepare it where the connection allows that.

    For the few statements that every chunk needs: neither SQLAlchemy compiles them nor PostgreSQL parses them again. A
    prepared statement may be planned without its values, so that the conditions of partial indexes must be part of its
    text.

    Raises:
        DBAPIError: as SQLAlchemy raises it for statements of its own.
    """
    return _execute(session, statement, values, prepare=True)


def execute_and_commit(session: Session, statement: str, values: Mapping[str, object]) -> psycopg.Cursor[Any]:
    """Execute the last statement of a transaction and commit it, in one request where the connection allows that.

    The server need not wait for this process between the two, with all that the statement has locked. It must raise an
    error by itself unless it is to be committed. Prepares and raises as `execute_prepared`.
    """
    return _execute(session, statement, values, prepare=True, commits=True)


def execute_text(session: Session, statement: str, values: Mapping[str, object]) -> psycopg.Cursor[Any]:
    """Execute a statement of psycopg in the transaction of a session, planned with its values. Raises as the other."""
    return _execute(session, statement, values, prepare=None)


def _execute(
    session: Session, statement: str, values: Mapping[str, object], *, prepare: bool | None, commits: bool = False
) -> psycopg.Cursor[Any]:
    connection = driver(session)
    together = commits and session.connection().info.get(_DIRECT)
    span = statement_spans.begin(statement)
    try:
        with connection.pipeline() if together else contextlib.nullcontext():
            cursor = connection.execute(statement, values, prepare=prepare)
            if commits:
                # The session's own COMMIT finds nothing to commit, and sends nothing.
                connection.execute("COMMIT", prepare=False)
    except psycopg.Error as error:
        if span:
            statement_spans.fail(span, error)
        if error.sqlstate in _NOT_PREPARED:
            # A pooler that was not recognized.
            session.connection().info[_DIRECT] = False
            connection.prepare_threshold = None
        raised = DBAPIError.instance(
            statement,
            None,
            error,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=connection.closed,
            dialect=session.connection().dialect,
        )
        raise raised from error
    if span:
        span.end()
    return cursor


def _read_json(content: str | bytes) -> object:
    """Return a JSON value; an `UnreadableJson` when Python cannot read it, or copy and write it by recursion.

    PostgreSQL stores JSON that is nested more deeply, and numbers with more digits, than Python reads. Whatever expects
    an object or an array rejects the text, so that such a row fails its job and nothing else.
    """
    text_ = content if isinstance(content, str) else content.decode()
    if len(text_) > stored_json.MAX_STORED_CHARACTERS or text_.count(",") > stored_json.MAX_STORED_VALUES:
        return UnreadableJson("JSON that is too large")
    try:
        value = json.loads(text_)
    except RecursionError:
        return UnreadableJson("JSON that is nested too deeply")
    except ValueError:
        return UnreadableJson("JSON with a number of too many digits")
    may_be_deep = text_.count("[") + text_.count("{") > _MAX_DEPTH
    if may_be_deep and stored_json.is_deeper(value, _MAX_DEPTH):
        return UnreadableJson("JSON that is nested too deeply")
    return value


def sessions(engine: Engine) -> Sessions:
    """Return a factory of sessions on the engine."""
    return sessionmaker(engine, expire_on_commit=False)


def close(factory: Sessions) -> None:
    """Close the idle connections of the engine that the sessions use."""
    engine = factory.kw["bind"]
    assert isinstance(engine, Engine)
    engine.dispose()


def transact(factory: Sessions, work: Callable[[Session], T], *, pauses: Iterable[float] | None = None) -> T:
    """Run `work` in a transaction of its own and return its result; retry all of it while the database says "not now".

    `work` must be idempotent: it also runs again when the answer to a COMMIT got lost, which may have succeeded. The
    transitions of the ledger recognize that by the fence token. After a connection broke, it runs again at once the
    first time: the connection may have died long before, while it was idle.

    Args:
        factory: of the session that `work` gets.
        work: does everything in that session; nothing else happens in its transaction.
        pauses: seconds between the attempts, each taken when an attempt has failed; a few seconds by default.

    Raises:
        OutageError: when the error still occurs after the last pause.
    """
    left = iter(_default_pauses() if pauses is None else pauses)
    at_once = iter([0.0])
    while True:
        try:
            with factory.begin() as session:
                return work(session)
        except (DBAPIError, psycopg.Error) as error:
            if not is_passing(error):
                raise
            metrics.DATABASE_ERRORS.add(_metric_cause(error))
            if _is_of_connection(error) and next(at_once, None) is not None:
                continue
            met: Exception = error
            outage = OutageError(f"the database does not answer: {describe(error)}")
        except exc.TimeoutError as error:
            metrics.DATABASE_ERRORS.add("connection")
            met = error
            outage = OutageError("no connection to the database was free for 10 s")
        if (pause := next(left, None)) is None:
            raise outage from met
        time.sleep(pause)


def describe(error: BaseException) -> str:
    """Return an error in one line: one of the database without the statement and its parameters."""
    if isinstance(error, DBAPIError | psycopg.Error):
        cause = _driver_error(error)
        state = getattr(cause, "sqlstate", None)
        line = mask(str(cause).partition("\n")[0])
        return f"{line} (SQLSTATE {state})" if state else line
    # The text of some errors is empty, and of others it only makes sense with the type.
    return f"{type(error).__name__}: {' '.join(mask(str(error)).split())}"[:_MAX_DESCRIPTION].removesuffix(": ")


def is_about_a_row(error: DBAPIError | psycopg.Error) -> bool:
    """Return whether an error may be about one of the rows of a statement, so that the others can be written."""
    return (_state(error) or "").startswith(_ABOUT_A_ROW)


def _default_pauses() -> Iterable[float]:
    end = time.monotonic() + _PAUSES_END
    return itertools.takewhile(lambda _: time.monotonic() < end, _PAUSES)


def is_passing(error: DBAPIError | psycopg.Error) -> bool:
    """Return whether the same statement may succeed later."""
    state = _state(error)
    if _is_of_preparation(error):
        return True
    if state is None:
        # Without an answer from the server only a broken connection passes; the rest are bugs in the call.
        broken = isinstance(error, DBAPIError) and error.connection_invalidated
        return broken or isinstance(error, OperationalError | psycopg.OperationalError)
    return state.startswith(_PASSING)


def may_pass(error: Exception) -> bool:
    """Return whether `transact` tries a transaction again after that error."""
    return isinstance(error, DBAPIError | psycopg.Error) and is_passing(error)


def _is_of_connection(error: DBAPIError | psycopg.Error) -> bool:
    """Return whether the transaction failed because of the connection that it had, and may succeed on another one."""
    if _is_of_preparation(error):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate is None or error.sqlstate.startswith("57P"))


def _is_of_preparation(error: DBAPIError | psycopg.Error) -> bool:
    """Return whether a statement would have succeeded unprepared; ROLLBACK makes psycopg forget what is prepared."""
    cause = _driver_error(error)
    return isinstance(cause, psycopg.Error) and (
        cause.sqlstate in _NOT_PREPARED or cause.diag.source_function == _STALE_PLAN
    )


def _metric_cause(error: DBAPIError | psycopg.Error) -> str:
    """Return the word by which metrics count an error that passes."""
    state = _state(error) or "08"
    return next((word for word, prefixes in _METRIC_CAUSES.items() if state.startswith(prefixes)), metrics.OTHER)


def _state(error: DBAPIError | psycopg.Error) -> str | None:
    """Return the SQLSTATE; None when there was no answer from the server."""
    state: str | None = getattr(_driver_error(error), "sqlstate", None)
    return state


def _driver_error(error: DBAPIError | psycopg.Error) -> BaseException | None:
    """Return the error of psycopg, which a COPY raises as it is: SQLAlchemy does not wrap it."""
    return error.orig if isinstance(error, DBAPIError) else error

"""What PostgreSQL has counted and is doing now: indexes, sessions that are in the way, and slow statements."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, TextClause, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db.session import describe
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.masking import mask

#: From this age on a transaction is long: it keeps dead rows of all tables from being removed.
LONG_SECONDS = 60
#: Statements that are returned, and characters of each.
_MAX_STATEMENTS, _MAX_STATEMENT = 10, 300
#: Statements whose values are not shown, and these values.
_SECRET = re.compile(r"password|secret|identified|conninfo|connection", re.IGNORECASE)
_VALUE = re.compile(r"'(?:[^']|'')*'?")

_DATABASE = text("""
    SELECT current_database() AS name, pg_database_size(current_database()) AS bytes, stats_reset AS counted_since,
        CASE WHEN blks_hit + blks_read > 0 THEN blks_hit::float8 / (blks_hit + blks_read) END AS cache_hits,
        deadlocks, temp_bytes AS temporary_bytes,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
        current_setting('max_connections')::int AS max_connections
    FROM pg_stat_database WHERE datname = current_database()
""")
# A B-tree fills 90% of its pages of 8192 bytes when it is built, an entry has 12 bytes besides its columns, and two
# pages are its own. The width of a column is known when its table was analyzed and the role may read it, and never that
# of an expression.
_INDEXES = text("""
    SELECT format('%s.%s', n.nspname, c.relname) AS name, t.relname AS table,
        CASE WHEN EXISTS (SELECT FROM pg_locks l WHERE l.relation = c.oid AND l.mode = 'AccessExclusiveLock')
            THEN c.relpages * 8192::bigint ELSE pg_relation_size(c.oid) END AS bytes,
        coalesce(s.idx_scan, 0) AS scans,
        i.indisvalid AND i.indisready AS valid,
        i.indisunique OR EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid) AS needed,
        CASE WHEN a.amname = 'btree' AND c.reltuples >= 0 AND i.indexprs IS NULL AND w.width IS NOT NULL THEN
            ceil(c.reltuples * (12 + 8 * ceil(w.width / 8.0)) / (8192 * 0.9)) * 8192 + 16384
        END::bigint AS packed_bytes
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_am a ON a.oid = c.relam
    LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = c.oid
    LEFT JOIN LATERAL (
        SELECT sum(p.avg_width) AS width FROM pg_attribute k
        JOIN pg_stats p ON p.schemaname = n.nspname AND p.tablename = t.relname AND p.attname = k.attname
        WHERE k.attrelid = t.oid AND k.attnum = ANY (i.indkey::int2[])
        HAVING count(*) = i.indnatts
    ) w ON true
    WHERE n.nspname IN ('public', 'pixcrawler')
    ORDER BY bytes DESC, name
""")
_SESSIONS = text("""
    SELECT pid, coalesce(usename, '') AS role, application_name AS application, coalesce(state, '') AS state,
        extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds,
        extract(epoch FROM clock_timestamp() - state_change)::float8 AS idle_seconds,
        coalesce(wait_event_type || ': ' || wait_event, '') AS waits_for, pg_blocking_pids(pid) AS blocked_by,
        query AS statement
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        AND xact_start IS NOT NULL
""")
_EXTENSION = text("""
    SELECT format('%I', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'pg_stat_statements'
""")
_STATEMENTS = """
    SELECT calls, total_exec_time / 1000 AS seconds, mean_exec_time AS mean_ms, rows, query AS statement
    FROM {schema}.pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY total_exec_time DESC LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Database:
    """The database as a whole.

    Attributes:
        name: of it.
        bytes: of all that is in it.
        counted_since: when its counters, those of indexes too, were last reset; None if never.
        cache_hits: share of pages that were in PostgreSQL's cache, from 0 to 1; None when none were read.
        deadlocks: since then.
        temporary_bytes: written for sorts and joins that did not fit into memory, since then.
        connections: of clients, to all databases of the server.
        max_connections: of the server.
    """

    name: str
    bytes: int
    counted_since: datetime | None
    cache_hits: float | None
    deadlocks: int
    temporary_bytes: int
    connections: int
    max_connections: int


@dataclass(frozen=True, slots=True)
class IndexUse:
    """An index of the service.

    Attributes:
        name: with its schema.
        table: that it belongs to.
        bytes: on disk.
        scans: that have used it, since the counters were reset.
        valid: False when its creation failed or goes on: it costs and helps nothing.
        needed: whether it keeps rows unique or belongs to a constraint: it is needed without a scan, too.
        packed_bytes: an estimate of what a new one would have; None when the table was never analyzed.
    """

    name: str
    table: str
    bytes: int
    scans: int
    valid: bool
    needed: bool
    packed_bytes: int | None

    @property
    def unused(self) -> bool:
        """Whether nothing would be slower without it, as far as is known."""
        return self.valid and not self.needed and self.scans == 0

    @property
    def wasted_bytes(self) -> int:
        """Bytes that a new index would save, by the estimate."""
        return 0 if self.packed_bytes is None else max(0, self.bytes - self.packed_bytes)


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A session with an open transaction.

    Attributes:
        pid: of the server's process, for `pg_terminate_backend`.
        role: that has connected.
        application: as the client calls itself.
        state: `active`, `idle in transaction`, ...
        seconds: since the transaction began.
        idle_seconds: since the last statement ended; None while one runs.
        waits_for: an event, such as `Lock: transactionid`; empty when it waits for nothing.
        blocked_by: pids of the sessions whose locks it waits for.
        statement: the last one, without secrets, shortened.
    """

    pid: int
    role: str
    application: str
    state: str
    seconds: float
    idle_seconds: float | None
    waits_for: str
    blocked_by: tuple[int, ...]
    statement: str


@dataclass(frozen=True, slots=True)
class SlowStatement:
    """A kind of statement, by pg_stat_statements.

    Attributes:
        calls: of it.
        seconds: of all calls.
        mean_ms: milliseconds of a call.
        rows: of all calls.
        statement: without its values, shortened.
    """

    calls: int
    seconds: float
    mean_ms: float
    rows: int
    statement: str


def database(engine: Engine) -> Database:
    """Return the database as a whole.

    Raises:
        TransientError: when the database does not answer.
    """
    return Database(**_rows(engine, _DATABASE)[0])


def indexes(engine: Engine) -> list[IndexUse]:
    """Return the indexes of the service, the largest first.

    Raises:
        TransientError: when the database does not answer.
    """
    return [IndexUse(**row) for row in _rows(engine, _INDEXES)]


def transactions(engine: Engine) -> list[OpenTransaction]:
    """Return the sessions that are in the way: long transactions, idle ones, those that wait for a lock, and blockers.

    The oldest transaction is first. A role without `pg_read_all_stats` sees only those of its own role.

    Raises:
        TransientError: when the database does not answer.
    """
    found = [
        OpenTransaction(
            **row
            | {
                "blocked_by": tuple(row["blocked_by"]),
                "statement": _shortened(row["statement"]),
                "idle_seconds": row["idle_seconds"] if row["state"].startswith("idle") else None,
            }
        )
        for row in _rows(engine, _SESSIONS)
    ]
    blockers = {pid for one in found for pid in one.blocked_by}
    shown = [one for one in found if one.seconds >= LONG_SECONDS or one.blocked_by or one.pid in blockers]
    return sorted(shown, key=lambda one: -one.seconds)


def slow_statements(engine: Engine) -> list[SlowStatement] | None:
    """Return the statements that took most time in all; None where pg_stat_statements is not there or not readable.

    Raises:
        TransientError: when the database does not answer.
    """
    found = _rows(engine, _EXTENSION)
    if not found:
        return None
    query = text(_STATEMENTS.format(schema=found[0]["format"]))
    try:
        with engine.connect() as connection:
            rows = connection.execute(query, {"limit": _MAX_STATEMENTS}).mappings().all()
    except DBAPIError:
        # It is created, and not in shared_preload_libraries; or it is of a version with other columns.
        return None
    return [SlowStatement(**dict(row) | {"statement": _shortened(row["statement"])}) for row in rows]


def _rows(engine: Engine, query: TextClause) -> Sequence[dict[str, Any]]:
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error


def _shortened(statement: str | None) -> str:
    line = " ".join((statement or "").split())
    if _SECRET.search(line):
        # Of ALTER ROLE, for example, whose values PostgreSQL does not replace.
        line = _VALUE.sub("'***'", line)
    return safe(mask(line))[:_MAX_STATEMENT]

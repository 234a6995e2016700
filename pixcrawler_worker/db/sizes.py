"""Sizes of tables, dead rows, and how many ids are left: for `pixcrawler db report` and `pixcrawler doctor`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, RowMapping, TextClause, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db.session import describe
from pixcrawler_worker.errors import TransientError

#: Shares of the ids at which `pixcrawler doctor` fails, and from which on it mentions them.
CRITICAL, NOTABLE = 0.95, 0.5

# The size of a table that is locked exclusively, or soon will be, is that of its last vacuum: to read it would wait.
_TABLES = text("""
    SELECT format('%s.%s', schemaname, relname) AS name, n_live_tup AS rows, n_dead_tup AS dead_rows,
        CASE WHEN EXISTS (SELECT FROM pg_locks l LEFT JOIN pg_index i ON i.indexrelid = l.relation
                WHERE relid IN (l.relation, i.indrelid) AND l.mode = 'AccessExclusiveLock'
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
            THEN (SELECT sum(c.relpages)::bigint * 8192 FROM pg_class c
                WHERE c.oid = relid OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = relid))
            ELSE pg_total_relation_size(relid) END AS bytes, greatest(last_vacuum, last_autovacuum) AS vacuumed_at,
        greatest(last_analyze, last_autoanalyze) AS analyzed_at
    FROM pg_stat_user_tables WHERE schemaname IN ('public', 'pixcrawler') ORDER BY bytes DESC, name
""")
# The type of the column is the limit, whatever that of the sequence is. Columns of the private schema are bigint.
_SEQUENCES = text("""
    SELECT format('%s.%s', t.relname, a.attname) AS column, coalesce(s.last_value, 0) AS last,
        least(s.max_value, CASE a.atttypid WHEN 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END) AS limit
    FROM pg_class t
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_depend d ON d.refobjid = t.oid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
        AND d.classid = 'pg_class'::regclass
    JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S'
    JOIN pg_namespace n ON n.oid = q.relnamespace
    JOIN pg_sequences s ON s.schemaname = n.nspname AND s.sequencename = q.relname
    WHERE n.nspname IN ('public', 'pixcrawler')
    ORDER BY coalesce(s.last_value, 0)::float8 / s.max_value DESC, 1
""")


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table, by the statistics of PostgreSQL: its rows are estimates.

    Attributes:
        name: with its schema.
        rows: that are visible to new transactions.
        dead_rows: old versions that no vacuum has removed yet.
        bytes: of the table with its indexes.
        vacuumed_at: when a vacuum last ended, by hand or not; None if never.
        analyzed_at: likewise for the statistics of the planner.
    """

    name: str
    rows: int
    dead_rows: int
    bytes: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids that a column takes from its sequence.

    Attributes:
        column: with its table.
        last: the last one that was taken; 0 when none was, or when the role may not read the sequence.
        limit: the largest that the column can have.
    """

    column: str
    last: int
    limit: int

    @property
    def used(self) -> float:
        """The share that is used, from 0 to 1."""
        return self.last / self.limit


def tables(engine: Engine) -> list[TableSize]:
    """Return the tables of the service, the largest first.

    Raises:
        TransientError: when the database does not answer.
    """
    return [TableSize(**row) for row in _rows(engine, _TABLES)]


def ids(engine: Engine) -> list[Ids]:
    """Return the sequences of ids, that with the largest share used first.

    Raises:
        TransientError: when the database does not answer.
    """
    return [Ids(**row) for row in _rows(engine, _SEQUENCES)]


def _rows(engine: Engine, query: TextClause) -> Sequence[RowMapping]:
    try:
        with engine.connect() as connection:
            return connection.execute(query).mappings().all()
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error

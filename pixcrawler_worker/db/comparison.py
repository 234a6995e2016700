"""Compare the tables of two databases: rows, checksums, sequences, indexes and the migration."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db.session import describe
from pixcrawler_worker.errors import TransientError

#: Rows of a table that are named when they differ.
MAX_NAMED_ROWS = 10
#: A table that differs is divided by the hash of its keys, so that only parts that differ are read.
_PARTS, _MAX_PARTS = 1024, 16
#: Characters of a key that are shown.
_MAX_KEY = 60

_TABLES = text("""
    SELECT format('%I.%I', n.nspname, c.relname) AS name,
        (SELECT string_agg(format('%I', a.attname), ', ' ORDER BY array_position(i.indkey::int2[], a.attnum))
            FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
            WHERE i.indrelid = c.oid AND i.indisprimary) AS key
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'pixcrawler') AND c.relkind = 'r'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
            AND d.deptype = 'e')
    ORDER BY 1
""")
_SEQUENCES = text("""
    SELECT format('%I.%I', schemaname, sequencename) AS name, coalesce(last_value, 0) AS last
    FROM pg_sequences WHERE schemaname IN ('public', 'pixcrawler') ORDER BY 1
""")
_INDEXES = text("""
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'pixcrawler') AND i.indisvalid ORDER BY 1
""")
_REVISION = "SELECT string_agg(version_num, ', ' ORDER BY version_num) FROM pixcrawler.alembic_version"
# What a drill reads may take long, and it holds its snapshot while pg_dump runs.
_NO_TIMEOUTS = text("""
    SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)
""")


@dataclass(frozen=True, slots=True)
class Table:
    """What a table has in one snapshot.

    Attributes:
        key: columns of its primary key, comma-separated; None without one.
        rows: their number.
        checksum: the sum of the hashes of its rows, whatever their order.
    """

    key: str | None
    rows: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database has in one snapshot.

    Attributes:
        revision: the migration that it is at.
        tables: by name, with the schema.
        sequences: the last number of each.
        indexes: names of those that are valid.
    """

    revision: str | None
    tables: dict[str, Table]
    sequences: dict[str, int]
    indexes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between the two.

    Attributes:
        name: of a table, a sequence or an index; `migration` for that.
        what: differs.
        rows: of a table, by their keys: up to `MAX_NAMED_ROWS`.
    """

    name: str
    what: str
    rows: tuple[str, ...] = ()


@contextlib.contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Yield a connection that sees the database as it is now, whatever is written meanwhile.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            connection.execute(_NO_TIMEOUTS)
            yield connection
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error


def export(connection: Connection) -> str:
    """Return the name of the snapshot of a connection, for pg_dump."""
    return str(connection.scalar(text("SELECT pg_export_snapshot()")))


def read(connection: Connection) -> Contents:
    """Return what the database has in the snapshot of a connection: every row is read."""
    found = connection.execute(_TABLES).all()
    tables = {row.name: _read_table(connection, row.name, row.key) for row in found}
    return Contents(
        revision=connection.scalar(text(_REVISION)) if "pixcrawler.alembic_version" in tables else None,
        tables=tables,
        sequences={row.name: row.last for row in connection.execute(_SEQUENCES)},
        indexes=frozenset(connection.scalars(_INDEXES)),
    )


def _read_table(connection: Connection, name: str, key: str | None) -> Table:
    # A column with the name of the alias would be read instead of the row.
    query = f"SELECT count(*), coalesce(sum(hashtextextended(whole_row_::text, 0)::numeric), 0) FROM {name} whole_row_"  # noqa: S608 - quoted by the server
    rows, checksum = connection.execute(text(query)).one()
    return Table(key, rows, int(checksum))


def differences(
    original: Contents, restored: Contents, connections: tuple[Connection, Connection]
) -> Iterator[Difference]:
    """Yield where a restored database differs from the original one.

    A sequence may be ahead: it is no part of a snapshot.

    Args:
        original: as `read` has returned it.
        restored: likewise.
        connections: to the two, with the same snapshots.
    """
    if original.revision != restored.revision:
        yield Difference("migration", f"is at {original.revision}, restored at {restored.revision}")
    for name in sorted(original.tables.keys() | restored.tables.keys()):
        before, after = original.tables.get(name), restored.tables.get(name)
        if before is None or after is None:
            yield Difference(name, "is only in the restored database" if before is None else "was not restored")
        elif (before.rows, before.checksum) != (after.rows, after.checksum):
            what = "the rows differ" if before.rows == after.rows else f"{before.rows:,} rows, restored {after.rows:,}"
            yield Difference(name, what, tuple(_rows(name, before.key, connections)))
    for name, last in original.sequences.items():
        if (now := restored.sequences.get(name)) is None or now < last:
            yield Difference(name, f"the sequence is at {last:,}, restored at {'nothing' if now is None else now}")
    for name in sorted(original.indexes - restored.indexes):
        yield Difference(name, "the index was not restored")


def _rows(name: str, key: str | None, connections: tuple[Connection, Connection]) -> Iterator[str]:
    """Yield the keys of rows that differ, with how."""
    named = f"ROW({key})::text" if key else "whole_row_::text"
    part = f"abs(hashtextextended({named}, 0) % {_PARTS})"
    sums = text(
        f"SELECT {part} AS part, count(*), sum(hashtextextended(whole_row_::text, 0)::numeric)"  # noqa: S608 - as above
        f" FROM {name} whole_row_ GROUP BY 1"
    )
    before, after = ({row[0]: tuple(row[1:]) for row in one.execute(sums)} for one in connections)
    parts = sorted(part for part in before.keys() | after.keys() if before.get(part) != after.get(part))
    listed = text(
        f"SELECT {named}, md5(whole_row_::text) FROM {name} whole_row_ WHERE {part} = ANY (:parts)"  # noqa: S608 - as above
    )
    old, new = ({row[0]: row[1] for row in one.execute(listed, {"parts": parts[:_MAX_PARTS]})} for one in connections)
    differing = sorted(row for row in old.keys() | new.keys() if old.get(row) != new.get(row))
    for row in differing[:MAX_NAMED_ROWS]:
        how = "differs" if row in old and row in new else "is missing" if row in old else "was added"
        yield f"{key or 'row'} = {row.strip('()')[:_MAX_KEY]} {how}"

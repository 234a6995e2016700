"""`docs/database-schema.md` is binding: the migrated database and the models are as documented."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import schema_document
from psycopg.rows import scalar_row, tuple_row
from schema_document import Cascade, Column, ColumnList, ForeignKey, Index, Relationship, Table
from sqlalchemy import inspect

from pixcrawler_worker.db.models import Base

TEXT = schema_document.PATH.read_text()
DOCUMENT = schema_document.read(TEXT)

each_table = pytest.mark.parametrize("table", DOCUMENT.tables, ids=lambda table: table.name)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection that is rolled back; unqualified tables are in `public`."""
    with psycopg.connect(database_url) as connection:
        connection.execute("SET search_path = public")
        yield connection
        connection.rollback()


# The parser


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"## Table Specifications", "## Tables"),
        (r"### 4\. images", "#### images"),
        (r"\| filename .*\n", ""),
        (r"- `ix_image_crawl_job_id` on .*\n", ""),
        (r"\n\*\*Indexes\*\*:\n", "\n**Index list**:\n"),
        (r"\| progress \| Integer \|", "| progress | Percentage |"),
        (r"NOT NULL, DEFAULT=1000", "SOMETIMES, DEFAULT=1000"),
        (r"NOT NULL, DEFAULT=1000", "DEFAULT=1000"),
        (r"- `project_id` → `projects.id` \(CASCADE DELETE\)\n", ""),
        (r"- One-to-Many: images\n", ""),
        (r"Many-to-One: crawl_job \(CrawlJob\)", "Many-to-One: crawl_job"),
        (r"\*\*Relationships\*\*:", "**Relations**:"),
        (r"\| Profile \| ActivityLog \| SET NULL \|\n", ""),
        (r"- `profiles.email` - User authentication\n", ""),
        (r"```sql", "```"),
    ],
)
def test_an_incomplete_document_is_an_error(pattern: str, replacement: str) -> None:
    damaged, changes = re.subn(pattern, replacement, TEXT, count=1)
    assert changes == 1
    with pytest.raises(schema_document.UnreadableError):
        schema_document.read(damaged)


# Columns, keys, indexes


def test_schema_public_has_exactly_the_documented_tables(connection: psycopg.Connection) -> None:
    tables = _values(connection, "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'")
    assert sorted(tables) == sorted(table.name for table in DOCUMENT.tables)


@each_table
def test_columns_are_the_documented_ones_in_their_order(connection: psycopg.Connection, table: Table) -> None:
    rows = connection.cursor(row_factory=tuple_row).execute(
        """
        SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
        """,
        [table.name],
    )
    assert tuple(Column(*row) for row in rows) == table.columns


@each_table
def test_the_primary_key_is_the_documented_one(connection: psycopg.Connection, table: Table) -> None:
    keys = [index.on.columns for index in _indexes(connection, table.name, primary=True)]
    assert keys == [table.noted_primary]


@each_table
def test_indexes_are_the_documented_ones(connection: psycopg.Connection, table: Table) -> None:
    assert sorted(_indexes(connection, table.name, primary=False)) == sorted(table.indexes)


@each_table
def test_a_column_noted_as_indexed_leads_an_index(connection: psycopg.Connection, table: Table) -> None:
    leading = {index.on.columns[0] for index in _indexes(connection, table.name, primary=False)}
    assert set(table.noted_indexed) <= leading


@each_table
def test_a_column_noted_as_unique_has_a_unique_index_of_its_own(connection: psycopg.Connection, table: Table) -> None:
    unique = {index.on.columns for index in _indexes(connection, table.name, primary=False) if index.unique}
    assert {(column,) for column in table.noted_unique} == unique


@pytest.mark.parametrize("on", DOCUMENT.lookups, ids=str)
def test_the_index_strategy_is_followed(connection: psycopg.Connection, on: ColumnList) -> None:
    indexed = [index.on.columns for index in _indexes(connection, on.table, primary=False)]
    assert any(columns[: len(on.columns)] == on.columns for columns in indexed)


@each_table
def test_foreign_keys_are_the_documented_ones(connection: psycopg.Connection, table: Table) -> None:
    rows = connection.cursor(row_factory=tuple_row).execute(
        """
        SELECT conrelid::regclass::text, child.attname, confrelid::regclass::text, parent.attname,
            CASE confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE confdeltype::text END
        FROM pg_constraint
        JOIN pg_attribute AS child ON child.attrelid = conrelid AND child.attnum = ANY (conkey)
        JOIN pg_attribute AS parent ON parent.attrelid = confrelid AND parent.attnum = ANY (confkey)
        WHERE contype = 'f' AND conrelid = to_regclass(%s)
        """,
        [table.name],
    )
    assert sorted(ForeignKey(*row) for row in rows) == sorted(table.foreign_keys)


def test_every_foreign_key_has_an_index_so_that_a_cascade_never_scans(connection: psycopg.Connection) -> None:
    without = _values(
        connection,
        """
        SELECT conrelid::regclass || ': ' || conname FROM pg_constraint
        WHERE contype = 'f' AND NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1] AND cardinality(conkey) = 1
        )
        """,
    )
    assert without == []


# Relationships


@each_table
def test_the_relationships_of_a_model_are_the_documented_ones(table: Table) -> None:
    (mapper,) = [mapper for mapper in Base.registry.mappers if mapper.class_.__tablename__ == table.name]
    found = [
        Relationship(
            table.name,
            name,
            relationship.mapper.class_.__tablename__,
            many=bool(relationship.uselist),
            optional=all(column.nullable for column in relationship.local_columns),
        )
        for name, relationship in inspect(mapper).relationships.items()
    ]
    assert sorted(found) == sorted(table.relationships)


# Deletes


@pytest.mark.parametrize("cascade", DOCUMENT.cascades, ids=str)
def test_deleting_a_parent_does_to_its_children_what_is_documented(
    connection: psycopg.Connection, cascade: Cascade
) -> None:
    rows = _a_row_everywhere(connection)
    deleted = connection.execute(f"DELETE FROM {cascade.parent} WHERE id = %s".encode(), [rows[cascade.parent]])
    assert deleted.rowcount == 1
    left = _values(connection, f"SELECT id FROM {cascade.child} WHERE id = %s", rows[cascade.child])
    assert left == ([] if cascade.on_delete == "CASCADE" else [rows[cascade.child]])


def test_an_activity_log_is_kept_without_its_deleted_user(connection: psycopg.Connection) -> None:
    rows = _a_row_everywhere(connection)
    connection.execute("DELETE FROM profiles WHERE id = %s", [rows["profiles"]])
    kept = connection.execute("SELECT user_id, action FROM activity_logs WHERE id = %s", [rows["activity_logs"]])
    assert kept.fetchall() == [(None, "viewed")]


def test_an_export_is_deleted_with_its_user_and_its_crawl_job_is_not(connection: psycopg.Connection) -> None:
    rows = _a_row_everywhere(connection)
    other = _profile(connection)
    connection.execute("UPDATE export_jobs SET user_id = %s", [other])
    connection.execute("DELETE FROM profiles WHERE id = %s", [other])
    assert _values(connection, "SELECT id FROM export_jobs") == []
    assert _values(connection, "SELECT id FROM crawl_jobs") == [rows["crawl_jobs"]]


def test_a_documented_delete_also_deletes_the_rows_of_the_ledger(connection: psycopg.Connection) -> None:
    rows = _a_row_everywhere(connection)
    private = _values(
        connection,
        "SELECT table_name::text FROM information_schema.tables "
        # What is known of the broker belongs to no job; marks of jobs to count are deleted by the counting.
        "WHERE table_schema = 'pixcrawler' AND table_name NOT IN ('alembic_version', 'broker', 'recounts')",
    )
    for table in private:
        assert _values(connection, f"SELECT count(*) FROM pixcrawler.{table}") == [1], f"{table} needs a row here"
    connection.execute("DELETE FROM projects WHERE id = %s", [rows["projects"]])
    for table in private:
        assert _values(connection, f"SELECT count(*) FROM pixcrawler.{table}") == [0], f"{table} keeps its row"


# Constraints


def test_an_email_address_is_unique(connection: psycopg.Connection) -> None:
    statement = "INSERT INTO profiles (id, email) VALUES (%s, 'a@example.org')"
    connection.execute(statement, [uuid.uuid4()])
    with pytest.raises(psycopg.errors.UniqueViolation, match="ix_profiles_email"):
        connection.execute(statement, [uuid.uuid4()])


def test_a_foreign_key_needs_its_parent(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute("INSERT INTO projects (name, user_id) VALUES ('x', %s)", [uuid.uuid4()])


COUNTERS = [
    (table.name, column.name)
    for table in DOCUMENT.tables
    for column in table.columns
    if re.search(r"_(images|chunks)$", column.name) and column.name != "max_images"
]
PROGRESS = [(table.name, "progress") for table in DOCUMENT.tables if "progress" in [c.name for c in table.columns]]


def test_the_document_has_twelve_counters_and_three_columns_of_progress() -> None:
    assert (len(COUNTERS), len(PROGRESS)) == (12, 3)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [(*counter, -1) for counter in COUNTERS] + [(*progress, value) for progress in PROGRESS for value in (-1, 101)],
)
def test_a_value_out_of_range_is_rejected(connection: psycopg.Connection, table: str, column: str, value: int) -> None:
    rows = _a_row_everywhere(connection)
    with pytest.raises(psycopg.errors.CheckViolation, match=f"ck_{table}_{column}_"):
        connection.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s".encode(), [value, rows[table]])


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [(*counter, 0) for counter in COUNTERS] + [(*progress, value) for progress in PROGRESS for value in (0, 100)],
)
def test_the_limits_of_a_range_are_accepted(
    connection: psycopg.Connection, table: str, column: str, value: int
) -> None:
    rows = _a_row_everywhere(connection)
    connection.execute(f"UPDATE {table} SET {column} = %s".encode(), [value])
    assert _values(connection, f"SELECT {column} FROM {table} WHERE id = %s", rows[table]) == [value]


def test_a_job_with_max_images_0_can_be_inserted(connection: psycopg.Connection) -> None:
    rows = _a_row_everywhere(connection)
    statement = "INSERT INTO crawl_jobs (project_id, name, keywords, max_images) VALUES (%s, 'none', '[]', 0)"
    assert connection.execute(statement, [rows["projects"]]).rowcount == 1


def _values(connection: psycopg.Connection, statement: str, *arguments: object) -> list[Any]:
    cursor = connection.cursor(row_factory=scalar_row)
    return cursor.execute(statement.encode(), arguments or None).fetchall()


def _indexes(connection: psycopg.Connection, table: str, *, primary: bool) -> list[Index]:
    """Return the plain indexes: the document has no partial indexes and none on expressions."""
    rows = connection.cursor(row_factory=tuple_row).execute(
        """
        SELECT indexrelid::regclass::text, indisunique, ARRAY(
            SELECT attname::text FROM unnest(indkey::int2[]) WITH ORDINALITY AS key (attnum, nth)
            JOIN pg_attribute USING (attnum) WHERE attrelid = indrelid ORDER BY nth
        )
        FROM pg_index
        WHERE indrelid = to_regclass(%s) AND indisprimary = %s AND indisvalid AND indpred IS NULL AND indexprs IS NULL
        """,
        [table, primary],
    )
    return [Index(name, ColumnList(table, tuple(columns)), unique) for name, unique, columns in rows]


def _profile(connection: psycopg.Connection) -> uuid.UUID:
    number = uuid.uuid4()
    connection.execute("INSERT INTO profiles (id, email) VALUES (%s, %s)", [number, f"{number}@example.org"])
    return number


def _a_row_everywhere(connection: psycopg.Connection) -> dict[str, object]:
    """Insert a row into every table, all below one profile; return the ids in the documented tables."""
    ids: dict[str, object] = {"profiles": _profile(connection)}

    def insert(table: str, **values: object) -> None:
        names, parameters = ", ".join(values), ", ".join(["%s"] * len(values))
        statement = f"INSERT INTO {table} ({names}) VALUES ({parameters}) RETURNING {table}.*"
        ids[table] = _values(connection, statement, *values.values())[0]

    insert("projects", name="p", user_id=ids["profiles"])
    insert("crawl_jobs", project_id=ids["projects"], name="c", keywords='["cat"]')
    job = {"crawl_job_id": ids["crawl_jobs"]}
    insert("images", **job, original_url="https://example.org/1.jpg", filename="1.jpg")
    insert("validation_jobs", **job, name="v")
    insert("export_jobs", **job, name="e", user_id=ids["profiles"])
    insert("activity_logs", user_id=ids["profiles"], action="viewed")
    insert("pixcrawler.crawl_plans", **job)
    insert("pixcrawler.crawl_urls", **job, page=0, urls=["https://example.org/1.jpg"])
    insert("pixcrawler.crawl_candidates", **job, url_hash=b"1")
    insert("pixcrawler.chunks", **job, seq=0, payload="{}", max_attempts=1, task_id=uuid.uuid4())
    facts = {"sha256": b"1", "url_hash": b"1", "phash": 0, "dhash": 0, "hash_version": 1, "mode": "RGB", "frames": 1}
    origin = {"label": "cat", "query": "cat", "source": "urls"}
    insert("pixcrawler.image_facts", **job, image_id=ids["images"], **facts, **origin)
    validation = {"validation_job_id": ids["validation_jobs"]}
    insert("pixcrawler.validation_plans", **validation)
    insert("pixcrawler.verdicts", **validation, image_id=ids["images"], valid=True, findings="[]")
    export = {"export_job_id": ids["export_jobs"]}
    insert("pixcrawler.export_plans", **export)
    place = {"seq": 0, "split": 0, "copy": 0, "cost": 1, "upto": 1}
    insert("pixcrawler.export_items", **export, image_id=ids["images"], digest=b"1", **place)
    return ids

"""The queries under "Query Optimization Tips" use the index that the document names."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import schema_document
from schema_document import Query

DOCUMENT = schema_document.read(schema_document.PATH.read_text())
QUERIES = {query.title: query for query in DOCUMENT.queries}
PROFILE = uuid.UUID(int=7)

#: A value for $1 of each query; ids are those that `filled` makes.
ARGUMENTS: dict[str, list[object]] = {
    "User's Projects": [PROFILE],
    "Active Jobs": [77],
    "Recent Activity": [],
    "Job Images": [777],
}

each_query = pytest.mark.parametrize("title", ARGUMENTS)

_FILL = """
    INSERT INTO profiles (id, email) SELECT lpad(to_hex(n), 32, '0')::uuid, n || '@example.org'
    FROM generate_series(0, 99) AS n;
    INSERT INTO projects (name, user_id) SELECT 'p', lpad(to_hex(n % 100), 32, '0')::uuid
    FROM generate_series(1, 5000) AS n;
    INSERT INTO crawl_jobs (project_id, name, keywords, status)
    SELECT 1 + n % 1000, 'c', '["cat"]', (ARRAY['pending', 'running', 'completed', 'failed'])[1 + n / 1000 % 4]
    FROM generate_series(1, 12000) AS n;
    INSERT INTO activity_logs (user_id, action, timestamp)
    SELECT lpad(to_hex(n % 100), 32, '0')::uuid, 'viewed', now() - n * interval '1 hour'
    FROM generate_series(1, 8000) AS n;
    INSERT INTO images (crawl_job_id, original_url, filename)
    SELECT 1 + n % 1000, 'https://example.org/' || n, n || '.jpg' FROM generate_series(1, 20000) AS n;
    ANALYZE profiles, projects, crawl_jobs, activity_logs, images;
"""


@pytest.fixture(scope="module")
def filled(database_url: str) -> Iterator[psycopg.RawCursor[tuple[Any, ...]]]:
    """A cursor that reads $1 as the document writes it, on tables with thousands of rows and fresh statistics."""
    with psycopg.connect(database_url) as connection:
        connection.execute(_FILL)
        connection.commit()
        yield psycopg.RawCursor(connection)


def test_every_documented_query_is_run_here() -> None:
    assert set(QUERIES) == set(ARGUMENTS)


@each_query
def test_a_documented_query_uses_its_documented_index(filled: psycopg.RawCursor[tuple[Any, ...]], title: str) -> None:
    query = QUERIES[title]
    assert _indexes_used(filled, query) == {_documented_index(query)}


@each_query
def test_a_documented_query_finds_rows_in_the_filled_tables(
    filled: psycopg.RawCursor[tuple[Any, ...]], title: str
) -> None:
    assert filled.execute(QUERIES[title].sql.encode(), ARGUMENTS[title]).fetchone() is not None


@each_query
def test_without_its_index_a_documented_query_has_another_plan(
    filled: psycopg.RawCursor[tuple[Any, ...]], title: str
) -> None:
    name = _documented_index(QUERIES[title])
    try:
        filled.execute(f"DROP INDEX {name}".encode())
        assert name not in _indexes_used(filled, QUERIES[title])
    finally:
        filled.connection.rollback()


def _documented_index(query: Query) -> str:
    (name,) = [index.name for table in DOCUMENT.tables for index in table.indexes if index.on == query.on]
    return name


def _indexes_used(cursor: psycopg.RawCursor[tuple[Any, ...]], query: Query) -> set[str]:
    cursor.execute(f"EXPLAIN (FORMAT JSON) {query.sql}".encode(), ARGUMENTS[query.title])
    row = cursor.fetchone()
    assert row is not None
    return {node["Index Name"] for node in _nodes(row[0][0]["Plan"]) if "Index Name" in node}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)

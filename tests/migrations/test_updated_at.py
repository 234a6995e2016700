"""The trigger of the documented tables: every update changes `updated_at`, also one that does not set it."""

from collections.abc import Callable
from datetime import datetime

import ledger
import psycopg
import pytest
import schema_document
from factories import make_image, make_job, start_job
from sqlalchemy import text

from pixcrawler_worker.db import migrate, session
from pixcrawler_worker.db.session import Sessions

TABLES = [
    table.name
    for table in schema_document.read(schema_document.PATH.read_text()).tables
    if "updated_at" in {column.name for column in table.columns}
]
LONG_AGO = "2001-02-03 04:05:06+00"

each_table = pytest.mark.parametrize("table", TABLES)


@pytest.fixture
def rows(sessions: Sessions) -> None:
    """Two rows in every table, last updated long ago."""
    ledger.execute(sessions, "DELETE FROM profiles")
    for _ in range(2):
        job_id = make_job(sessions)
        ledger.execute(sessions, f"INSERT INTO validation_jobs (crawl_job_id, name) VALUES ({job_id}, 'check')")
        ledger.execute(
            sessions,
            "INSERT INTO export_jobs (crawl_job_id, user_id, name) SELECT crawl_jobs.id, user_id, 'archive'"
            f" FROM crawl_jobs JOIN projects ON projects.id = project_id WHERE crawl_jobs.id = {job_id}",
        )
    for table in TABLES:
        ledger.execute(sessions, f"UPDATE {table} SET updated_at = '{LONG_AGO}'")


def updated_at(sessions: Sessions, table: str) -> list[datetime]:
    with sessions.begin() as session:
        return [row[0] for row in session.execute(text(f"SELECT updated_at FROM {table} ORDER BY updated_at"))]


def now(sessions: Sessions) -> datetime:
    with sessions.begin() as session:
        time: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return time


def test_five_documented_tables_have_the_column() -> None:
    assert sorted(TABLES) == ["crawl_jobs", "export_jobs", "profiles", "projects", "validation_jobs"]


@each_table
@pytest.mark.usefixtures("rows")
def test_a_statement_that_does_not_set_it_changes_it_in_every_row(sessions: Sessions, table: str) -> None:
    assert [time.year for time in updated_at(sessions, table)] == [2001, 2001]
    before = now(sessions)
    ledger.execute(sessions, f"UPDATE {table} SET created_at = created_at")
    after = now(sessions)
    assert all(before <= time <= after for time in updated_at(sessions, table))


@each_table
@pytest.mark.usefixtures("rows")
def test_only_the_updated_row_changes(sessions: Sessions, table: str) -> None:
    ledger.execute(sessions, f"UPDATE {table} SET created_at = now() WHERE id = (SELECT id FROM {table} LIMIT 1)")
    first, second = updated_at(sessions, table)
    assert (first.year, second.year > 2001) == (2001, True)


@each_table
@pytest.mark.usefixtures("rows")
def test_a_statement_that_sets_it_decides(sessions: Sessions, table: str) -> None:
    ledger.execute(sessions, f"UPDATE {table} SET updated_at = '2002-02-03 04:05:06+00'")
    assert [time.year for time in updated_at(sessions, table)] == [2002, 2002]


@pytest.mark.usefixtures("rows")
def test_a_second_update_of_a_transaction_changes_it_again(sessions: Sessions) -> None:
    """now() is the start of the transaction: the second statement sets what the row has already."""
    with sessions.begin() as session:
        statement = text("UPDATE profiles SET updated_at = now() RETURNING updated_at")
        first, second = (max(session.execute(statement).scalars()) for _ in range(2))
    assert first < second


def test_the_worker_sets_it_with_its_own_updates(sessions: Sessions) -> None:
    ref = start_job(sessions)
    before = updated_at(sessions, "crawl_jobs")[-1]
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    assert updated_at(sessions, "crawl_jobs")[-1] > before
    with sessions.begin() as session:
        ledger.bring(session, claim, [make_image("1")])
    ledger.check(sessions, ref)


def test_an_api_and_a_worker_work_on_the_schema_before_the_trigger(new_database: Callable[..., str]) -> None:
    """During a rolling upgrade new code meets the old schema; `db upgrade` comes before new workers start."""
    url = new_database()
    migrate.upgrade(url, "0004")
    engine = session.connect(url)
    sessions = session.sessions(engine)
    ref = start_job(sessions)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    migrate.upgrade(url)
    with sessions.begin() as opened:
        ledger.bring(opened, claim, [make_image("1")])
    ledger.check(sessions, ref)
    engine.dispose()


def test_a_role_without_rights_on_the_private_schema_can_update_the_documented_tables(
    migrated: str,
) -> None:
    """The role of an API has rights on the documented tables only."""
    with psycopg.connect(migrated) as connection:
        connection.execute("CREATE ROLE api_only")
        connection.execute("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO api_only")
        connection.execute("SET ROLE api_only")
        connection.execute(
            "INSERT INTO profiles (id, email, updated_at) VALUES (gen_random_uuid(), 'a@example.org', %s)", [LONG_AGO]
        )
        row = connection.execute(
            "UPDATE profiles SET role = 'admin' RETURNING extract(year FROM updated_at)"
        ).fetchone()
        assert row is not None
        assert row[0] > 2001
        connection.rollback()

"""The statements that every chunk needs: what PostgreSQL reads for them, prepared and among many rows."""

import re

import ledger
import pytest
from factories import TABLES, start_job
from sqlalchemy import text

from pixcrawler_worker.db.ledger import statements
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.private_models import IMPOSSIBLE_NUMBERS
from pixcrawler_worker.db.session import Session, Sessions
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS_WITH_DEFERRALS

#: Types of what the statements are executed with.
TYPES = {
    "chunk": "bigint",
    "job": "int",
    "owner": "text",
    "lease": "interval",
    "limit": "int",
    "fence": "bigint",
    "active": "int",
    "result": "jsonb",
    "gain_total_images": "int",
}


@pytest.fixture(scope="module", autouse=True)
def many(sessions: Sessions) -> None:
    """A running job of each kind with 3,000 chunks, most of which have ended."""
    for table in TABLES:
        start_job(sessions, kind=table, chunks=3000)
    ledger.execute(
        sessions, "UPDATE pixcrawler.chunks SET state = 'completed', result = '{}' WHERE seq BETWEEN 3 AND 2990"
    )
    ledger.execute(sessions, "ANALYZE")


def generic_plan(session: Session, statement: str) -> str:
    """The plan of a statement that is prepared, made without its values."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    for number, name in enumerate(names, 1):
        statement = statement.replace(f"%({name})s", f"${number}")
    run = session.connection().exec_driver_sql
    run("SET LOCAL plan_cache_mode = force_generic_plan")
    run(f"PREPARE tried ({', '.join(TYPES[name] for name in names)}) AS {statement}")
    lines = run(f"EXPLAIN EXECUTE tried ({', '.join('NULL' for _ in names)})").scalars().all()
    run("DEALLOCATE tried")
    return "\n".join(lines)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize(
    "made",
    [
        statements.claim,
        statements.lock_chunk,
        statements.dispatch,
        lambda table: statements.claim_undispatched(table, tuple(TABLES)),
        lambda table: statements.look(table, tuple(TABLES)),
    ],
    ids=["claim", "lock_chunk", "dispatch", "claim_undispatched", "look"],
)
def test_no_statement_reads_all_chunks(sessions: Sessions, table: JobTable, made: object) -> None:
    assert callable(made)
    with sessions.begin() as session:
        assert "Seq Scan on chunks" not in (plan := generic_plan(session, made(table))), plan


def test_the_end_of_a_chunk_and_what_follows_it_read_no_chunk_besides(sessions: Sessions) -> None:
    crawls = TABLES[0]
    with sessions.begin() as session:
        plan = generic_plan(session, statements.claim_undispatched(crawls, tuple(TABLES)))
        plan += generic_plan(session, statements.finish(crawls, ("total_images",), ()))
    assert "Seq Scan on chunks" not in plan
    assert set(re.findall(r"using (\w*chunks\w*)", plan)) == {"pk_chunks", "ix_chunks_crawl_job_id_queued"}, plan


def test_the_index_of_impossible_numbers_knows_the_limit() -> None:
    assert f"max_attempts > {MAX_ATTEMPTS_WITH_DEFERRALS} " in IMPOSSIBLE_NUMBERS


def test_the_index_of_impossible_numbers_is_that_of_the_database(sessions: Sessions) -> None:
    with sessions.begin() as session:
        made = session.scalar(text("SELECT pg_get_indexdef('pixcrawler.ix_chunks_impossible'::regclass)"))
    assert f"max_attempts > {MAX_ATTEMPTS_WITH_DEFERRALS}" in str(made)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_claim_that_was_prepared_before_there_were_chunks_reads_only_its_own(
    sessions: Sessions, table: JobTable
) -> None:
    with sessions() as session:  # without a commit
        session.execute(text("TRUNCATE pixcrawler.chunks CASCADE"))
        plan = generic_plan(session, statements.claim(table))
    of_chunks = set(re.findall(r"using (\w*chunks\w*)", plan))
    assert of_chunks == {"pk_chunks"}, plan

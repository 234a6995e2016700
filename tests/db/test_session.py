"""Transactions over real connections that break, wait for locks, and deadlock."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Barrier

import ledger
import psycopg
import pytest
from counted import counting
from factories import make_image, make_job, start_job
from fakes.postgres_pooler import postgres_pooler
from fakes.postgres_proxy import PostgresProxy, postgres_proxy
from ledger import LEASE, at_once
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from pixcrawler_worker.db import session
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.models import CrawlJob
from pixcrawler_worker.db.session import Session, Sessions, transact
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError

NO_PAUSES = (0.0, 0.0, 0.0)


@pytest.fixture
def wire(database_url: str) -> Iterator[PostgresProxy]:
    with postgres_proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def shaky(wire: PostgresProxy) -> Iterator[Sessions]:
    engine = session.connect(wire.url, pool_size=1)
    yield session.sessions(engine)
    engine.dispose()


def name_of(sessions: Sessions, job_id: int) -> str:
    with sessions.begin() as session:
        return session.get_one(CrawlJob, job_id).name


def rename(session: Session, job_id: int, name: str) -> None:
    session.execute(text("UPDATE crawl_jobs SET name = :name WHERE id = :id"), {"name": name, "id": job_id})


# URLs and timeouts


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://me@host/db", "postgresql+psycopg://me@host/db"),
        ("postgresql://me@host:6543/db?sslmode=require", "postgresql+psycopg://me@host:6543/db?sslmode=require"),
        ("postgresql+psycopg:///db?host=/run", "postgresql+psycopg:///db?host=/run"),
    ],
)
def test_a_libpq_url_is_converted_for_sqlalchemy(url: str, expected: str) -> None:
    assert session.sqlalchemy_url(url) == expected


@pytest.mark.parametrize("url", ["", "host/db", "mysql://me:secret@host/db", "postgresql://me:secret@host:port/db"])
def test_another_url_is_rejected_without_repeating_the_password(url: str) -> None:
    with pytest.raises(PermanentError, match="invalid database URL") as caught:
        session.sqlalchemy_url(url)
    assert "secret" not in str(caught.value)


#: What limits a transaction in time, and a query for it.
LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
SHOW = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in LIMITS))


@pytest.fixture
def behind_pooler(database_url: str) -> Iterator[Engine]:
    with postgres_pooler(database_url) as url:
        engine = session.connect(url, pool_size=1)
        yield engine
        engine.dispose()


def test_every_transaction_is_limited_in_time(sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(text("SET LOCAL lock_timeout = '1s'"))
    with sessions.begin() as session:
        assert tuple(session.execute(SHOW).one()) == ("3s", "15s", "30s")
    with pytest.raises(KeyError), sessions.begin() as session:
        raise KeyError("rolled back")
    with sessions.begin() as session:
        assert tuple(session.execute(SHOW).one()) == ("3s", "15s", "30s")


def test_behind_a_pooler_every_transaction_is_limited_and_leaves_no_setting_behind(behind_pooler: Engine) -> None:
    with session.sessions(behind_pooler).begin() as limited:
        assert tuple(limited.execute(SHOW).one()) == ("3s", "15s", "30s")
    with behind_pooler.raw_connection() as raw, raw.cursor() as cursor:  # type: ignore[attr-defined]  # the pool's proxy passes psycopg's context managers on
        assert cursor.execute(str(SHOW)).fetchone() == ("0", "0", "0")


# Prepared statements

NUMBER = "SELECT id FROM numbers WHERE id = %(id)s"


def _number(session_: Session) -> int:
    row = session.execute_prepared(session_, NUMBER, {"id": 1}).fetchone()
    assert row is not None
    return int(row[0])


def _prepared(session_: Session) -> list[str]:
    return list(session_.scalars(text("SELECT statement FROM pg_prepared_statements")))


@pytest.fixture
def numbers(sessions: Sessions) -> Iterator[None]:
    ledger.execute(sessions, "CREATE TABLE numbers AS SELECT 1 AS id")
    yield
    ledger.execute(sessions, "DROP TABLE numbers")


@pytest.fixture
def mine(database_url: str) -> Iterator[Sessions]:
    """One connection, that no other test has used."""
    engine = session.connect(database_url, pool_size=1)
    yield session.sessions(engine)
    engine.dispose()


@pytest.mark.usefixtures("numbers")
def test_a_statement_is_prepared_on_a_connection_to_the_server_itself(mine: Sessions) -> None:
    assert transact(mine, _number) == 1
    assert len(transact(mine, _prepared)) == 1


@pytest.mark.usefixtures("numbers")
def test_no_statement_is_prepared_behind_a_pooler(behind_pooler: Engine) -> None:
    pooled = session.sessions(behind_pooler)
    assert [transact(pooled, _number) for _ in range(9)] == [1] * 9
    assert transact(pooled, _prepared) == []


@pytest.mark.usefixtures("numbers")
def test_a_statement_whose_result_a_migration_has_changed_is_prepared_again(sessions: Sessions, mine: Sessions) -> None:
    assert transact(mine, _number) == 1
    ledger.execute(sessions, "ALTER TABLE numbers ALTER COLUMN id TYPE bigint")
    assert transact(mine, _number, pauses=()) == 1
    assert len(transact(mine, _prepared)) == 1


@pytest.mark.usefixtures("numbers")
def test_behind_a_pooler_that_was_not_recognized_statements_are_not_prepared_any_more(mine: Sessions) -> None:
    """Another connection of the pooler does not know what was prepared."""
    assert transact(mine, _number) == 1
    transact(mine, lambda session: session.execute(text("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")))
    assert transact(mine, _number, pauses=()) == 1
    assert transact(mine, _prepared) == []
    with mine.begin() as limited:
        assert tuple(limited.execute(SHOW).one()) == ("3s", "15s", "30s")


# Retries


def test_a_deadlock_ends_with_both_transactions_done(sessions: Sessions) -> None:
    first, second = make_job(sessions), make_job(sessions)
    crossing = Barrier(2)
    attempts = []

    def swap(mine: int, yours: int) -> None:
        turns = iter([crossing.wait])

        def work(session: Session) -> None:
            attempts.append(mine)
            session.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
            rename(session, mine, "mine")
            for meet in turns:
                meet()
            rename(session, yours, "yours")

        transact(sessions, work)

    at_once(partial(swap, first, second), partial(swap, second, first))
    assert len(attempts) == 3
    assert {name_of(sessions, first), name_of(sessions, second)} == {"mine", "yours"}


def test_a_serialization_failure_is_retried(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    attempts = []

    def work(session: Session) -> None:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        attempts.append(session.get_one(CrawlJob, job_id).name)
        if len(attempts) == 1:
            transact(sessions, lambda other: rename(other, job_id, "theirs"))
        rename(session, job_id, "ours")

    transact(sessions, work, pauses=NO_PAUSES)
    assert attempts == ["job", "theirs"]
    assert name_of(sessions, job_id) == "ours"


def test_a_lock_timeout_is_retried(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    attempts = []

    with sessions() as holder:
        rename(holder, job_id, "theirs")

        def work(session: Session) -> None:
            attempts.append(1)
            if len(attempts) == 2:
                holder.commit()
            session.execute(text("SET LOCAL lock_timeout = '20ms'"))
            rename(session, job_id, "ours")

        with counting("database_errors", 1, cause="timeout"):
            transact(sessions, work, pauses=NO_PAUSES)
    assert len(attempts) == 2
    assert name_of(sessions, job_id) == "ours"


def test_a_lock_that_stays_taken_is_a_transient_error(sessions: Sessions) -> None:
    job_id = make_job(sessions)

    def work(session: Session) -> None:
        session.execute(text("SET LOCAL lock_timeout = '20ms'"))
        rename(session, job_id, "ours")

    with sessions() as holder:
        rename(holder, job_id, "theirs")
        with pytest.raises(TransientError, match="the database does not answer: canceling statement due to lock"):
            transact(sessions, work, pauses=NO_PAUSES)


def test_a_connection_that_the_server_ends_is_replaced(sessions: Sessions) -> None:
    attempts = []

    def work(session: Session) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return len(attempts)

    with counting("database_errors", 1, cause="connection"):
        assert transact(sessions, work, pauses=NO_PAUSES) == 2


def test_an_idle_connection_that_the_server_ended_is_replaced_before_it_is_used(
    engine: Engine, database_url: str
) -> None:
    mine = session.connect(database_url, pool_size=1)
    factory = session.sessions(mine)
    pid = transact(factory, lambda session: session.scalar(text("SELECT pg_backend_pid()")))
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 2000)", [pid])
    assert transact(factory, lambda session: session.scalar(text("SELECT pg_backend_pid()")), pauses=()) != pid
    mine.dispose()


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
def test_a_connection_that_breaks_in_a_transaction_is_replaced_at_once(
    wire: PostgresProxy, shaky: Sessions, *, done: bool
) -> None:
    """As one that a firewall has cut while it was idle: there is no ping that would notice it before."""
    pid = transact(shaky, lambda session: session.scalar(text("SELECT pg_backend_pid()")))
    wire.cut_at(1, done=done)
    assert transact(shaky, lambda session: session.scalar(text("SELECT pg_backend_pid()")), pauses=()) != pid


def test_connections_that_break_again_and_again_are_an_outage(wire: PostgresProxy, shaky: Sessions) -> None:
    attempts = []

    def work(session: Session) -> None:
        attempts.append(1)
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(OutageError):
        transact(shaky, work, pauses=())
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("statement", "error"),
    [("SELECT nothing FROM nowhere", ProgrammingError), ("INSERT INTO projects (name) VALUES ('x')", IntegrityError)],
)
def test_an_error_in_a_statement_is_raised_at_once(sessions: Sessions, statement: str, error: type[DBAPIError]) -> None:
    attempts = []

    def work(session: Session) -> None:
        attempts.append(1)
        session.execute(text(statement))

    with pytest.raises(error):
        transact(sessions, work)
    assert len(attempts) == 1


def test_an_exception_of_the_work_rolls_it_back_and_is_not_retried(sessions: Sessions) -> None:
    job_id = make_job(sessions)

    def work(session: Session) -> None:
        rename(session, job_id, "ours")
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        transact(sessions, work)
    assert name_of(sessions, job_id) == "job"


# A database that cannot be reached


@pytest.mark.parametrize("url", ["postgresql:///db?host={directory}", "postgresql://127.0.0.1:1/db"])
def test_a_database_that_cannot_be_reached_is_a_transient_error_of_one_line(tmp_path: Path, url: str) -> None:
    engine = session.connect(url.format(directory=tmp_path))
    with pytest.raises(TransientError, match=r"does not answer: .*connection to server .* failed") as caught:
        transact(session.sessions(engine), lambda session: session.scalar(text("SELECT 1")), pauses=NO_PAUSES)
    assert "\n" not in str(caught.value)
    engine.dispose()


def test_a_database_that_cannot_be_reached_is_retried_for_a_few_seconds() -> None:
    engine = session.connect("postgresql://127.0.0.1:1/db")
    started = time.monotonic()
    with pytest.raises(TransientError):
        transact(session.sessions(engine), lambda session: session.scalar(text("SELECT 1")), pauses=(0.1, 0.2))
    assert 0.3 <= time.monotonic() - started < 3
    engine.dispose()


def test_an_exhausted_pool_is_a_transient_error(database_url: str) -> None:
    engine = create_engine(session.sqlalchemy_url(database_url), pool_size=1, max_overflow=0, pool_timeout=0.05)
    factory = session.sessions(engine)
    with factory.begin() as holder:
        holder.connection()
        with pytest.raises(TransientError, match="no connection to the database was free"):
            transact(factory, lambda session: session.scalar(text("SELECT 1")), pauses=NO_PAUSES)
    engine.dispose()


def test_a_pool_that_was_exhausted_for_a_moment_is_tried_again(database_url: str) -> None:
    engine = create_engine(session.sqlalchemy_url(database_url), pool_size=1, max_overflow=0, pool_timeout=0.05)
    factory = session.sessions(engine)
    held = factory()
    held.connection()

    def pauses() -> Iterator[float]:
        yield 0
        held.close()
        yield 0

    assert transact(factory, lambda session: session.scalar(text("SELECT 1")), pauses=pauses()) == 1
    engine.dispose()


# What the server says about itself, and what it says about the statement


def answering(state: str, answers: int) -> Callable[[Session], int]:
    """Work that the server answers so many times with an error."""
    left = iter(range(answers))

    def work(session: Session) -> int:
        for _ in left:
            raised = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = 'no', DETAIL = 'row'; END $$"
            session.execute(text(raised))
        return 1

    return work


#: Codes of every class of PostgreSQL's appendix A that reports the state of the server, poolers among them.
PASSING = (
    *("08000", "08003", "08006", "08P01", "25006", "25P02", "25P03", "25P04", "28000", "28P01"),
    *("40000", "40001", "40002", "40003", "40P01", "53000", "53100", "53200", "53300", "53400"),
    *("55000", "55006", "55P02", "55P03", "57000", "57014", "57P01", "57P02", "57P03", "57P05"),
    *("58000", "58030", "58P01", "72000", "F0000", "XX000", "XX001", "XX002"),
)
#: Likewise for those that report a mistake in the statement, or in what it is about.
LASTING = (
    *("0A000", "21000", "22001", "22003", "2200H", "22021", "23502", "23503", "23505", "23514"),
    *("25001", "2BP01", "34000", "3F000", "42501", "42601", "42703", "42P01", "44000", "54000", "P0001"),
)


@pytest.mark.parametrize("state", PASSING)
def test_what_the_server_says_about_itself_is_tried_again_and_then_an_outage(sessions: Sessions, state: str) -> None:
    assert transact(sessions, answering(state, 3), pauses=NO_PAUSES) == 1
    with pytest.raises(OutageError, match=rf"^the database does not answer: no \(SQLSTATE {state}\)$"):
        transact(sessions, answering(state, 9), pauses=NO_PAUSES)


@pytest.mark.parametrize("state", LASTING)
def test_what_the_server_says_about_a_statement_is_raised_at_once(sessions: Sessions, state: str) -> None:
    with pytest.raises(DBAPIError) as caught:
        transact(sessions, answering(state, 1), pauses=NO_PAUSES)
    assert session.describe(caught.value) == f"no (SQLSTATE {state})"


def test_a_transaction_that_took_long_is_not_tried_again_by_default(sessions: Sessions) -> None:
    """Five more statements of 15 s each would keep whatever waits for them from everything else."""
    attempts = []

    def work(session: Session) -> None:
        attempts.append(1)
        time.sleep(5)
        answering("57014", 1)(session)

    with pytest.raises(OutageError):
        transact(sessions, work)
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("label"), "KeyError: 'label'"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError("long " * 1000), f"ValueError: {'long ' * 97}lo"[:500]),
        (psycopg.OperationalError("the connection is closed"), "the connection is closed"),
    ],
)
def test_an_error_is_described_in_one_line(error: Exception, line: str) -> None:
    assert session.describe(error).startswith(line)
    assert len(session.describe(error)) <= 500


# A COMMIT whose answer is lost


def _claiming(sessions: Sessions) -> tuple[int, Callable[[Session], object]]:
    ref = start_job(sessions)
    (chunk_id,) = ledger.ids_of(sessions, ref)
    return ref.id, lambda session: chunks.claim(session, CRAWL_JOBS, chunk_id, owner="me", lease=LEASE)


def _finishing(sessions: Sessions) -> tuple[int, Callable[[Session], object]]:
    ref = start_job(sessions)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    found = [make_image(f"{ref} {number}") for number in range(5)]
    return ref.id, lambda session: ledger.bring(session, claim, found)


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("prepare", [_claiming, _finishing], ids=["claiming", "finishing"])
def test_a_commit_without_an_answer_has_one_effect(
    sessions: Sessions,
    wire: PostgresProxy,
    shaky: Sessions,
    prepare: Callable[[Sessions], tuple[int, Callable[[Session], object]]],
    *,
    done: bool,
) -> None:
    job_id, work = prepare(sessions)
    wire.cut_commit(done=done)
    transact(shaky, work, pauses=NO_PAUSES)
    assert wire.cuts == 1
    ref = JobRef(CRAWL_JOBS, job_id)
    (chunk,) = ledger.chunks_of(sessions, ref)
    after = (chunk.state, chunk.attempt, ledger.crawl_job(sessions, ref).valid_images)
    assert after == ((ChunkState.RUNNING, 1, 0) if prepare is _claiming else (ChunkState.COMPLETED, 1, 5))
    ledger.check(sessions, ref)


def test_a_commit_during_which_the_server_ends_the_connection_has_one_effect(sessions: Sessions) -> None:
    """A deferred trigger runs inside COMMIT: it ends its own backend there, once."""
    job_id, work = _finishing(sessions)
    ledger.execute(sessions, "CREATE SEQUENCE tries")
    ledger.execute(
        sessions,
        """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL;
        END $$""",
    )
    ledger.execute(
        sessions,
        "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON images DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION die()",
    )
    try:
        transact(sessions, work, pauses=NO_PAUSES)
    finally:
        ledger.execute(sessions, "DROP TRIGGER dies ON images")
    with sessions.begin() as session:
        assert (session.scalar(text("SELECT last_value FROM tries")) or 0) > 5, "COMMIT was not interrupted"
        assert session.get_one(CrawlJob, job_id).valid_images == 5
        ledger.check_invariants(session, job_id)

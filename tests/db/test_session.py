"""Transactions over connections that break, wait, and collide; nothing of it is simulated."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Barrier

import ledger
import psycopg
import pytest
from factories import make_image, make_job, start_job
from fakes.cables import Cable, cable
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
from pixcrawler_worker.errors import PermanentError, TransientError

AT_ONCE = (0.0, 0.0, 0.0)


@pytest.fixture
def wire(database_url: str) -> Iterator[Cable]:
    with cable(database_url) as between:
        yield between


@pytest.fixture
def shaky(wire: Cable) -> Iterator[Sessions]:
    engine = session.connect(wire.url, pool_size=1)
    yield session.sessions(engine)
    engine.dispose()


def name_of(sessions: Sessions, job_id: int) -> str:
    with sessions.begin() as session:
        return session.get_one(CrawlJob, job_id).name


def rename(session: Session, job_id: int, name: str) -> None:
    session.execute(text("UPDATE crawl_jobs SET name = :name WHERE id = :id"), {"name": name, "id": job_id})


# Addresses and limits


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgres://me@host/db", "postgresql+psycopg://me@host/db"),
        ("postgresql://me@host:6543/db?sslmode=require", "postgresql+psycopg://me@host:6543/db?sslmode=require"),
        ("postgresql+psycopg:///db?host=/run", "postgresql+psycopg:///db?host=/run"),
    ],
)
def test_an_address_as_libpq_writes_it_is_read(given: str, read: str) -> None:
    assert session.address(given) == read


@pytest.mark.parametrize("given", ["", "host/db", "mysql://me:secret@host/db", "postgresql://me:secret@host:port/db"])
def test_another_address_is_refused_without_repeating_the_password(given: str) -> None:
    with pytest.raises(PermanentError, match="the database's address") as refusal:
        session.address(given)
    assert "secret" not in str(refusal.value)


def test_every_transaction_is_limited_in_time_and_leaves_no_setting_behind(engine: Engine, sessions: Sessions) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    with sessions.begin() as session:
        limits = [session.scalar(text(f"SHOW {name}")) for name in names]
    assert limits == ["3s", "15s", "30s"]
    with engine.raw_connection() as raw, raw.cursor() as cursor:  # type: ignore[attr-defined]  # the pool's proxy passes psycopg's context managers on
        assert [cursor.execute(f"SHOW {name}").fetchone() for name in names] == [("0",)] * 3


# Trying again


def test_a_deadlock_ends_with_both_transactions_done(sessions: Sessions) -> None:
    first, second = make_job(sessions), make_job(sessions)
    crossing = Barrier(2)
    tries = []

    def swap(mine: int, yours: int) -> None:
        turns = iter([crossing.wait])

        def work(session: Session) -> None:
            tries.append(mine)
            session.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
            rename(session, mine, "mine")
            for meet in turns:
                meet()
            rename(session, yours, "yours")

        transact(sessions, work)

    at_once(partial(swap, first, second), partial(swap, second, first))
    assert len(tries) == 3
    assert {name_of(sessions, first), name_of(sessions, second)} == {"mine", "yours"}


def test_a_serialization_failure_is_tried_again(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    tries = []

    def work(session: Session) -> None:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        tries.append(session.get_one(CrawlJob, job_id).name)
        if len(tries) == 1:
            transact(sessions, lambda other: rename(other, job_id, "theirs"))
        rename(session, job_id, "ours")

    transact(sessions, work, pauses=AT_ONCE)
    assert tries == ["job", "theirs"]
    assert name_of(sessions, job_id) == "ours"


def test_a_lock_that_is_not_given_is_asked_for_again(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    tries = []

    with sessions() as holder:
        rename(holder, job_id, "theirs")

        def work(session: Session) -> None:
            tries.append(1)
            if len(tries) == 2:
                holder.commit()
            session.execute(text("SET LOCAL lock_timeout = '20ms'"))
            rename(session, job_id, "ours")

        transact(sessions, work, pauses=AT_ONCE)
    assert len(tries) == 2
    assert name_of(sessions, job_id) == "ours"


def test_a_lock_that_is_never_given_is_passing_trouble(sessions: Sessions) -> None:
    job_id = make_job(sessions)

    def work(session: Session) -> None:
        session.execute(text("SET LOCAL lock_timeout = '20ms'"))
        rename(session, job_id, "ours")

    with sessions() as holder:
        rename(holder, job_id, "theirs")
        with pytest.raises(TransientError, match="the database does not answer: canceling statement due to lock"):
            transact(sessions, work, pauses=AT_ONCE)


def test_a_connection_that_the_server_ends_is_replaced(sessions: Sessions) -> None:
    tries = []

    def work(session: Session) -> int:
        tries.append(1)
        if len(tries) == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return len(tries)

    assert transact(sessions, work, pauses=AT_ONCE) == 2


def test_a_connection_that_ended_while_it_rested_is_replaced_unnoticed(engine: Engine, database_url: str) -> None:
    mine = session.connect(database_url, pool_size=1)
    opener = session.sessions(mine)
    pid = transact(opener, lambda session: session.scalar(text("SELECT pg_backend_pid()")))
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 2000)", [pid])
    assert transact(opener, lambda session: session.scalar(text("SELECT pg_backend_pid()")), pauses=()) != pid
    mine.dispose()


@pytest.mark.parametrize(
    ("statement", "error"),
    [("SELECT nothing FROM nowhere", ProgrammingError), ("INSERT INTO projects (name) VALUES ('x')", IntegrityError)],
)
def test_a_mistake_is_raised_at_once(sessions: Sessions, statement: str, error: type[DBAPIError]) -> None:
    tries = []

    def work(session: Session) -> None:
        tries.append(1)
        session.execute(text(statement))

    with pytest.raises(error):
        transact(sessions, work)
    assert len(tries) == 1


def test_what_the_work_itself_raises_rolls_it_back_and_is_not_tried_again(sessions: Sessions) -> None:
    job_id = make_job(sessions)

    def work(session: Session) -> None:
        rename(session, job_id, "ours")
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        transact(sessions, work)
    assert name_of(sessions, job_id) == "job"


# A database that is away


@pytest.mark.parametrize("address", ["postgresql:///db?host={directory}", "postgresql://127.0.0.1:1/db"])
def test_a_database_that_is_away_is_passing_trouble_told_in_one_line(tmp_path: Path, address: str) -> None:
    engine = session.connect(address.format(directory=tmp_path))
    with pytest.raises(TransientError, match=r"does not answer: .*connection to server .* failed") as trouble:
        transact(session.sessions(engine), lambda session: session.scalar(text("SELECT 1")), pauses=AT_ONCE)
    assert "\n" not in str(trouble.value)
    engine.dispose()


def test_a_database_that_is_away_is_asked_again_for_a_few_seconds() -> None:
    engine = session.connect("postgresql://127.0.0.1:1/db")
    began = time.monotonic()
    with pytest.raises(TransientError):
        transact(session.sessions(engine), lambda session: session.scalar(text("SELECT 1")), pauses=(0.1, 0.2))
    assert 0.3 <= time.monotonic() - began < 3
    engine.dispose()


def test_a_connection_that_is_not_free_is_passing_trouble(database_url: str) -> None:
    engine = create_engine(session.address(database_url), pool_size=1, max_overflow=0, pool_timeout=0.05)
    opener = session.sessions(engine)
    with opener.begin() as holder:
        holder.connection()
        with pytest.raises(TransientError, match="no connection to the database was free"):
            transact(opener, lambda session: session.scalar(text("SELECT 1")))
    engine.dispose()


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
    wire: Cable,
    shaky: Sessions,
    prepare: Callable[[Sessions], tuple[int, Callable[[Session], object]]],
    *,
    done: bool,
) -> None:
    job_id, work = prepare(sessions)
    wire.cut_commit(done=done)
    transact(shaky, work, pauses=AT_ONCE)
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
        transact(sessions, work, pauses=AT_ONCE)
    finally:
        ledger.execute(sessions, "DROP TRIGGER dies ON images")
    with sessions.begin() as session:
        assert (session.scalar(text("SELECT last_value FROM tries")) or 0) > 5, "COMMIT was not interrupted"
        assert session.get_one(CrawlJob, job_id).valid_images == 5
        ledger.check_invariants(session, job_id)

"""Writing rows in parts: what a part has written is undone when it raises, and nothing else is."""

import contextlib

import psycopg
import pytest
from ledger import at_once
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from pixcrawler_worker.db.each_row import write_each
from pixcrawler_worker.db.session import Session, Sessions, driver, transact
from pixcrawler_worker.errors import OutageError


def write(session: Session, number: int) -> None:
    session.execute(text("CREATE TEMPORARY TABLE IF NOT EXISTS written (number int UNIQUE) ON COMMIT DROP"))
    session.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})


def read(session: Session) -> list[int]:
    return list(session.scalars(text("SELECT number FROM written ORDER BY 1")))


@pytest.mark.parametrize("bad", [set(), {0}, {9}, {3, 4}, {0, 5, 9}, set(range(10))])
def test_rows_that_are_rejected_leave_nothing_and_cost_no_others(sessions: Sessions, bad: set[int]) -> None:
    with sessions.begin() as session:
        write(session, -1)

        def write_between(first: int, last: int) -> None:
            with session.begin_nested():
                for number in range(first, last):
                    write(session, number)
                    if number in bad:
                        write(session, -1)

        errors = write_each(10, write_between, is_about_a_row=lambda error: isinstance(error, IntegrityError))
        assert errors.keys() == bad
        assert read(session) == [-1, *sorted(set(range(10)) - bad)]


def test_a_block_that_raises_leaves_nothing_and_the_transaction_goes_on(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write(session, 1)
        with session.begin_nested():
            write(session, 2)
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            write(session, 3)
            raise ZeroDivisionError
        with contextlib.suppress(psycopg.errors.UniqueViolation), session.begin_nested():
            write(session, 4)
            driver(session).execute("INSERT INTO written VALUES (2)")
        write(session, 5)
        assert read(session) == [1, 2, 5]


def test_a_block_undoes_the_blocks_in_it(sessions: Sessions) -> None:
    with sessions.begin() as session:
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            write(session, 1)
            with session.begin_nested():
                write(session, 2)
            with contextlib.suppress(KeyError), session.begin_nested():
                raise KeyError
            raise ZeroDivisionError
        with session.begin_nested():
            write(session, 3)
        assert read(session) == [3]


def test_a_block_at_the_start_of_a_transaction_does_not_commit(sessions: Sessions) -> None:
    with sessions() as session:
        with session.begin_nested():
            session.execute(text("CREATE TABLE never (id int)"))
        session.rollback()
        assert session.scalar(text("SELECT to_regclass('never')")) is None


def test_the_error_of_a_connection_that_breaks_in_a_block_is_the_one_that_is_raised(sessions: Sessions) -> None:
    def work(session: Session) -> None:
        with session.begin_nested():
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(OutageError, match="terminating connection due to administrator command"):
        transact(sessions, work, pauses=())


def test_a_deadlock_in_a_block_is_tried_again(sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(text("CREATE TABLE two (id int PRIMARY KEY, n int); INSERT INTO two VALUES (1, 0), (2, 0)"))

    def add(first: int, second: int) -> None:
        def work(session: Session) -> None:
            with session.begin_nested():
                for id_ in (first, second):
                    session.execute(text("UPDATE two SET n = n + 1 WHERE id = :id"), {"id": id_})
                    session.execute(text("SELECT pg_sleep(0.2)"))

        transact(sessions, work)

    at_once(lambda: add(1, 2), lambda: add(2, 1))
    with sessions.begin() as session:
        assert list(session.scalars(text("SELECT n FROM two"))) == [2, 2]
        session.execute(text("DROP TABLE two"))

"""A job, or the user whom it belongs to, may be deleted in the middle of every transition: no deadlock."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import ledger
import psycopg
import pytest
from factories import TABLES, start_job
from sqlalchemy import event
from transitions import TRANSITIONS, Transition

from pixcrawler_worker.db import session
from pixcrawler_worker.db.ledger.tables import JobTable, NotRunningError
from pixcrawler_worker.db.session import Sessions

_ONE_WAITS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class Deletion:
    """A DELETE by another client, begun after the n-th statement of the sessions it came with."""

    def __init__(self, url: str, threads: ThreadPoolExecutor) -> None:
        self._url = url
        self._threads = threads
        self._countdown = 0
        self._statement = ""
        self.begun: Future[None] | None = None

    def begin_after(self, statements: int, statement: str) -> None:
        self._countdown, self._statement, self.begun = statements, statement, None

    def count(self) -> None:
        """Note that a statement was executed; when it is the one, begin, and wait until nothing moves any more."""
        self._countdown -= 1
        if self._countdown == 0:
            self.begun = self._threads.submit(self._delete)
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not self.begun.done() and not connection.execute(_ONE_WAITS).fetchone():
                    time.sleep(0.001)

    def _delete(self) -> None:
        with psycopg.connect(self._url) as connection:
            connection.execute(self._statement.encode())


@pytest.fixture
def deletion(database_url: str) -> Iterator[tuple[Deletion, Sessions]]:
    """A deletion, and the sessions whose statements it comes between."""
    with ThreadPoolExecutor(1) as threads:
        made = Deletion(database_url, threads)

        class CountingCursor(psycopg.Cursor[Any]):
            """Counts what is executed, by SQLAlchemy or without it."""

            def execute(self, *arguments: Any, **options: Any) -> Self:
                super().execute(*arguments, **options)
                made.count()
                return self

        engine = session.connect(database_url, pool_size=1)

        @event.listens_for(engine, "connect")
        def count(connection: psycopg.Connection[Any], _: object) -> None:
            connection.cursor_factory = CountingCursor

        yield made, session.sessions(engine)
        engine.dispose()


#: Transitions of one statement or two.
SHORT = {"claiming", "cancelling"}


@pytest.mark.parametrize("table", ["validation_jobs", "export_jobs", "crawl_jobs", "profiles"])
@pytest.mark.parametrize("kind", TABLES, ids=repr)
@pytest.mark.parametrize("prepare", TRANSITIONS, ids=lambda prepare: prepare.__name__)
def test_what_is_deleted_in_the_middle_of_a_transition_causes_no_deadlock(
    sessions: Sessions, deletion: tuple[Deletion, Sessions], prepare: Transition, kind: JobTable, table: str
) -> None:
    interruption, interrupted = deletion
    for position in range(1, 40):
        ledger.execute(sessions, "DELETE FROM profiles")
        ref = start_job(sessions, chunks=2, kind=kind)
        work = prepare(sessions, ref)
        interruption.begin_after(position, f"DELETE FROM {table}")
        with contextlib.suppress(NotRunningError), interrupted.begin() as mine:
            work(mine)
        if interruption.begun is None:
            least = 1 if prepare.__name__ in SHORT else 3
            assert position > least, "the transaction was over before anything was deleted"
            return
        interruption.begun.result()
    raise AssertionError("the transaction has no end")

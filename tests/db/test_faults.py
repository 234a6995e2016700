"""A connection may break at every statement of every transition, before or after the statement was done."""

from collections.abc import Iterator

import ledger
import pytest
from factories import start_job
from fakes.postgres_proxy import PostgresProxy, postgres_proxy
from sqlalchemy import text
from transitions import TRANSITIONS, Transition

from pixcrawler_worker.db import session
from pixcrawler_worker.db.session import Sessions, transact


@pytest.fixture(scope="module")
def wire(database_url: str) -> Iterator[PostgresProxy]:
    with postgres_proxy(database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def shaky(wire: PostgresProxy) -> Iterator[Sessions]:
    """Sessions whose connections break where the test says."""
    engine = session.connect(wire.url, pool_size=1)
    yield session.sessions(engine)
    engine.dispose()


@pytest.mark.parametrize("done", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize("prepare", TRANSITIONS, ids=lambda prepare: prepare.__name__)
def test_a_connection_that_breaks_at_any_statement_changes_nothing_about_the_outcome(
    sessions: Sessions, wire: PostgresProxy, shaky: Sessions, prepare: Transition, *, done: bool
) -> None:
    def outcome(cut: int | None) -> tuple[object, ...]:
        ledger.execute(sessions, "DELETE FROM crawl_jobs")
        ref = start_job(sessions, chunks=2)
        work = prepare(sessions, ref)
        wire.cancel_cut()
        if cut is not None:
            wire.cut_at(cut, done=done)
        transact(shaky, work, pauses=(0, 0, 0))
        ledger.check(sessions, ref)
        job = ledger.crawl_job(sessions, ref)
        seen = [(c.state, c.attempt, c.crash_count, c.generation) for c in ledger.chunks_of(sessions, ref)]
        return (job.status, job.progress, job.valid_images, len(job.task_ids), *seen)

    undisturbed = outcome(None)
    cuts = wire.cuts
    for request in range(1, 40):
        assert outcome(request) == undisturbed, f"cut at request {request}"
        if wire.cuts == cuts:
            # The shortest one is BEGIN, a claim and COMMIT.
            assert request > 3, "the transaction was over before it was cut"
            return
        cuts = wire.cuts
    raise AssertionError("the transaction has no end")


@pytest.mark.parametrize("done", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize("request_number", range(1, 9))
def test_the_first_connection_of_a_process_may_break_at_any_request(
    wire: PostgresProxy, request_number: int, *, done: bool
) -> None:
    first, cuts = session.connect(wire.url, pool_size=1), wire.cuts
    wire.cut_at(request_number, done=done)
    assert transact(session.sessions(first), lambda session: session.scalar(text("SELECT 1")), pauses=[0.0]) == 1
    assert wire.cuts == cuts + 1
    first.dispose()

"""A connection may break at every statement of every transition, before or after the statement was done."""

from collections.abc import Callable, Iterator

import ledger
import pytest
from factories import make_image, start_job
from fakes.cables import Cable, cable
from ledger import LEASE
from sqlalchemy.orm import Session

from pixcrawler_worker.db import chunks, jobs, session
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.lifecycle import JobRef, JobStatus


@pytest.fixture(scope="module")
def wire(database_url: str) -> Iterator[Cable]:
    with cable(database_url) as between:
        yield between


@pytest.fixture(scope="module")
def shaky(wire: Cable) -> Iterator[Sessions]:
    """Sessions whose connections break where the test says."""
    engine = session.connect(wire.url, pool_size=1)
    yield session.sessions(engine)
    engine.dispose()


Work = Callable[[Session], object]


def _claiming(sessions: Sessions, ref: JobRef) -> Work:
    (chunk_id, _) = ledger.ids_of(sessions, ref)

    def claim(session: Session) -> None:
        # Even when an earlier try of the same delivery was done and nobody heard of it.
        assert chunks.claim(session, chunk_id, owner="me", lease=LEASE) is not None

    return claim


def _finishing(sessions: Sessions, ref: JobRef) -> Work:
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    found = [make_image(f"{ref.id} {number}") for number in range(3)]
    return lambda session: ledger.bring(session, claim, found)


def _giving_back(sessions: Sessions, ref: JobRef) -> Work:
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    return lambda session: chunks.give_back(session, claim, error="busy")


def _giving_up(sessions: Sessions, ref: JobRef) -> Work:
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    return lambda session: chunks.give_up(session, claim, error="broken")


def _reaping(sessions: Sessions, ref: JobRef) -> Work:
    ledger.silence(sessions, ledger.claim(sessions, ledger.ids_of(sessions, ref)[0]).chunk_id)
    return chunks.reap


def _cancelling(sessions: Sessions, ref: JobRef) -> Work:
    ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    return lambda session: jobs.cancel(session, ref)


def _dropping(sessions: Sessions, ref: JobRef) -> Work:
    transact(sessions, _cancelling(sessions, ref))
    return lambda session: jobs.drop_chunks(session, ref)


def _retrying(sessions: Sessions, ref: JobRef) -> Work:
    transact(sessions, _dropping(sessions, ref))

    def retry(session: Session) -> None:
        if jobs.status(session, ref) is JobStatus.CANCELLED:
            jobs.retry(session, ref)

    return retry


def _planning(sessions: Sessions, ref: JobRef) -> Work:
    for chunk_id in ledger.ids_of(sessions, ref):
        ledger.finish(sessions, ledger.claim(sessions, chunk_id))

    def plan(session: Session) -> None:
        jobs.lock(session, ref)
        if not jobs.counters(session, ref).open:
            jobs.add_chunks(session, ref, [{}, {}])

    return plan


@pytest.mark.parametrize("done", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize(
    "prepare",
    [
        *(_claiming, _finishing, _giving_back, _giving_up, _reaping),
        *(_cancelling, _dropping, _retrying, _planning),
    ],
    ids=lambda prepare: prepare.__name__.strip("_"),
)
def test_a_connection_that_breaks_at_any_statement_changes_nothing_about_the_outcome(
    sessions: Sessions, wire: Cable, shaky: Sessions, prepare: Callable[[Sessions, JobRef], Work], *, done: bool
) -> None:
    def outcome(cut: int | None) -> tuple[object, ...]:
        ledger.execute(sessions, "DELETE FROM crawl_jobs")
        ref = start_job(sessions, chunks=2)
        work = prepare(sessions, ref)
        wire.mend()
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
            assert request > 4, "the transaction was over before it was cut"
            return
        cuts = wire.cuts
    raise AssertionError("the transaction has no end")

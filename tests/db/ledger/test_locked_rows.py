"""Steps of a sweep pass over rows that another transaction has locked, instead of waiting while they hold locks."""

from collections.abc import Callable
from datetime import timedelta

import ledger
import pytest
from factories import start_job
from sqlalchemy.orm import Session

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import dispatch, leases
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions

#: Does its step, and returns the ids of the chunks that it took.
Step = Callable[[Session, JobRef], list[int]]


def send(session: Session, ref: JobRef) -> list[int]:
    return [message.chunk_id for message in dispatch.next_due(session, ref, limit=2)]


def redispatch(session: Session, ref: JobRef) -> list[int]:
    messages = dispatch.resend_lost(session, ref.table, after=timedelta(seconds=60), limit=2)
    return [message.chunk_id for message in messages]


def reap(session: Session, ref: JobRef) -> list[int]:
    reaped = leases.reap(session, ref.table)
    return [] if reaped is None else [reaped.chunk_id]


@pytest.fixture
def ref(sessions: Sessions) -> JobRef:
    """A job with two chunks, the only one there is."""
    ledger.execute(sessions, "DELETE FROM crawl_jobs")
    return start_job(sessions, chunks=2)


def queued(sessions: Sessions, chunk_id: int) -> None:
    """Leave the chunk as it is planned."""


def lost(sessions: Sessions, chunk_id: int) -> None:
    """Let the chunk's message be lost."""
    statement = (
        "UPDATE pixcrawler.chunks SET dispatch_count = 1, dispatched_at = now() - interval '1 hour' WHERE id = :id"
    )
    ledger.execute(sessions, statement, id=chunk_id)


def expired(sessions: Sessions, chunk_id: int) -> None:
    """Let the chunk's lease expire."""
    ledger.claim(sessions, chunk_id)
    ledger.expire_lease(sessions, chunk_id)


@pytest.mark.parametrize(("prepare", "step"), [(queued, send), (lost, redispatch), (expired, reap)])
def test_a_locked_chunk_is_passed_over(
    sessions: Sessions, ref: JobRef, prepare: Callable[[Sessions, int], None], step: Step
) -> None:
    locked, free = ledger.ids_of(sessions, ref)
    for chunk_id in (locked, free):
        prepare(sessions, chunk_id)
    with sessions.begin() as other:
        other.connection().exec_driver_sql(f"SELECT FROM pixcrawler.chunks WHERE id = {locked} FOR NO KEY UPDATE")
        with sessions.begin() as session:
            assert step(session, ref) == [free]
        with sessions.begin() as session:
            assert step(session, ref) == []
    with sessions.begin() as session:
        assert step(session, ref) == [locked]


def test_chunks_of_a_locked_job_are_not_reaped_but_those_of_others_are(sessions: Sessions, ref: JobRef) -> None:
    free = start_job(sessions)
    for job in (ref, free):
        expired(sessions, ledger.ids_of(sessions, job)[0])
    with sessions.begin() as other:
        other.connection().exec_driver_sql(f"SELECT FROM crawl_jobs WHERE id = {ref.id} FOR NO KEY UPDATE")
        with sessions.begin() as session:
            reaped = leases.reap(session, CRAWL_JOBS)
            assert reaped is not None
            assert reaped.job == free
        with sessions.begin() as session:
            assert leases.reap(session, CRAWL_JOBS) is None

"""What the sweep looks for, and that it repairs what is wrong and nothing else."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import ledger
import pytest
from factories import make_image, make_job, start_job
from ledger import at_once

from pixcrawler_worker.db import crawls, images
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks, jobs, sweeps
from pixcrawler_worker.db.ledger.sweeps import Repair, Step
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.lifecycle import JobStatus

NOW = timedelta(0)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    """Sweeps look at all jobs: only those of the test are to be there."""
    ledger.execute(sessions, "DELETE FROM crawl_jobs")


def repair(sessions: Sessions, ref: JobRef) -> Repair | None:
    with sessions.begin() as session:
        jobs.lock(session, ref)
        return sweeps.repair(session, ref, crawls.recount(session, ref))


def drifted(sessions: Sessions) -> list[int]:
    return [ref.id for ref in transact(sessions, partial(sweeps.drifted, table=CRAWL_JOBS))]


def keep(sessions: Sessions, job_id: int) -> None:
    with sessions.begin() as session:
        crawls.record_request(session, job_id, options={}, pages=[])


def cancel_by_hand(sessions: Sessions, ref: JobRef) -> None:
    """Cancel a job as an API may: by its status and nothing else."""
    ledger.execute(sessions, "UPDATE crawl_jobs SET status = 'cancelled' WHERE id = :id", id=ref.id)


def end(sessions: Sessions, ref: JobRef, status: JobStatus) -> None:
    with sessions.begin() as session:
        jobs.end(session, ref, status)


def crawl_refs(*job_ids: int) -> list[JobRef]:
    return [JobRef(CRAWL_JOBS, job_id) for job_id in job_ids]


# One worker at a time


def test_one_worker_at_a_time_does_a_step(sessions: Sessions) -> None:
    with sessions.begin() as mine, sessions.begin() as yours:
        assert sweeps.try_lock(mine, Step.REDISPATCH)
        assert not sweeps.try_lock(yours, Step.REDISPATCH)
        assert sweeps.try_lock(yours, Step.DISPATCH)
    with sessions.begin() as yours:
        assert sweeps.try_lock(yours, Step.REDISPATCH)


# Jobs that stand still


def test_a_pending_job_that_was_asked_for_is_started_when_its_message_is_late(sessions: Sessions) -> None:
    asked, unasked = make_job(sessions), make_job(sessions)
    started = start_job(sessions).id
    keep(sessions, asked)
    keep(sessions, started)
    with sessions.begin() as session:

        def pending(patience: timedelta, unrecorded_after: timedelta | None) -> list[JobRef]:
            return sweeps.pending(session, CRAWL_JOBS, patience=patience, unrecorded_after=unrecorded_after)

        assert pending(HOUR, None) == []
        assert pending(NOW, None) == crawl_refs(asked)
        assert pending(NOW, NOW) == crawl_refs(asked, unasked)
        assert pending(HOUR, NOW) == crawl_refs(unasked)
        assert pending(HOUR, HOUR) == [], "the message, which alone has the options, gets its time"


def test_a_job_whose_chunks_have_all_ended_is_to_be_concluded(sessions: Sessions) -> None:
    ended, busy, done, empty = (start_job(sessions, chunks=number) for number in (2, 2, 1, 0))
    for ref in (ended, busy, done):
        for chunk_id in ledger.ids_of(sessions, ref)[: 1 if ref is busy else None]:
            ledger.finish(sessions, ledger.claim(sessions, chunk_id))
    end(sessions, done, JobStatus.COMPLETED)
    with sessions.begin() as session:
        assert sweeps.unconcluded(session, CRAWL_JOBS) == [ended, empty]
    ledger.claim(sessions, ledger.ids_of(sessions, busy)[1])
    with sessions.begin() as session:
        assert sweeps.unconcluded(session, CRAWL_JOBS) == [ended, empty]


def test_chunks_of_a_job_that_somebody_cancelled_by_hand_are_found(sessions: Sessions) -> None:
    by_hand, running, swept = (start_job(sessions, chunks=2) for _ in range(3))
    ledger.claim(sessions, ledger.ids_of(sessions, by_hand)[0])
    for ref in (by_hand, swept):
        cancel_by_hand(sessions, ref)
    with sessions.begin() as session:
        jobs.drop_chunks(session, swept)
    with sessions.begin() as session:
        assert sweeps.ended_with_open_chunks(session, CRAWL_JOBS) == [by_hand]
        assert jobs.drop_chunks(session, by_hand) == 2
    with sessions.begin() as session:
        assert sweeps.ended_with_open_chunks(session, CRAWL_JOBS) == []
    assert running.id not in drifted(sessions)
    ledger.check(sessions, by_hand, running, swept)


def test_a_job_that_somebody_cancelled_by_hand_gets_its_end_and_is_tidied(sessions: Sessions) -> None:
    ref = JobRef(CRAWL_JOBS, make_job(sessions))
    keep(sessions, ref.id)
    cancel_by_hand(sessions, ref)
    with sessions.begin() as session:
        assert sweeps.ended_with_open_chunks(session, CRAWL_JOBS) == [ref]
        assert jobs.drop_chunks(session, ref) == 0
    ended = ledger.crawl_job(sessions, ref).completed_at
    with sessions.begin() as session:
        assert sweeps.ended_with_open_chunks(session, CRAWL_JOBS) == []
        assert crawls.past_grace_period(session, grace_period=NOW) == [ref.id]
        jobs.drop_chunks(session, ref)
    assert ended is not None
    assert ledger.crawl_job(sessions, ref).completed_at == ended


# Storage


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_storage_is_tidied_once_after_a_job_has_ended_and_is_quiet(sessions: Sessions, status: JobStatus) -> None:
    ref, running = start_job(sessions), start_job(sessions)
    for job in (ref, running):
        keep(sessions, job.id)
    end(sessions, ref, status)
    with sessions.begin() as session:
        assert crawls.past_grace_period(session, grace_period=HOUR) == []
        assert crawls.past_grace_period(session, grace_period=NOW) == [ref.id]
        crawls.cleaned_up(session, ref.id)
        assert crawls.past_grace_period(session, grace_period=NOW) == []
        crawls.reopened(session, ref)
        assert crawls.past_grace_period(session, grace_period=NOW) == [ref.id]


# Counters


@pytest.mark.parametrize(
    "lie", [{"total_chunks": 7}, {"active_chunks": 0}, {"completed_chunks": 2}, {"failed_chunks": 1}]
)
def test_counters_that_drifted_are_found_and_repaired_with_a_word_about_it(
    sessions: Sessions, lie: dict[str, int]
) -> None:
    ref, right = (start_job(sessions, chunks=4) for _ in range(2))
    for job in (ref, right):
        done, running, *_ = ledger.ids_of(sessions, job)
        ledger.finish(sessions, ledger.claim(sessions, done), [make_image("a")])
        ledger.claim(sessions, running)
    (name,) = lie
    ledger.execute(sessions, f"UPDATE crawl_jobs SET {name} = {lie[name]} WHERE id = :id", id=ref.id)
    assert drifted(sessions) == [ref.id]
    truth = {"total_chunks": 4, "active_chunks": 1, "completed_chunks": 1, "failed_chunks": 0, "valid_images": 1}
    assert repair(sessions, ref) == Repair(truth | lie, truth)
    assert drifted(sessions) == []
    assert repair(sessions, ref) is None
    assert repair(sessions, right) is None
    ledger.check(sessions, ref, right)


def test_a_job_that_is_repaired_counts_its_images_too(sessions: Sessions) -> None:
    ref = start_job(sessions)
    with sessions.begin() as session:
        images.insert_new(session, ref.id, [make_image("a"), make_image("b")])
    repaired = repair(sessions, ref)
    assert repaired is not None
    assert (repaired.before["valid_images"], repaired.after["valid_images"]) == (0, 2)
    ledger.check(sessions, ref)


def test_a_job_that_is_gone_is_not_repaired(sessions: Sessions) -> None:
    assert repair(sessions, JobRef(CRAWL_JOBS, 0)) is None


@contextmanager
def background(work: threading.Thread) -> Iterator[None]:
    work.start()
    try:
        yield
    finally:
        work.join()


def test_nothing_is_repaired_while_chunks_are_claimed_finished_and_given_back(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=30)
    found: list[object] = []
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            found.extend(drifted(sessions))
            # Whether or not it seems to be needed: only the lock keeps the two sides of the comparison together.
            found.extend(filter(None, [repair(sessions, ref)]))

    def work(part: list[int]) -> None:
        for chunk_id in part:
            for _ in range(2):
                claim = ledger.claim(sessions, chunk_id)
                transact(sessions, partial(chunks.release, claim=claim, error="busy", jitter=0.5))
                ledger.make_due(sessions, ref)
            ledger.finish(sessions, ledger.claim(sessions, chunk_id), [make_image(str(chunk_id))])

    ids = ledger.ids_of(sessions, ref)
    with background(threading.Thread(target=sweep)):
        try:
            at_once(*(partial(work, ids[part::3]) for part in range(3)))
        finally:
            over.set()
    assert found == []
    assert ledger.crawl_job(sessions, ref).valid_images == 30
    ledger.check(sessions, ref)

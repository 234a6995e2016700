"""Retrying jobs that ended: what is kept, what runs again, and who is refused."""

import time
from concurrent.futures import ThreadPoolExecutor

import ledger
import pytest
from factories import make_image, make_job, start_job
from ledger import at_once

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger import chunks, jobs
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable, NotRunningError
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus

CANCELLED, COMPLETED, FAILED = ChunkState.CANCELLED, ChunkState.COMPLETED, ChunkState.FAILED
QUEUED, RUNNING = ChunkState.QUEUED, ChunkState.RUNNING


def retry(sessions: Sessions, ref: JobRef) -> None:
    with sessions.begin() as session:
        jobs.retry(session, ref)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_retry_runs_what_failed_or_was_cancelled_and_keeps_the_rest(sessions: Sessions, *, cancelled: bool) -> None:
    ref = start_job(sessions, chunks=3)
    before = ledger.chunks_of(sessions, ref)
    ledger.play(sessions, ref, [COMPLETED, FAILED, RUNNING if cancelled else FAILED])
    if cancelled:
        ledger.cancel(sessions, ref)
    else:
        ledger.conclude(sessions, ref)
    retry(sessions, ref)
    after = ledger.chunks_of(sessions, ref)
    assert [(chunk.state, chunk.generation) for chunk in after] == [(COMPLETED, 1), (QUEUED, 2), (QUEUED, 2)]
    assert after[0].task_id == before[0].task_id
    assert {chunk.task_id for chunk in after[1:]}.isdisjoint(chunk.task_id for chunk in before)
    for chunk in after[1:]:
        assert (chunk.attempt, chunk.crash_count, chunk.dispatch_count) == (0, 0, 0)
        assert (chunk.result, chunk.error, chunk.dispatched_at) == (None, None, None)
    job = ledger.crawl_job(sessions, ref)
    assert job.task_ids == [str(chunk.task_id) for chunk in after[1:]]
    assert (job.status, job.total_chunks, job.completed_chunks, job.failed_chunks) == (JobStatus.RUNNING, 3, 1, 0)
    assert (job.valid_images, job.completed_at) == (1, None)
    ledger.check(sessions, ref)


def test_progress_of_a_completed_job_goes_to_99_when_it_is_retried_and_of_no_other(sessions: Sessions) -> None:
    refs = [start_job(sessions, chunks=4) for _ in range(3)]
    ledger.play(sessions, refs[0], [COMPLETED, COMPLETED, COMPLETED, FAILED])
    ledger.play(sessions, refs[1], [FAILED] * 4)
    ledger.play(sessions, refs[2], [COMPLETED, FAILED, QUEUED, QUEUED])
    ledger.conclude(sessions, refs[0])
    ledger.conclude(sessions, refs[1])
    ledger.cancel(sessions, refs[2])
    for ref in refs:
        retry(sessions, ref)
    assert [ledger.crawl_job(sessions, ref).progress for ref in refs] == [99, 99, 49]
    ledger.check(sessions, *refs)


def test_every_retry_is_a_generation_of_its_own_and_rounds_join_the_latest(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    tasks = []
    for generation in (1, 2, 3):
        planned = ledger.chunks_of(sessions, ref)
        assert [chunk.generation for chunk in planned] == [generation] * 2
        tasks += [chunk.task_id for chunk in planned]
        ledger.play(sessions, ref, [FAILED, FAILED])
        ledger.conclude(sessions, ref)
        retry(sessions, ref)
    assert len(set(tasks)) == 6
    with sessions.begin() as session:
        jobs.lock(session, ref)
        jobs.add_chunks(session, ref, [{}])
    assert [chunk.generation for chunk in ledger.chunks_of(sessions, ref)] == [4] * 3
    assert len(ledger.crawl_job(sessions, ref).task_ids) == 3
    ledger.check(sessions, ref)


@pytest.mark.parametrize("states", [[COMPLETED, COMPLETED], [COMPLETED, QUEUED], [QUEUED, RUNNING]])
def test_there_is_nothing_to_retry_while_a_job_runs_or_when_all_is_done(
    sessions: Sessions, states: list[ChunkState]
) -> None:
    ref = start_job(sessions, chunks=2)
    ledger.play(sessions, ref, states)
    if states == [COMPLETED, COMPLETED]:
        ledger.conclude(sessions, ref)
    before = ledger.crawl_job(sessions, ref)
    with pytest.raises(NotRunningError):
        retry(sessions, ref)
    after = ledger.crawl_job(sessions, ref)
    assert (after.status, after.progress, after.task_ids) == (before.status, before.progress, before.task_ids)
    assert ledger.states_of(sessions, ref) == states


def test_a_failed_chunk_is_not_retried_while_its_job_goes_on(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    ledger.play(sessions, ref, [FAILED, RUNNING])
    with pytest.raises(NotRunningError):
        retry(sessions, ref)
    assert ledger.states_of(sessions, ref) == [FAILED, RUNNING]
    ledger.check(sessions, ref)


def test_a_cancelled_job_is_not_retried_before_its_chunks_are_swept(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3)
    ledger.play(sessions, ref, [FAILED, RUNNING, QUEUED])
    with sessions.begin() as session:
        jobs.cancel(session, ref)
    with pytest.raises(NotRunningError):
        retry(sessions, ref)
    with sessions.begin() as session:
        assert jobs.drop_chunks(session, ref) == 2
    retry(sessions, ref)
    assert ledger.states_of(sessions, ref) == [QUEUED] * 3
    ledger.check(sessions, ref)


def test_many_retries_at_once_are_one(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=4)
    ledger.play(sessions, ref, [FAILED] * 4)
    ledger.conclude(sessions, ref)

    def again() -> bool:
        try:
            transact(sessions, lambda session: jobs.retry(session, ref))
        except NotRunningError:
            return False
        return True

    assert at_once(*[again] * 8).count(True) == 1
    assert {chunk.generation for chunk in ledger.chunks_of(sessions, ref)} == {2}
    ledger.check(sessions, ref)


def test_a_retry_that_comes_late_does_not_repeat_what_another_one_has_completed(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    ledger.play(sessions, ref, [COMPLETED, FAILED])
    ledger.conclude(sessions, ref)
    failed = ledger.ids_of(sessions, ref)[1]
    with ThreadPoolExecutor(1) as threads:
        with sessions.begin() as first:
            jobs.retry(first, ref)
            ledger.finish_with(first, ledger.claim_of(first, CRAWL_JOBS, failed), {}, {})
            jobs.end(first, ref, JobStatus.COMPLETED)
            late = threads.submit(retry, sessions, ref)
            while not ledger.is_any_waiting_for_lock(sessions):
                assert not late.done()
                time.sleep(0.005)
        with pytest.raises(NotRunningError):
            late.result(timeout=10)
    assert ledger.states_of(sessions, ref) == [COMPLETED, COMPLETED]
    assert ledger.crawl_job(sessions, ref).status == JobStatus.COMPLETED
    ledger.check(sessions, ref)


@pytest.mark.parametrize("kind", [VALIDATION_JOBS, EXPORT_JOBS])
def test_other_kinds_of_jobs_are_retried_too(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, kind=kind)
    with sessions.begin() as session:
        chunks.fail(session, ledger.claim(sessions, ledger.ids_of(sessions, ref)[0]), error="broken")
        jobs.end(session, ref, JobStatus.FAILED)
    retry(sessions, ref)
    assert ledger.states_of(sessions, ref) == [QUEUED]
    assert ledger.other_job(sessions, ref).status == JobStatus.RUNNING


def test_a_zombie_from_before_a_retry_is_refused(sessions: Sessions) -> None:
    ref = start_job(sessions)
    zombie = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    ledger.cancel(sessions, ref)
    retry(sessions, ref)
    assert not ledger.finish(sessions, zombie, [make_image("a")])
    ledger.claim(sessions, zombie.chunk_id, owner="live")
    assert not ledger.finish(sessions, zombie, [make_image("a")])
    ledger.check(sessions, ref)


@pytest.mark.parametrize("ended", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_ended_unplanned_is_pending_again(sessions: Sessions, ended: JobStatus) -> None:
    ref = JobRef(CRAWL_JOBS, make_job(sessions))
    with sessions.begin() as session:
        jobs.end(session, ref, ended)
        assert jobs.reopen(session, ref)
        assert not jobs.reopen(session, ref)
    job = ledger.crawl_job(sessions, ref)
    assert (job.status, job.completed_at) == (JobStatus.PENDING, None)

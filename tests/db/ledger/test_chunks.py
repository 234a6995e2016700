"""Transitions of chunks, with real commits and real races."""

from collections.abc import Callable
from datetime import timedelta

import ledger
import pytest
from factories import TABLES, make_image, start_job
from ledger import LEASE, at_once
from sqlalchemy import func, select, text

from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger import chunk_results, chunks, jobs
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.leases import Reaped
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable, NotRunningError
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import ChunkOutcome, ChunkState, JobStatus, job_status
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS, MAX_ATTEMPTS_WITH_DEFERRALS

GAINS = {CRAWL_JOBS: "downloaded_images", VALIDATION_JOBS: "validated_images", EXPORT_JOBS: "exported_images"}
every_kind = pytest.mark.parametrize("kind", TABLES, ids=repr)


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    """Reaping looks at the chunks of all jobs: only those of the test are to be there."""
    ledger.execute(sessions, "DELETE FROM crawl_jobs")


def reap(sessions: Sessions) -> Reaped | None:
    return transact(sessions, ledger.reap)


def rest(sessions: Sessions, chunk_id: int) -> timedelta:
    """How long a chunk still rests."""
    with sessions.begin() as session:
        chunk, now = session.execute(select(Chunk, func.clock_timestamp()).where(Chunk.id == chunk_id)).one()
        left: timedelta = chunk.available_at - now
    return left


# Claiming


def test_a_claim_takes_the_chunk_and_counts_it(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    first, second = ledger.ids_of(sessions, ref)
    claim = ledger.claim(sessions, first)
    assert (claim.chunk_id, claim.job, claim.attempt, claim.max_attempts) == (first, ref, 1, MAX_ATTEMPTS)
    assert claim.payload == {"number": 0}
    assert ledger.states_of(sessions, ref) == [ChunkState.RUNNING, ChunkState.QUEUED]
    assert ledger.crawl_job(sessions, ref).active_chunks == 1
    assert ledger.claim(sessions, second).fence > claim.fence
    ledger.check(sessions, ref)


def test_only_one_of_many_workers_claims_a_chunk(sessions: Sessions) -> None:
    ref = start_job(sessions)
    (chunk_id,) = ledger.ids_of(sessions, ref)

    def claimer(number: int) -> Callable[[], Claim | None]:
        return lambda: transact(
            sessions, lambda session: chunks.claim(session, CRAWL_JOBS, chunk_id, owner=str(number), lease=LEASE)
        )

    claims = at_once(*map(claimer, range(16)))
    assert sum(claim is not None for claim in claims) == 1
    assert ledger.chunks_of(sessions, ref)[0].attempt == 1
    ledger.check(sessions, ref)


def test_many_workers_claim_and_finish_many_chunks_of_one_job(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=16)

    def worker(chunk_id: int) -> Callable[[], ChunkOutcome]:
        def run() -> ChunkOutcome:
            claim = transact(
                sessions, lambda s: chunks.claim(s, CRAWL_JOBS, chunk_id, owner=str(chunk_id), lease=LEASE)
            )
            assert claim is not None
            return transact(sessions, lambda s: chunks.finish(s, claim, result={}, gains={"downloaded_images": 3}))

        return run

    ended = at_once(*map(worker, ledger.ids_of(sessions, ref)))
    assert ended.count(ChunkOutcome.JOB_FINISHED) == 1
    job = ledger.crawl_job(sessions, ref)
    assert (job.active_chunks, job.completed_chunks, job.downloaded_images, job.progress) == (0, 16, 48, 99)
    ledger.check(sessions, ref)


def test_a_claim_whose_answer_was_lost_is_found_again(sessions: Sessions) -> None:
    ref = start_job(sessions)
    (chunk_id,) = ledger.ids_of(sessions, ref)
    assert ledger.claim(sessions, chunk_id, owner="me") == ledger.claim(sessions, chunk_id, owner="me")
    with sessions.begin() as session:
        assert chunks.claim(session, CRAWL_JOBS, chunk_id, owner="you", lease=LEASE) is None
    ledger.check(sessions, ref)


def test_messages_about_chunks_that_are_not_to_be_run_change_nothing(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    ended, resting = ledger.ids_of(sessions, ref)
    ledger.finish(sessions, ledger.claim(sessions, ended))
    with sessions.begin() as session:
        chunks.release(session, ledger.claim(sessions, resting), error="busy", jitter=0.5)
    for chunk_id in (ended, resting, 0):
        with sessions.begin() as session:
            assert chunks.claim(session, CRAWL_JOBS, chunk_id, owner="worker", lease=LEASE) is None
    assert ledger.states_of(sessions, ref) == [ChunkState.COMPLETED, ChunkState.QUEUED]
    ledger.check(sessions, ref)


@every_kind
def test_a_chunk_of_a_job_that_does_not_run_is_not_claimed(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, kind=kind)
    (chunk_id,) = ledger.ids_of(sessions, ref)
    with sessions.begin() as session:
        assert jobs.cancel(session, ref)
    with pytest.raises(NotRunningError), sessions.begin() as session:
        chunks.claim(session, kind, chunk_id, owner="worker", lease=LEASE)
    assert ledger.states_of(sessions, ref) == [ChunkState.QUEUED]


@every_kind
def test_a_message_about_a_chunk_of_another_kind_changes_nothing(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, kind=kind)
    (chunk_id,) = ledger.ids_of(sessions, ref)
    for other in TABLES:
        if other is not kind:
            with sessions.begin() as session:
                assert chunks.claim(session, other, chunk_id, owner="worker", lease=LEASE) is None
    assert ledger.states_of(sessions, ref) == [ChunkState.QUEUED]


# Heartbeats


def test_a_heartbeat_extends_the_lease(sessions: Sessions) -> None:
    ref = start_job(sessions)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    ledger.expire_lease(sessions, claim.chunk_id)
    with sessions.begin() as session:
        assert chunks.heartbeat(session, claim, lease=LEASE)
    assert reap(sessions) is None


def test_a_heartbeat_shows_that_the_chunk_was_claimed_again(sessions: Sessions) -> None:
    ref = start_job(sessions)
    zombie = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0], owner="zombie")
    ledger.expire_lease(sessions, zombie.chunk_id)
    reap(sessions)
    with sessions.begin() as session:
        assert not chunks.heartbeat(session, zombie, lease=LEASE)
    live = ledger.claim(sessions, zombie.chunk_id, owner="live")
    ledger.expire_lease(sessions, live.chunk_id)
    with sessions.begin() as session:
        assert not chunks.heartbeat(session, zombie, lease=LEASE)
    assert reap(sessions) is not None, "the zombie kept the live claim alive"


@every_kind
def test_a_heartbeat_shows_that_the_job_was_cancelled_or_deleted(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, kind=kind)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    with sessions.begin() as session:
        jobs.cancel(session, ref)
    with sessions.begin() as session:
        assert not chunks.heartbeat(session, claim, lease=LEASE)
    ledger.execute(sessions, f"DELETE FROM {kind.name}_jobs WHERE id = :id", id=ref.id)
    with sessions.begin() as session:
        assert not chunks.heartbeat(session, claim, lease=LEASE)


# Progress


def live_images(sessions: Sessions, ref: JobRef) -> int:
    with sessions.begin() as session:
        view = job_views.job(session, CrawlView, ref.id)
    assert view is not None
    return view.live_images


def show_progress(sessions: Sessions, claim: Claim, images: int) -> None:
    with sessions.begin() as session:
        chunks.show_progress(session, claim, images=images)


def test_only_the_claim_that_runs_a_chunk_shows_its_progress(sessions: Sessions) -> None:
    ref = start_job(sessions)
    zombie = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0], owner="zombie")
    show_progress(sessions, zombie, 3)
    assert live_images(sessions, ref) == 3
    ledger.expire_lease(sessions, zombie.chunk_id)
    reap(sessions)
    show_progress(sessions, zombie, 4)
    ledger.claim(sessions, zombie.chunk_id, owner="live")
    assert live_images(sessions, ref) == 0
    show_progress(sessions, zombie, 5)
    assert live_images(sessions, ref) == 0


def test_progress_does_not_wait_for_a_lock(sessions: Sessions) -> None:
    ref = start_job(sessions)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    with sessions.begin() as finishing:
        chunks.lock_claim(finishing, claim)
        show_progress(sessions, claim, 3)
    assert live_images(sessions, ref) == 0


# Finishing


def test_a_chunk_is_finished_once(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    assert ledger.finish(sessions, claim, [make_image("a")])
    with sessions.begin() as session:
        assert chunks.lock_claim(session, claim) is ClaimState.FINISHED
    assert not ledger.finish(sessions, claim, [make_image("b")])
    job = ledger.crawl_job(sessions, ref)
    assert (job.valid_images, job.completed_chunks, job.progress) == (1, 1, 49)
    ledger.check(sessions, ref)


def test_the_last_chunk_knows_that_it_is_the_last(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    first, second = (ledger.claim(sessions, chunk_id) for chunk_id in ledger.ids_of(sessions, ref))
    with sessions.begin() as session:
        assert chunks.finish(session, first, result={}, gains={}) is ChunkOutcome.CONTINUES
    with sessions.begin() as session:
        assert chunks.fail(session, second, error="no such page") is ChunkOutcome.JOB_FINISHED
    ledger.check(sessions, ref)


def test_a_zombie_can_neither_finish_nor_fail_the_chunk_of_the_living(sessions: Sessions) -> None:
    ref = start_job(sessions)
    zombie = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0], owner="zombie")
    ledger.expire_lease(sessions, zombie.chunk_id)
    reap(sessions)
    for state in (ChunkState.QUEUED, ChunkState.RUNNING, ChunkState.COMPLETED):
        if state is ChunkState.RUNNING:
            live = ledger.claim(sessions, zombie.chunk_id, owner="live")
        elif state is ChunkState.COMPLETED:
            assert ledger.finish(sessions, live, [make_image("a")])
        assert not ledger.finish(sessions, zombie, [make_image("b")])
        with sessions.begin() as session:
            assert chunks.lock_claim(session, zombie) is ClaimState.LOST
            assert chunks.release(session, zombie, error="busy", jitter=0.5) is ChunkOutcome.LOST
            assert chunks.fail(session, zombie, error="broken") is ChunkOutcome.LOST
        assert ledger.states_of(sessions, ref) == [state]
        ledger.check(sessions, ref)
    assert ledger.chunks_of(sessions, ref)[0].error is None


def test_a_result_for_a_deleted_job_is_dropped(sessions: Sessions) -> None:
    ref = start_job(sessions)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    ledger.execute(sessions, "DELETE FROM crawl_jobs WHERE id = :id", id=ref.id)
    with sessions.begin() as session:
        assert chunks.lock_claim(session, claim) is ClaimState.LOST
        assert chunks.release(session, claim, error="busy", jitter=0.5) is ChunkOutcome.LOST
    with sessions.begin() as session:
        assert chunks.claim(session, CRAWL_JOBS, claim.chunk_id, owner="worker", lease=LEASE) is None
    assert reap(sessions) is None


# Giving back


def test_a_released_chunk_waits_longer_every_time_and_fails_at_last(sessions: Sessions) -> None:
    ref = start_job(sessions)
    (chunk_id,) = ledger.ids_of(sessions, ref)
    for seconds in (5, 20, 80, 320):
        claim = ledger.claim(sessions, chunk_id)
        with sessions.begin() as session:
            assert chunks.release(session, claim, error="busy", jitter=0.5) is ChunkOutcome.CONTINUES
        assert seconds - 1 < rest(sessions, chunk_id).total_seconds() <= seconds * 1.25
        ledger.check(sessions, ref)
        ledger.make_due(sessions, ref)
    claim = ledger.claim(sessions, chunk_id)
    assert claim.attempt == MAX_ATTEMPTS
    with sessions.begin() as session:
        assert chunks.release(session, claim, error="busy", jitter=0.5) is ChunkOutcome.JOB_FINISHED
    (chunk,) = ledger.chunks_of(sessions, ref)
    assert (chunk.state, chunk.error) == (ChunkState.FAILED, "busy")
    ledger.check(sessions, ref)


@pytest.mark.parametrize(("seconds", "least"), [(900, 900), (30, 30), (1, 1), (0, 1)])
def test_a_released_chunk_waits_for_its_retry_after(sessions: Sessions, seconds: float, least: float) -> None:
    ref = start_job(sessions)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    with sessions.begin() as session:
        chunks.release(session, claim, error="busy", jitter=0.5, retry_after=timedelta(seconds=seconds))
    assert least - 0.5 < rest(sessions, claim.chunk_id).total_seconds() <= least * 2


def test_a_deferral_costs_no_attempt_and_there_is_a_last_one(sessions: Sessions) -> None:
    ref = start_job(sessions)
    (chunk_id,) = ledger.ids_of(sessions, ref)
    for attempt in range(1, MAX_ATTEMPTS_WITH_DEFERRALS + 1):
        claim = ledger.claim(sessions, chunk_id)
        assert claim.attempt == attempt
        with sessions.begin() as session:
            ended = chunks.release(session, claim, error="busy", jitter=0.5, retry_after=timedelta(seconds=1))
        assert (ended is ChunkOutcome.JOB_FINISHED) == (attempt == MAX_ATTEMPTS_WITH_DEFERRALS)
        ledger.make_due(sessions, ref)
    assert ledger.states_of(sessions, ref) == [ChunkState.FAILED]
    ledger.check(sessions, ref)
    ledger.conclude(sessions, ref)
    with sessions.begin() as session:
        jobs.retry(session, ref)
    assert ledger.chunks_of(sessions, ref)[0].max_attempts == MAX_ATTEMPTS


def test_a_chunk_that_would_have_to_wait_too_long_fails(sessions: Sessions) -> None:
    ref = start_job(sessions)
    claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
    with sessions.begin() as session:
        chunks.release(session, claim, error="busy for 1000 s", jitter=0.5, retry_after=timedelta(seconds=1000))
    (chunk,) = ledger.chunks_of(sessions, ref)
    error = "busy for 1000 s: more than the 900 s that a chunk waits; retry the job then"
    assert (chunk.state, chunk.error) == (ChunkState.FAILED, error)


def test_an_error_is_kept_up_to_a_readable_length(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    first, second = (ledger.claim(sessions, chunk_id) for chunk_id in ledger.ids_of(sessions, ref))
    with sessions.begin() as session:
        chunks.fail(session, first, error="x" * 100_000)
        chunks.fail(session, second, error="a\0b\ud800c")
    assert [len(chunk.error or "") for chunk in ledger.chunks_of(sessions, ref)] == [2000, 4]


# Every kind of job


@every_kind
def test_transitions_are_the_same_for_every_kind_of_job(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, chunks=4, kind=kind)
    completed, given_back, given_up, reaped = ledger.ids_of(sessions, ref)
    with sessions.begin() as session:
        claim = ledger.claim(sessions, completed)
        assert chunks.finish(session, claim, result={"n": 1}, gains={GAINS[kind]: 3}) is ChunkOutcome.CONTINUES
    with sessions.begin() as session:
        chunks.release(session, ledger.claim(sessions, given_back), error="busy", jitter=0.5)
    with sessions.begin() as session:
        chunks.fail(session, ledger.claim(sessions, given_up), error="broken")
    ledger.claim(sessions, reaped)
    ledger.expire_lease(sessions, reaped)
    assert reap(sessions) == Reaped(reaped, ref, ChunkState.QUEUED)
    assert _progress(sessions, ref) == 49
    claim = ledger.claim(sessions, reaped)
    with sessions.begin() as session:
        assert chunks.finish(session, claim, result={"n": 2}, gains={GAINS[kind]: 4}) is ChunkOutcome.CONTINUES
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET available_at = clock_timestamp()")
    claim = ledger.claim(sessions, given_back)
    with sessions.begin() as session:
        assert chunks.finish(session, claim, result={"n": 3}, gains={GAINS[kind]: 5}) is ChunkOutcome.JOB_FINISHED
    assert _progress(sessions, ref) == 99
    with sessions.begin() as session:
        counters = jobs.counters(session, ref)
        assert (counters.total, counters.completed, counters.failed, counters.open) == (4, 3, 1, 0)
        assert job_status(counters) is JobStatus.COMPLETED
        gained = session.scalar(text(f"SELECT {GAINS[kind]} FROM {kind.name}_jobs WHERE id = {ref.id}"))
        assert gained == 12
        assert chunk_results.results(session, ref) == [{"n": 1}, {"n": 3}, {"n": 2}]
        assert chunk_results.errors(session, ref) == {"broken": 1}
        jobs.end(session, ref, JobStatus.COMPLETED)
    assert _progress(sessions, ref) == 100


def _progress(sessions: Sessions, ref: JobRef) -> int:
    with sessions.begin() as session:
        progress: int | None = session.scalar(text(f"SELECT progress FROM {ref.table.name}_jobs WHERE id = {ref.id}"))
    assert progress is not None
    return progress

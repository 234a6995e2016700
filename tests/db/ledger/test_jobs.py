"""Planning, counting, cancelling, ending and deleting jobs, with real commits and real races."""

import contextlib
import time
import uuid
from functools import partial

import ledger
import pytest
from factories import TABLES, make_image, make_job, start_job
from ledger import at_once
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger import chunks, jobs
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable, LimitExceededError, NotRunningError
from pixcrawler_worker.db.models import CrawlJob, Image
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import ChunkState, Counters, Delta, JobStatus

every_kind = pytest.mark.parametrize("kind", TABLES, ids=repr)
CANCELLED, COMPLETED, FAILED = ChunkState.CANCELLED, ChunkState.COMPLETED, ChunkState.FAILED
QUEUED, RUNNING = ChunkState.QUEUED, ChunkState.RUNNING


def status(sessions: Sessions, ref: JobRef) -> JobStatus | None:
    with sessions.begin() as session:
        return jobs.status(session, ref)


# Planning


@every_kind
def test_a_job_that_is_begun_runs_once(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, chunks=3, kind=kind)
    assert status(sessions, ref) is JobStatus.RUNNING
    with sessions.begin() as session:
        assert jobs.counters(session, ref) == Counters(total=3)
    ledger.cancel(sessions, ref)
    with sessions.begin() as session:
        jobs.begin(session, ref)
    # The documented statuses of validations and exports do not have `cancelled`.
    assert status(sessions, ref) is (JobStatus.CANCELLED if kind is CRAWL_JOBS else JobStatus.FAILED)
    if kind is not CRAWL_JOBS:
        assert ledger.other_job(sessions, ref).error_message == "cancelled"


def test_rounds_are_queued_behind_each_other(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    with sessions.begin() as session:
        jobs.lock(session, ref)
        jobs.add_chunks(session, ref, [])
        jobs.add_chunks(session, ref, [{"number": 2}])
    planned = ledger.chunks_of(sessions, ref)
    assert [(chunk.seq, chunk.payload["number"], chunk.generation) for chunk in planned] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 2, 1),
    ]
    job = ledger.crawl_job(sessions, ref)
    assert job.total_chunks == 3
    assert job.task_ids == [str(chunk.task_id) for chunk in planned]
    ledger.check(sessions, ref)


def test_task_ids_are_derived_from_chunk_and_generation_alone(sessions: Sessions) -> None:
    ref = start_job(sessions)
    (chunk,) = ledger.chunks_of(sessions, ref)
    namespace = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
    assert chunk.task_id == uuid.uuid5(namespace, f"pixcrawler chunk {chunk.id} generation 1")


def test_jobs_do_not_mix_up_their_chunks(sessions: Sessions) -> None:
    # The same number may name a job of every kind.
    refs = [start_job(sessions, chunks=2, kind=kind) for kind in TABLES]
    for ref in refs:
        ledger.cancel(sessions, ref)
        with sessions.begin() as session:
            assert jobs.counters(session, ref) == Counters(total=2, cancelled=2)


# Counting


@pytest.mark.parametrize("kind", [VALIDATION_JOBS, EXPORT_JOBS])
def test_progress_of_every_kind_of_job_never_falls(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, chunks=2, kind=kind)
    first, second = ledger.ids_of(sessions, ref)
    with sessions.begin() as session:
        chunks.finish(session, ledger.claim(sessions, first), result={}, gains={})
    assert ledger.other_job(sessions, ref).progress == 49
    with sessions.begin() as session:
        jobs.lock(session, ref)
        jobs.add_chunks(session, ref, [{}] * 8)
    ledger.claim(sessions, second)
    assert ledger.other_job(sessions, ref).progress == 49


def test_nothing_is_counted_for_a_job_that_is_gone(sessions: Sessions) -> None:
    for kind in TABLES:
        with pytest.raises(NotRunningError), sessions.begin() as session:
            jobs.count(session, JobRef(kind, 0), Delta())


def test_a_counter_never_goes_below_zero(sessions: Sessions) -> None:
    ref = start_job(sessions)
    with pytest.raises(IntegrityError, match="active_chunks_not_negative"), sessions.begin() as session:
        jobs.count(session, ref, Delta(active=-1))


def test_a_job_cannot_have_more_images_than_it_may(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2, max_images=3)
    first, second = (ledger.claim(sessions, chunk_id) for chunk_id in ledger.ids_of(sessions, ref))
    assert ledger.finish(sessions, first, [make_image("a"), make_image("b")])
    with pytest.raises(LimitExceededError):
        ledger.finish(sessions, second, [make_image("c"), make_image("d")])
    assert ledger.states_of(sessions, ref) == [COMPLETED, RUNNING]
    ledger.check(sessions, ref)
    assert ledger.finish(sessions, second, [make_image("c")])
    ledger.check(sessions, ref)


def test_a_limit_that_is_lowered_holds_for_what_is_under_way(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2, max_images=100)
    first, second = (ledger.claim(sessions, chunk_id) for chunk_id in ledger.ids_of(sessions, ref))
    ledger.execute(sessions, "UPDATE crawl_jobs SET max_images = 1 WHERE id = :id", id=ref.id)
    with pytest.raises(LimitExceededError):
        ledger.finish(sessions, first, [make_image("a"), make_image("b")])
    assert ledger.finish(sessions, first, [make_image("a")])
    assert ledger.finish(sessions, second, [])
    ledger.check(sessions, ref)


def test_two_chunks_at_once_cannot_pass_the_limit_together(sessions: Sessions) -> None:
    for number in range(8):
        ref = start_job(sessions, chunks=2, max_images=3)
        brought = [
            (ledger.claim(sessions, chunk_id), [make_image(f"{number} {chunk_id} {n}") for n in range(2)])
            for chunk_id in ledger.ids_of(sessions, ref)
        ]

        def bring(at: int, brought: list[tuple[Claim, list[NewImage]]] = brought) -> bool:
            try:
                return ledger.finish(sessions, *brought[at])
            except LimitExceededError:
                return False

        assert sorted(at_once(partial(bring, 0), partial(bring, 1))) == [False, True]
        ledger.check(sessions, ref)


# Ending


@pytest.mark.parametrize(
    ("states", "ends", "progress"),
    [
        ([COMPLETED, COMPLETED], JobStatus.COMPLETED, 100),
        ([COMPLETED, FAILED], JobStatus.COMPLETED, 100),
        ([FAILED, FAILED], JobStatus.FAILED, 99),
        ([], JobStatus.COMPLETED, 100),
    ],
)
def test_a_job_ends_as_its_chunks_did(
    sessions: Sessions, states: list[ChunkState], ends: JobStatus, progress: int
) -> None:
    ref = start_job(sessions, chunks=len(states))
    ledger.play(sessions, ref, states)
    assert ledger.conclude(sessions, ref) is ends
    job = ledger.crawl_job(sessions, ref)
    assert (job.status, job.progress) == (ends, progress)
    assert job.completed_at is not None
    ledger.check(sessions, ref)


def test_the_error_of_an_export_is_kept(sessions: Sessions) -> None:
    ref = start_job(sessions, kind=EXPORT_JOBS)
    with sessions.begin() as session:
        jobs.end(session, ref, JobStatus.FAILED, error="no space left")
    assert ledger.other_job(sessions, ref).error_message == "no space left"


# Cancelling


@every_kind
def test_cancelling_stops_what_is_open_and_keeps_what_is_done(sessions: Sessions, kind: JobTable) -> None:
    ref = start_job(sessions, chunks=4, kind=kind)
    done, failed, running, _ = ledger.ids_of(sessions, ref)
    with sessions.begin() as session:
        chunks.finish(session, ledger.claim(sessions, done), result={"stored": 0}, gains={})
    with sessions.begin() as session:
        chunks.fail(session, ledger.claim(sessions, failed), error="broken")
    claim = ledger.claim(sessions, running)
    assert ledger.cancel(sessions, ref) == 2
    assert ledger.states_of(sessions, ref) == [COMPLETED, FAILED, CANCELLED, CANCELLED]
    with sessions.begin() as session:
        assert chunks.lock_claim(session, claim) is ClaimState.LOST
        assert not jobs.cancel(session, ref)
        assert jobs.drop_chunks(session, ref) == 0
    if kind is CRAWL_JOBS:
        ledger.check(sessions, ref)


@pytest.mark.parametrize("ended", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_what_has_ended_is_not_cancelled(sessions: Sessions, ended: JobStatus) -> None:
    ref = JobRef(CRAWL_JOBS, make_job(sessions, status=ended))
    with sessions.begin() as session:
        assert not jobs.cancel(session, ref)
    assert status(sessions, ref) is ended


def test_a_pending_job_is_cancelled_before_it_is_planned(sessions: Sessions) -> None:
    ref = JobRef(CRAWL_JOBS, make_job(sessions))
    assert ledger.cancel(sessions, ref) == 0
    assert status(sessions, ref) is JobStatus.CANCELLED


def test_chunks_of_a_job_that_runs_are_not_dropped(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    with pytest.raises(NotRunningError), sessions.begin() as session:
        jobs.drop_chunks(session, ref)
    assert ledger.states_of(sessions, ref) == [QUEUED, QUEUED]


def test_late_results_of_a_cancelled_job_are_refused_before_its_chunks_are_swept(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3)
    claims = [ledger.claim(sessions, chunk_id) for chunk_id in ledger.ids_of(sessions, ref)]
    # As an API does that knows nothing of chunks.
    ledger.execute(
        sessions, "UPDATE crawl_jobs SET status = 'cancelled', completed_at = now() WHERE id = :id", id=ref.id
    )
    with pytest.raises(NotRunningError):
        ledger.finish(sessions, claims[0], [make_image("a")])
    with pytest.raises(NotRunningError), sessions.begin() as session:
        chunks.release(session, claims[1], error="busy", jitter=0.5)
    with pytest.raises(NotRunningError), sessions.begin() as session:
        chunks.fail(session, claims[2], error="broken")
    job = ledger.crawl_job(sessions, ref)
    assert (job.active_chunks, job.valid_images) == (3, 0)
    ledger.check(sessions, ref)


def test_no_image_comes_after_a_cancel_and_both_agree_on_who_was_first(sessions: Sessions) -> None:
    won: set[int] = set()
    for number in range(75):
        if number >= 25 and won == {0, 1}:
            break
        # The cancel comes later and later, so that each of the two is the first sometimes; on a busy machine, one of
        # them has to come much later.
        later = (number - 5) * 0.005 if number < 25 else (number - 20) * 0.02 * (-1) ** number
        ref = start_job(sessions, chunks=2)
        claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
        image = make_image(f"cancel {number}")

        def stop(later: float = later, ref: JobRef = ref) -> int:
            time.sleep(max(0.0, later))
            with sessions.begin() as session:
                assert jobs.cancel(session, ref)
            with sessions.begin() as session:
                seen = session.scalar(select(func.count()).where(Image.crawl_job_id == ref.id))
            transact(sessions, partial(jobs.drop_chunks, ref=ref))
            assert seen is not None
            return seen

        def bring(later: float = later, claim: Claim = claim, image: NewImage = image) -> int:
            time.sleep(max(0.0, -later))
            try:
                return ledger.finish(sessions, claim, [image])
            except NotRunningError:
                return 0

        seen, brought = at_once(stop, bring)
        assert seen == brought
        won.add(brought)
        job = ledger.crawl_job(sessions, ref)
        assert (job.status, job.valid_images, job.completed_chunks) == (JobStatus.CANCELLED, brought, brought)
        assert ledger.states_of(sessions, ref) == [COMPLETED if brought else CANCELLED, CANCELLED]
        ledger.check(sessions, ref)
    assert won == {0, 1}, "the race always went the same way, so it was none"


def test_cancelling_fifty_running_chunks_against_their_finish(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=50, max_images=500)
    claims = [ledger.claim(sessions, chunk_id) for chunk_id in ledger.ids_of(sessions, ref)]

    def finish(held: list[Claim]) -> int:
        finished = 0
        for claim in held:
            image = make_image(f"of {claim.chunk_id}")
            with contextlib.suppress(NotRunningError):
                finished += transact(sessions, partial(ledger.bring, held=claim, found=[image]))
        return finished

    def stop() -> int:
        with sessions.begin() as session:
            jobs.cancel(session, ref)
        return -transact(sessions, partial(jobs.drop_chunks, ref=ref))

    finished = at_once(*(partial(finish, claims[part::7]) for part in range(7)), stop)
    assert sum(map(abs, finished)) == 50
    job = ledger.crawl_job(sessions, ref)
    assert (job.status, job.active_chunks) == (JobStatus.CANCELLED, 0)
    assert job.completed_chunks == job.valid_images == sum(finished[:-1])
    ledger.check(sessions, ref)


# Deleting


def test_a_job_may_be_deleted_while_its_chunks_finish(sessions: Sessions) -> None:
    for number in range(3):
        ref = start_job(sessions)
        claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
        image = make_image(f"delete {number}")

        def bring(claim: Claim = claim, image: NewImage = image) -> None:
            with contextlib.suppress(NotRunningError):
                transact(sessions, partial(ledger.bring, held=claim, found=[image]))

        def delete(ref: JobRef = ref) -> None:
            transact(sessions, lambda session: session.delete(session.get_one(CrawlJob, ref.id)))

        at_once(bring, delete)
        assert status(sessions, ref) is None
        assert ledger.chunks_of(sessions, ref) == []

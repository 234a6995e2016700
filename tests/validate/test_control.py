"""Cancelling and retrying validations: by message, by the row, twice, at once, and against the end."""

import contextlib
from collections.abc import Callable
from functools import partial

import ledger
import pytest
from doubles import query
from ledger import at_once
from validate import corpus, validation_jobs
from validate.corpus import Planted
from validate.validation_jobs import counted, make_validation, results, valid_images

from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.kind import VALIDATION

IMAGES = [
    *(Planted(f"good-{at}.jpg", corpus.saved(view)) for at, view in enumerate(corpus.views()[:4])),
    # Duplicates of the first two, which the comparison finds.
    *(Planted(f"same-{at}.jpg", corpus.saved(view), recorded=False) for at, view in enumerate(corpus.views()[:2])),
]


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


def crawl_of(runtime: Runtime) -> int:
    job = validation_jobs.ended_crawl(runtime)
    corpus.store(runtime, job, IMAGES)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET valid_images = :n", n=len(IMAGES))
    return job


def started(runtime: Runtime, job: int, *, parts: int = 1) -> tuple[JobRef, list[ChunkMessage]]:
    """A running validation of the images in so many chunks."""
    ref = make_validation(runtime, job, {"mode": "strict"})
    messages = submission.start(runtime, VALIDATION, ref.id)
    if parts == 2:
        ids = [row[0] for row in query(runtime, "SELECT id FROM images ORDER BY id")]
        ledger.execute(
            runtime.sessions,
            "UPDATE pixcrawler.chunks SET payload = payload"
            " || jsonb_build_object('last', CAST(:last AS int), 'images', 4) WHERE validation_job_id = :id",
            last=ids[3],
            id=ref.id,
        )
        ledger.execute(
            runtime.sessions,
            "INSERT INTO pixcrawler.chunks (validation_job_id, seq, payload, max_attempts, task_id)"
            " SELECT validation_job_id, 1, payload || jsonb_build_object('first', CAST(:first AS int),"
            " 'last', CAST(:last AS int), 'images', 2), max_attempts, gen_random_uuid()"
            " FROM pixcrawler.chunks WHERE validation_job_id = :id",
            first=ids[4],
            last=ids[5],
            id=ref.id,
        )
        messages += sweeper.sweep(runtime, JOB_KINDS.values()).messages
    return ref, messages


def actions(runtime: Runtime, ref: JobRef) -> list[str]:
    with runtime.sessions.begin() as session:
        return [entry.action.removeprefix("validation_job.") for entry in activity_log.latest(session, ref)][::-1]


def by_message(runtime: Runtime, ref: JobRef) -> None:
    submission.cancel(runtime, VALIDATION, ref.id)


def by_status(runtime: Runtime, ref: JobRef) -> None:
    ledger.execute(runtime.sessions, "UPDATE validation_jobs SET status = 'failed' WHERE id = :id", id=ref.id)
    sweeper.sweep(runtime, JOB_KINDS.values())


def by_row(runtime: Runtime, ref: JobRef) -> None:
    ledger.execute(
        runtime.sessions,
        "UPDATE validation_jobs SET status = 'failed', error_message = 'cancelled', completed_at = now()"
        " WHERE id = :id",
        id=ref.id,
    )
    sweeper.sweep(runtime, JOB_KINDS.values())


@pytest.mark.parametrize("cancel", [by_message, by_status, by_row])
def test_a_cancelled_validation_counts_nothing_and_a_retry_completes_it(
    runtime: Runtime, cancel: Callable[[Runtime, JobRef], None]
) -> None:
    job = crawl_of(runtime)
    expected = counted(runtime, validation_jobs.validate(runtime, job, {"mode": "strict"}))
    ref, messages = started(runtime, job, parts=2)
    executor.run(runtime, VALIDATION, messages[0].chunk_id)
    for _ in range(2):
        cancel(runtime, ref)
    row = validation_jobs.row(runtime, ref)
    assert (row.status, row.error_message, row.completed_at is not None) == ("failed", "cancelled", True)
    assert ledger.states_of(runtime.sessions, ref) == ["completed", "cancelled"]
    validation_jobs.drive(runtime, messages)
    assert len(results(runtime, ref)) == 4, "late messages write nothing"
    assert valid_images(runtime, job) == 4, "those of the validation before"
    found = at_once(*[partial(submission.retry, runtime, VALIDATION, ref.id)] * 4)
    assert sorted(map(len, found)) == [0, 0, 0, 1]
    validation_jobs.drive(runtime, next(filter(None, found)))
    assert counted(runtime, ref) == expected
    assert validation_jobs.row(runtime, ref).error_message is None
    assert submission.retry(runtime, VALIDATION, ref.id) == [], "there is nothing to retry"
    assert counted(runtime, ref)[0] == "completed"


def test_a_pending_validation_is_cancelled_and_a_retry_plans_it(runtime: Runtime) -> None:
    job = crawl_of(runtime)
    ref = make_validation(runtime, job)
    at_once(*[partial(submission.cancel, runtime, VALIDATION, ref.id)] * 4)
    assert submission.start(runtime, VALIDATION, ref.id) == []
    assert counted(runtime, ref)[0] == "failed"
    assert actions(runtime, ref) == ["cancelled"]
    validation_jobs.drive(runtime, submission.retry(runtime, VALIDATION, ref.id))
    assert counted(runtime, ref)[0] == "completed"


def test_a_completed_validation_stays_completed(runtime: Runtime) -> None:
    ref = validation_jobs.validate(runtime, crawl_of(runtime))
    assert not submission.cancel(runtime, VALIDATION, ref.id)
    assert counted(runtime, ref)[0] == "completed"
    assert validation_jobs.row(runtime, ref).error_message is None


def test_a_retry_of_failed_chunks_compares_all_images_again(runtime: Runtime) -> None:
    job = crawl_of(runtime)
    whole = validation_jobs.validate(runtime, job, {"mode": "strict"})
    assert valid_images(runtime, job) == 4
    ref, (first, second) = started(runtime, job, parts=2)
    held = ledger.claim(runtime.sessions, first.chunk_id)
    with runtime.sessions.begin() as session:
        chunks.fail(session, held, error="the disk is on fire")
    validation_jobs.drive(runtime, [second])
    assert counted(runtime, ref) == ("completed", 100, 2, 2, 0), "without their originals they are no duplicates"
    assert valid_images(runtime, job) == 6
    messages = submission.retry(runtime, VALIDATION, ref.id)
    assert valid_images(runtime, job) == 4, "a validation that runs again does not count, the one before does"
    validation_jobs.drive(runtime, messages)
    assert counted(runtime, ref) == counted(runtime, whole)
    assert [row[1:3] for row in results(runtime, ref)] == [row[1:3] for row in results(runtime, whole)]
    assert valid_images(runtime, job) == 4


def test_a_second_comparison_replaces_the_first(runtime: Runtime) -> None:
    """Also when the first one had found duplicates, and some images are validated only after it."""
    job = crawl_of(runtime)
    whole = validation_jobs.validate(runtime, job, {"mode": "strict"})
    ref, messages = started(runtime, job)
    validation_jobs.drive(runtime, messages)
    assert counted(runtime, ref) == counted(runtime, whole)
    # As if a chunk with a single image had failed.
    (image,) = query(runtime, "SELECT min(id) FROM images WHERE filename LIKE 'good-2%'")[0]
    ledger.execute(
        runtime.sessions,
        "DELETE FROM pixcrawler.verdicts WHERE validation_job_id = :id AND image_id = :image",
        id=ref.id,
        image=image,
    )
    ledger.execute(
        runtime.sessions,
        "INSERT INTO pixcrawler.chunks (validation_job_id, seq, payload, max_attempts, task_id, state, error)"
        " SELECT validation_job_id, 7, payload || jsonb_build_object('first', CAST(:image AS int),"
        " 'last', CAST(:image AS int), 'images', 1), 5, gen_random_uuid(), 'failed', 'broken'"
        " FROM pixcrawler.chunks WHERE validation_job_id = :id AND seq = 0",
        id=ref.id,
        image=image,
    )
    messages = submission.retry(runtime, VALIDATION, ref.id)
    assert counted(runtime, ref)[3:] == (5, 0), "what the comparison had found is undone"
    validation_jobs.drive(runtime, messages)
    assert counted(runtime, ref) == counted(runtime, whole)
    assert [row[1:3] for row in results(runtime, ref)] == [row[1:3] for row in results(runtime, whole)]


def test_a_cancel_against_the_last_finish_has_one_end(runtime: Runtime) -> None:
    job = crawl_of(runtime)
    for _ in range(4):
        ref, messages = started(runtime, job)
        (compare,) = executor.run(runtime, VALIDATION, messages[0].chunk_id)
        at_once(
            partial(validation_jobs.drive, runtime, [compare]),
            *[partial(by_message, runtime, ref)] * 2,
        )
        row = validation_jobs.row(runtime, ref)
        assert (row.status, row.error_message) in {("completed", None), ("failed", "cancelled")}
        assert actions(runtime, ref) == ["started", "completed" if row.status == "completed" else "cancelled"]
        assert {"queued", "running"}.isdisjoint(ledger.states_of(runtime.sessions, ref))


def test_a_retry_against_a_cancel_and_a_delete_leaves_no_half_job(runtime: Runtime) -> None:
    job = crawl_of(runtime)
    for delete in (False, True):
        ref, _ = started(runtime, job)
        submission.cancel(runtime, VALIDATION, ref.id)
        remove = partial(ledger.execute, runtime.sessions, "DELETE FROM validation_jobs WHERE id = :id", id=ref.id)

        def retry(ref: JobRef = ref) -> None:
            with contextlib.suppress(UnknownJobError):
                submission.retry(runtime, VALIDATION, ref.id)

        def cancel(ref: JobRef = ref) -> None:
            with contextlib.suppress(UnknownJobError):
                submission.cancel(runtime, VALIDATION, ref.id)

        at_once(retry, retry, cancel, cancel, *([remove] if delete else []))
        sweeper.sweep(runtime, JOB_KINDS.values())
        states = ledger.states_of(runtime.sessions, ref)
        if delete:
            assert states == []
            continue
        assert (counted(runtime, ref)[0], states) in [("running", ["queued"]), ("failed", ["cancelled"])]


def test_a_pending_validation_that_is_ended_in_its_row_gets_its_time_and_its_error(runtime: Runtime) -> None:
    ref = make_validation(runtime, crawl_of(runtime))
    by_status(runtime, ref)
    row = validation_jobs.row(runtime, ref)
    assert (row.status, row.error_message, row.completed_at is not None) == ("failed", "cancelled", True)
    assert sweeper.sweep(runtime, JOB_KINDS.values()).idle

"""Start, conclude, cancel and retry of a kind that the package does not know."""

from functools import partial
from typing import Any

import ledger
import pytest
from ledger import at_once
from toy.kind import TOY_JOBS, make_toy, open_chunks, toy, toy_kind

from pixcrawler_worker.db import activity_log, job_views
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.runtime import Runtime

UNKNOWN = 2**30


def drive(runtime: Runtime, messages: list[ChunkMessage], kind: AnyJobKind | None = None) -> None:
    waiting = list(messages)
    while waiting:
        waiting += executor.run(runtime, kind or toy_kind(), waiting.pop(0).chunk_id)


def actions(sessions: Sessions, ref: JobRef) -> list[str]:
    with sessions.begin() as session:
        return [entry.action for entry in reversed(activity_log.latest(session, ref))]


def test_a_job_of_a_new_kind_runs_to_its_end(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=4)
    messages = submission.start(runtime, toy_kind(), ref.id)
    assert {(message.task, message.queue) for message in messages} == {("pixcrawler.toy.chunk", "toy")}
    assert str(ref) == f"toy job {ref.id}"
    drive(runtime, messages)
    job = toy(sessions, ref)
    assert (job.status, job.progress, job.sum, job.error_message) == ("completed", 100, 10, None)
    assert actions(sessions, ref) == ["toy_job.started", "toy_job.completed"]


def test_starting_at_once_from_many_workers_plans_once(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=5)
    found = at_once(*[partial(submission.start, runtime, toy_kind(), ref.id)] * 8)
    assert sorted(map(len, found)) == [0] * 7 + [5]
    assert submission.start(runtime, toy_kind(), ref.id) == []


def test_an_invalid_row_fails_its_job_with_the_reason(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=-1)
    assert submission.start(runtime, toy_kind(), ref.id) == []
    job = toy(sessions, ref)
    assert (job.status, job.error_message) == ("failed", "numbers must be 0 at least, not -1")


def test_rounds_follow_each_other_and_are_planned_once(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=2, rounds=3)
    messages = submission.start(runtime, toy_kind(), ref.id)
    for message in messages:
        with sessions.begin() as session:
            claim = ledger.claim_of(session, TOY_JOBS, message.chunk_id)
            ledger.finish_with(session, claim, {"number": 1, "added": 1}, {"sum": 1})
    found = at_once(*[partial(submission.conclude, runtime, toy_kind(), ref.id)] * 6)
    assert sorted(map(len, found)) == [0] * 5 + [2]
    drive(runtime, next(filter(None, found)))
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 2 + 3 + 3)


def test_a_job_that_was_set_running_by_hand_ends_and_says_what_to_do(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, status="running")
    assert submission.conclude(runtime, toy_kind(), ref.id) == []
    assert "send pixcrawler.toy.start" in (toy(sessions, ref).error_message or "")


def test_cancelling_ends_the_job_and_its_chunks_and_is_harmless_twice(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=3)
    messages = submission.start(runtime, toy_kind(), ref.id)
    at_once(*[partial(submission.cancel, runtime, toy_kind(), ref.id)] * 4)
    job = toy(sessions, ref)
    assert (job.status, job.error_message) == ("failed", "cancelled")
    assert open_chunks(sessions, ref) == 0
    drive(runtime, messages)
    assert toy(sessions, ref).sum == 0
    assert actions(sessions, ref) == ["toy_job.started", "toy_job.cancelled"]


def test_a_conclusion_that_comes_after_the_end_changes_nothing(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=2)
    submission.start(runtime, toy_kind(), ref.id)
    submission.cancel(runtime, toy_kind(), ref.id)
    before = toy(sessions, ref)
    assert submission.conclude(runtime, toy_kind(), ref.id) == []
    after = toy(sessions, ref)
    assert (after.status, after.error_message, after.completed_at) == ("failed", "cancelled", before.completed_at)


def test_retrying_runs_what_was_cancelled_again(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=3)
    first, *_ = submission.start(runtime, toy_kind(), ref.id)
    executor.run(runtime, toy_kind(), first.chunk_id)
    submission.cancel(runtime, toy_kind(), ref.id)
    found = at_once(*[partial(submission.retry, runtime, toy_kind(), ref.id)] * 4)
    assert sorted(map(len, found)) == [0, 0, 0, 2]
    drive(runtime, next(filter(None, found)))
    job = toy(sessions, ref)
    assert (job.status, job.sum, job.error_message) == ("completed", 6, None)


def test_retrying_a_job_that_was_never_planned_plans_it(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=-1)
    submission.start(runtime, toy_kind(), ref.id)
    ledger.execute(sessions, "UPDATE toy_jobs SET numbers = 2 WHERE id = :id", id=ref.id)
    drive(runtime, submission.retry(runtime, toy_kind(), ref.id))
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 3)


def test_a_failed_chunk_fails_its_job_and_can_be_retried(runtime: Runtime, sessions: Sessions) -> None:
    async def odd_only(number: int) -> int:
        if number % 2 == 0:
            raise PermanentError("even numbers are not taken")
        return number

    ref = make_toy(sessions, numbers=3)
    drive(runtime, submission.start(runtime, toy_kind(), ref.id), toy_kind(odd_only))
    assert (toy(sessions, ref).status, toy(sessions, ref).error_message) == ("failed", "even numbers are not taken")
    drive(runtime, submission.retry(runtime, toy_kind(), ref.id))
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 6)


@pytest.mark.parametrize("transition", [submission.start, submission.cancel, submission.retry])
def test_an_unknown_job_is_named(runtime: Runtime, transition: Any) -> None:
    with pytest.raises(UnknownJobError, match=f"there is no toy job {UNKNOWN}"):
        transition(runtime, toy_kind(), UNKNOWN)
    assert submission.conclude(runtime, toy_kind(), UNKNOWN) == []


def test_a_job_that_is_deleted_takes_its_chunks_with_it(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions)
    messages = submission.start(runtime, toy_kind(), ref.id)
    ledger.execute(sessions, "DELETE FROM toy_jobs")
    drive(runtime, messages)
    assert ledger.states_of(sessions, ref) == []
    assert ChunkState.QUEUED not in ledger.states_of(sessions, ref)


def test_a_job_of_a_new_kind_is_shown_as_the_others_are(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=2)
    drive(runtime, submission.start(runtime, toy_kind(), ref.id))
    display = toy_kind().display
    with sessions.begin() as session:
        job = job_views.job(session, display.view, ref.id)
        assert job is not None
        assert (job.title, job.argument, job.total_chunks, job.completed_chunks) == (
            f"toy {ref.id}",
            f"toy:{ref.id}",
            2,
            2,
        )
        assert display.outcome(session, job) == ["sum: 3"]

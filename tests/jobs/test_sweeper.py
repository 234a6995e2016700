"""One sweep for all kinds, one that the package does not know among them."""

import os
from dataclasses import replace
from functools import partial

import ledger
import pytest
from ledger import at_once
from toy.kind import TOY_JOBS, make_toy, open_chunks, toy, toy_kind

from pixcrawler_worker import settings
from pixcrawler_worker.db.ledger import chunks, sweeps
from pixcrawler_worker.db.ledger.sweeps import Step
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.jobs import ended_processes, executor, submission, sweeper
from pixcrawler_worker.jobs.sweeper import Swept
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime, owner


def sweep(runtime: Runtime) -> Swept:
    return sweeper.sweep(runtime, [*JOB_KINDS.values(), toy_kind()])


def drive(runtime: Runtime, swept: Swept) -> None:
    for message in swept.messages:
        executor.run(runtime, toy_kind(), message.chunk_id)


def test_a_job_whose_start_message_was_lost_is_started(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=2, requested_at="2020-01-01")
    swept = sweep(runtime)
    assert (swept.started, len(swept.messages)) == (1, 2)
    drive(runtime, swept)
    assert toy(sessions, ref).status == "completed"
    assert sweep(runtime).idle


def test_a_chunk_whose_worker_died_is_reaped_and_one_that_kills_workers_fails(
    runtime: Runtime, sessions: Sessions
) -> None:
    ref = make_toy(sessions, numbers=1)
    (message,) = submission.start(runtime, toy_kind(), ref.id)
    for state in (ChunkState.QUEUED, ChunkState.FAILED):
        with sessions.begin() as session:
            ledger.claim_of(session, TOY_JOBS, message.chunk_id)
        ledger.expire_lease(sessions, message.chunk_id)
        assert sweep(runtime).reaped == 1
        assert ledger.states_of(sessions, ref) == [state]
    assert toy(sessions, ref).status == "failed"


def test_the_chunks_of_a_worker_that_was_stopped_are_released_as_if_never_claimed(
    runtime: Runtime, sessions: Sessions
) -> None:
    ref = make_toy(sessions, numbers=2)
    first, second = submission.start(runtime, toy_kind(), ref.id)
    kinds = [*JOB_KINDS.values(), toy_kind()]
    for _ in range(3):  # more often than a chunk may crash
        with sessions.begin() as session:
            for message in (first, second):
                chunks.claim(session, TOY_JOBS, message.chunk_id, owner=owner(message.chunk_id), lease=ledger.LEASE)
        assert ended_processes.release_stopped(runtime, kinds, ended=lambda pid: pid != os.getpid()) == 0
        assert ended_processes.release_stopped(runtime, kinds, ended=lambda pid: pid == os.getpid()) == 2
        found = ledger.chunks_of(sessions, ref)
        assert [(one.state, one.attempt, one.crash_count) for one in found] == [(ChunkState.QUEUED, 0, 0)] * 2
    # Their messages are sent again at once.
    swept = sweep(runtime)
    assert len(swept.messages) == 2
    drive(runtime, swept)
    assert toy(sessions, ref).status == "completed"


def test_jobs_that_the_settings_hold_are_left_alone(runtime: Runtime, sessions: Sessions) -> None:
    pending = make_toy(sessions, numbers=2, requested_at="2020-01-01")
    # The one that was started last would have its turn first.
    free, running, ended = (make_toy(sessions, numbers=2) for _ in range(3))
    messages = {ref: submission.start(runtime, toy_kind(), ref.id) for ref in (free, running, ended)}
    for message in messages[ended]:
        executor.run(runtime, toy_kind(), message.chunk_id)
    ledger.execute(sessions, "UPDATE toy_jobs SET status = 'running' WHERE id = :id", id=ended.id)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET dispatched_at = NULL")
    held = ",".join(f"toy:{ref.id}" for ref in (pending, running, ended))
    holding = replace(runtime, settings=settings.load(**dict(runtime.settings) | {"held_jobs": held}))
    swept = sweep(holding)
    assert {message.chunk_id for message in swept.messages} == {one.chunk_id for one in messages[free]}
    # Nor is a message about one of them a reason to run it; one about another job does not serve them.
    turns = executor.Turns([toy_kind()], postpone=lambda _: None)
    for one in messages[running] + messages[free]:
        executor.run(holding, toy_kind(), one.chunk_id, turns=turns, jitter=lambda: 0.0)
    assert [toy(sessions, ref).status for ref in (pending, running, ended, free)] == [
        *("pending", "running", "running"),
        "completed",
    ]
    assert ledger.states_of(sessions, running) == [ChunkState.QUEUED] * 2
    # Without the setting, they end.
    swept = sweep(runtime)
    drive(runtime, swept)
    assert [toy(sessions, ref).status for ref in (pending, running, ended)] == ["completed"] * 3


def test_lost_messages_are_sent_again_by_one_worker_of_many(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=3)
    submission.start(runtime, toy_kind(), ref.id)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET dispatched_at = now() - interval '1 hour'")
    found = at_once(*[partial(sweep, runtime)] * 4)
    assert sum(swept.redispatched for swept in found) == 3


@pytest.mark.parametrize(
    ("step", "dispatched_at"),
    [(Step.DISPATCH, "NULL"), (Step.REDISPATCH, "now() - interval '1 hour'")],
    ids=["dispatch", "redispatch"],
)
def test_while_one_worker_sends_messages_the_others_send_none(
    runtime: Runtime, sessions: Sessions, step: Step, dispatched_at: str
) -> None:
    ref = make_toy(sessions, numbers=2)
    submission.start(runtime, toy_kind(), ref.id)
    ledger.execute(sessions, f"UPDATE pixcrawler.chunks SET dispatched_at = {dispatched_at}")
    with sessions.begin() as other:
        assert sweeps.try_lock(other, step)
        assert sweep(runtime).messages == []
    assert len(sweep(runtime).messages) == 2


def test_the_interval_of_resending_has_an_upper_bound_whatever_was_counted(
    runtime: Runtime, sessions: Sessions
) -> None:
    """A power of two of 5,000 would overflow, and every sweep with it."""
    ref = make_toy(sessions, numbers=1)
    submission.start(runtime, toy_kind(), ref.id)
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET dispatched_at = now() - interval '1 hour', dispatch_count = 5000",
    )
    assert sweep(runtime).redispatched == 1
    assert open_chunks(sessions, ref) == 1


@pytest.mark.parametrize(("leases", "redispatched"), [(12, 0), (17, 1)])
def test_the_interval_of_resending_grows_to_16_times_the_lease(
    runtime: Runtime, sessions: Sessions, leases: int, redispatched: int
) -> None:
    ref = make_toy(sessions, numbers=1)
    submission.start(runtime, toy_kind(), ref.id)
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET dispatched_at = clock_timestamp() - :age * interval '1 s', dispatch_count = 9",
        age=leases * runtime.settings.lease_seconds,
    )
    assert sweep(runtime).redispatched == redispatched


def test_chunks_of_a_job_that_was_ended_by_hand_are_dropped_and_not_sent_again(
    runtime: Runtime, sessions: Sessions
) -> None:
    ref = make_toy(sessions, numbers=3)
    submission.start(runtime, toy_kind(), ref.id)
    ledger.execute(sessions, "UPDATE toy_jobs SET status = 'failed'")
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET dispatched_at = now() - interval '1 hour'")
    swept = sweep(runtime)
    assert (swept.dropped, swept.redispatched, swept.messages) == (3, 0, [])
    assert toy(sessions, ref).completed_at is not None
    assert sweep(runtime).idle


def test_a_conclusion_that_was_lost_is_made(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=1)
    (message,) = submission.start(runtime, toy_kind(), ref.id)
    with sessions.begin() as session:
        claim = ledger.claim_of(session, TOY_JOBS, message.chunk_id)
        ledger.finish_with(session, claim, {"number": 1, "added": 1}, {"sum": 1})
    assert sweep(runtime).concluded == 1
    assert toy(sessions, ref).status == "completed"


def test_a_locked_job_is_left_to_the_next_sweep_and_the_others_go_on(runtime: Runtime, sessions: Sessions) -> None:
    held, free = make_toy(sessions, numbers=1), make_toy(sessions, numbers=1)
    for ref in (held, free):
        (message,) = submission.start(runtime, toy_kind(), ref.id)
        with sessions.begin() as session:
            claim = ledger.claim_of(session, TOY_JOBS, message.chunk_id)
            ledger.finish_with(session, claim, {"number": 1, "added": 1}, {"sum": 1})
    with sessions.begin() as session:
        session.connection().exec_driver_sql(f"SELECT FROM toy_jobs WHERE id = {held.id} FOR UPDATE")
        sweep(runtime)
        assert toy(sessions, free).status == "completed"
        assert toy(sessions, held).status == "running"
    sweep(runtime)
    assert toy(sessions, held).status == "completed"

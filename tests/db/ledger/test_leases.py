"""Leases that expire, with real commits and real races."""

import uuid
from functools import partial

import ledger
import pytest
from factories import make_image, start_job
from ledger import at_once

from pixcrawler_worker.db.ledger import chunks, jobs, leases
from pixcrawler_worker.db.ledger.leases import Reaped
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    """Reaping looks at the chunks of all jobs: only those of the test are to be there."""
    ledger.execute(sessions, "DELETE FROM crawl_jobs")


def reap(sessions: Sessions) -> Reaped | None:
    return transact(sessions, ledger.reap)


def test_a_chunk_whose_lease_expires_is_queued_once_and_fails_the_second_time(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    chunk_id, other = ledger.ids_of(sessions, ref)
    ledger.claim(sessions, other)
    ledger.claim(sessions, chunk_id, owner="first")
    assert reap(sessions) is None, "its lease is not over"
    ledger.expire_lease(sessions, chunk_id)
    assert reap(sessions) == Reaped(chunk_id, ref, ChunkState.QUEUED)
    assert reap(sessions) is None
    ledger.check(sessions, ref)
    ledger.claim(sessions, chunk_id, owner="second")
    ledger.expire_lease(sessions, chunk_id)
    assert reap(sessions) == Reaped(chunk_id, ref, ChunkState.FAILED)
    assert ledger.states_of(sessions, ref) == [ChunkState.FAILED, ChunkState.RUNNING]
    ledger.expire_lease(sessions, other)
    reap(sessions)
    ledger.claim(sessions, other, owner="third")
    ledger.expire_lease(sessions, other)
    assert reap(sessions) == Reaped(other, ref, ChunkState.FAILED)
    ledger.check(sessions, ref)


def test_a_chunk_whose_lease_expires_in_its_last_attempt_fails(sessions: Sessions) -> None:
    ref = start_job(sessions)
    (chunk_id,) = ledger.ids_of(sessions, ref)
    for _ in range(MAX_ATTEMPTS - 1):
        with sessions.begin() as session:
            chunks.release(session, ledger.claim(sessions, chunk_id), error="busy", jitter=0.5)
        ledger.make_due(sessions, ref)
    ledger.claim(sessions, chunk_id)
    ledger.expire_lease(sessions, chunk_id)
    assert reap(sessions) == Reaped(chunk_id, ref, ChunkState.FAILED)


def test_chunks_of_jobs_that_do_not_run_do_not_block_those_behind_them(sessions: Sessions) -> None:
    cancelled, running = start_job(sessions), start_job(sessions)
    for ref in (cancelled, running):
        (chunk_id,) = ledger.ids_of(sessions, ref)
        ledger.claim(sessions, chunk_id)
        ledger.expire_lease(sessions, chunk_id)
    with sessions.begin() as session:
        jobs.cancel(session, cancelled)
    reaped = reap(sessions)
    assert reaped is not None
    assert reaped.job == running
    assert reap(sessions) is None
    assert ledger.states_of(sessions, cancelled) == [ChunkState.RUNNING]
    ledger.check(sessions, cancelled, running)


def test_two_sweeps_at_once_reap_each_chunk_once(sessions: Sessions) -> None:
    refs = [start_job(sessions, chunks=6) for _ in range(2)]
    for ref in refs:
        for chunk_id in ledger.ids_of(sessions, ref):
            ledger.claim(sessions, chunk_id)
            ledger.expire_lease(sessions, chunk_id)

    def sweep() -> list[int]:
        return [reaped.chunk_id for reaped in iter(lambda: reap(sessions), None)]

    taken = [chunk_id for sweep in at_once(sweep, sweep) for chunk_id in sweep]
    assert sorted(taken) == sorted(chunk_id for ref in refs for chunk_id in ledger.ids_of(sessions, ref))
    assert {chunk.crash_count for ref in refs for chunk in ledger.chunks_of(sessions, ref)} == {1}
    ledger.check(sessions, *refs)


def test_a_late_finish_and_a_sweep_on_one_chunk_have_one_winner(sessions: Sessions) -> None:
    for number in range(12):
        ref = start_job(sessions)
        claim = ledger.claim(sessions, ledger.ids_of(sessions, ref)[0])
        ledger.expire_lease(sessions, claim.chunk_id)
        image = make_image(f"late {number}")
        finished, reaped = at_once(partial(ledger.finish, sessions, claim, [image]), lambda: reap(sessions) is not None)
        assert finished is not reaped
        assert ledger.states_of(sessions, ref) == [ChunkState.COMPLETED if finished else ChunkState.QUEUED]
        ledger.check(sessions, ref)


def test_the_lease_of_a_dead_worker_ends_at_once(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    chunk, other = ledger.chunks_of(sessions, ref)
    ledger.claim(sessions, chunk.id, owner="dead")
    ledger.claim(sessions, other.id, owner="alive")
    with sessions.begin() as session:
        assert leases.expire_lease(session, "dead")
    reaped = reap(sessions)
    assert reaped is not None
    assert reaped.chunk_id == chunk.id
    assert reap(sessions) is None
    with sessions.begin() as session:
        assert not leases.expire_lease(session, "dead")


def test_a_task_is_held_by_the_process_that_runs_its_chunk_now(sessions: Sessions) -> None:
    ref = start_job(sessions)
    (chunk,) = ledger.chunks_of(sessions, ref)

    def holders(task_id: object) -> list[str]:
        with sessions.begin() as session:
            return leases.owners_of(session, str(task_id))

    assert holders(chunk.task_id) == []
    ledger.claim(sessions, chunk.id, owner="first")
    assert holders(chunk.task_id) == ["first"]
    ledger.expire_lease(sessions, chunk.id)
    reap(sessions)
    ledger.claim(sessions, chunk.id, owner="second")
    assert holders(chunk.task_id) == ["second"]
    assert holders(uuid.uuid4()) == []
    assert holders("an id of the caller's own") == []

"""Attempts at chunks of a kind that the package does not know, with the limits and the randomness handed in."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial

import ledger
import pytest
from ledger import at_once
from toy.kind import make_toy, toy, toy_kind

from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.models import Chunk
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.jobs.kind import Report
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime, connect

#: A chunk that takes longer is stopped.
SHORT = JobLimits(chunk_budget=timedelta(0), chunk_deadline=timedelta(seconds=0.3))


def one_chunk(runtime: Runtime, sessions: Sessions, **values: int) -> tuple[JobRef, ChunkMessage]:
    ref = make_toy(sessions, **({"numbers": 1} | values))
    return ref, submission.start(runtime, toy_kind(), ref.id)[0]


def the_chunk(sessions: Sessions, ref: JobRef) -> Chunk:
    (chunk,) = ledger.chunks_of(sessions, ref)
    return chunk


def raising(error: Exception) -> Callable[[int], Awaitable[int]]:
    async def work(number: int) -> int:
        raise error

    return work


def delay(sessions: Sessions, ref: JobRef) -> float:
    """Seconds until the job's only chunk is due."""
    with sessions.begin() as session:
        found = session.connection().exec_driver_sql(
            "SELECT extract(epoch FROM available_at - clock_timestamp()) FROM pixcrawler.chunks"
            f" WHERE toy_job_id = {ref.id}"
        )
        return float(found.scalar_one())


def test_a_doubled_message_runs_the_chunk_once(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    ran: list[int] = []

    async def work(number: int) -> int:
        ran.append(number)
        return number

    for _ in range(3):
        executor.run(runtime, toy_kind(work), message.chunk_id)
    assert ran == [1]
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 1)


def test_work_beyond_the_deadline_is_stopped_and_its_chunk_released(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    stopped: list[bool] = []

    async def hang(number: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(True)
            raise
        return number

    begun = time.monotonic()
    assert executor.run(runtime, toy_kind(hang), message.chunk_id, limits=SHORT) == []
    assert time.monotonic() - begun < 10
    assert stopped == [True]
    chunk = the_chunk(sessions, ref)
    assert (chunk.state, chunk.attempt) == (ChunkState.QUEUED, 1)
    assert "took longer than" in (chunk.error or "")


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 5.0), (0.5, 5.625), (0.99, 6.2375)])
def test_jitter_spreads_the_chunks_that_are_released(
    runtime: Runtime, sessions: Sessions, jitter: float, seconds: float
) -> None:
    ref, message = one_chunk(runtime, sessions)
    busy = toy_kind(raising(TransientError("busy")))
    executor.run(runtime, busy, message.chunk_id, jitter=lambda: jitter)
    assert seconds - 0.3 < delay(sessions, ref) <= seconds


def test_the_workers_own_jitter_is_random(runtime: Runtime, sessions: Sessions) -> None:
    delays = set()
    for _ in range(4):
        ref, message = one_chunk(runtime, sessions)
        executor.run(runtime, toy_kind(raising(TransientError("busy"))), message.chunk_id)
        delays.add(round(delay(sessions, ref), 1))
    assert len(delays) > 1
    assert all(4.5 < found <= 6.25 for found in delays)


def test_a_retry_after_is_kept(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    busy = TransientError("busy", retry_after=timedelta(seconds=40))
    executor.run(runtime, toy_kind(raising(busy)), message.chunk_id, jitter=lambda: 0.5)
    assert 58 < delay(sessions, ref) <= 60


def test_a_permanent_error_fails_the_chunk(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    executor.run(runtime, toy_kind(raising(PermanentError("broken"))), message.chunk_id)
    assert (toy(sessions, ref).status, toy(sessions, ref).error_message) == ("failed", "broken")


def test_a_bug_is_raised_and_its_attempt_counted(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    with pytest.raises(ZeroDivisionError):
        executor.run(runtime, toy_kind(raising(ZeroDivisionError())), message.chunk_id)
    assert (the_chunk(sessions, ref).state, the_chunk(sessions, ref).attempt) == (ChunkState.RUNNING, 1)


def test_a_chunk_that_this_version_cannot_read_fails(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET payload = '{}'")
    assert executor.run(runtime, toy_kind(), message.chunk_id) == []
    assert the_chunk(sessions, ref).error == "the chunk has no number"


def test_heartbeats_keep_the_lease_of_long_work(runtime: Runtime, sessions: Sessions) -> None:
    """The lease is 1 s and the work takes 2.5 s: a sweep that looks all the time never finds it expired."""
    ref, message = one_chunk(runtime, sessions)
    expired: list[bool] = []

    async def work(number: int) -> int:
        for _ in range(50):
            await asyncio.sleep(0.05)
            chunk = await asyncio.to_thread(the_chunk, sessions, ref)
            with sessions.begin() as session:
                now = session.connection().exec_driver_sql("SELECT clock_timestamp()").scalar_one()
            assert chunk.lease_until is not None
            # One lost heartbeat must not cost the claim: there is always time for another one.
            expired.append((chunk.lease_until - now).total_seconds() < runtime.settings.lease_seconds * 0.15)
        return number

    executor.run(runtime, toy_kind(work), message.chunk_id)
    assert not any(expired)
    assert toy(sessions, ref).status == "completed"


def test_work_goes_on_while_the_database_rejects_heartbeats(runtime: Runtime, sessions: Sessions) -> None:
    """Longer than a heartbeat is tried again: the work is worth more than the lease."""
    ref, message = one_chunk(runtime, sessions)
    ledger.execute(
        sessions,
        "CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'lock_not_available', MESSAGE = 'busy'; END $$",
    )
    ledger.execute(
        sessions,
        "CREATE TRIGGER busy BEFORE UPDATE ON pixcrawler.chunks FOR EACH ROW"
        " WHEN (OLD.state = 'running' AND NEW.state = 'running') EXECUTE FUNCTION busy()",
    )

    async def work(number: int) -> int:
        await asyncio.sleep(5)
        return number

    try:
        executor.run(runtime, toy_kind(work), message.chunk_id)
    finally:
        ledger.execute(sessions, "DROP FUNCTION busy CASCADE")
    assert (toy(sessions, ref).status, the_chunk(sessions, ref).attempt) == ("completed", 1)


def test_work_stops_when_its_claim_is_lost(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)

    async def work(number: int) -> int:
        await asyncio.to_thread(submission.cancel, runtime, toy_kind(), ref.id)
        await asyncio.sleep(60)
        return number

    begun = time.monotonic()
    assert executor.run(runtime, toy_kind(work), message.chunk_id) == []
    assert time.monotonic() - begun < 10
    assert (toy(sessions, ref).error_message, toy(sessions, ref).sum) == ("cancelled", 0)


def test_the_result_of_a_lost_claim_is_dropped(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)

    async def work(number: int) -> int:
        await asyncio.to_thread(ledger.expire_lease, sessions, message.chunk_id)
        with sessions.begin() as session:
            assert ledger.reap_of(session, ref.table)
        return number

    assert executor.run(runtime, toy_kind(work), message.chunk_id) == []
    assert (toy(sessions, ref).sum, the_chunk(sessions, ref).state) == (0, ChunkState.QUEUED)


def test_a_limit_of_the_table_is_never_exceeded(runtime: Runtime, sessions: Sessions) -> None:
    """A write that would exceed it is tried again, until what it reads allows it."""
    ref, message = one_chunk(runtime, sessions, max_sum=5)
    tries: list[int] = []
    kind = toy_kind()

    def write(session: object, number: int, result: int) -> Report:
        tries.append(number)
        return Report({"number": number, "added": 0}, {"sum": 9 if len(tries) < 3 else 5})

    executor.run(runtime, replace(kind, write=write), message.chunk_id)
    assert (len(tries), toy(sessions, ref).sum) == (3, 5)


def test_many_workers_run_each_chunk_once(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=6)
    messages = submission.start(runtime, toy_kind(), ref.id)

    def worker(chunk_ids: list[int]) -> None:
        with closing(connect(runtime.settings)) as own:
            for chunk_id in chunk_ids:
                executor.run(own, toy_kind(), chunk_id)

    ids = [message.chunk_id for message in messages]
    at_once(*(partial(worker, ids[turn:] + ids[:turn]) for turn in range(4)))
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 21)

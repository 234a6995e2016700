"""Attempts at chunks of a kind that the package does not know, with the limits and the randomness handed in."""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import ledger
import outages
import pytest
from ledger import at_once
from toy.kind import make_toy, toy, toy_kind

from pixcrawler_worker.db.ledger import dispatch
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS, MAX_ATTEMPTS_WITH_DEFERRALS
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.jobs.kind import Conclusion, JobKind, Report
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime, connect

#: A chunk that takes longer is stopped.
SHORT = JobLimits(chunk_budget=timedelta(0), chunk_deadline=timedelta(seconds=0.3))
#: A transition is given up soon.
QUICK = JobLimits(transition_time=timedelta(seconds=0.2))
#: Threads of an event loop's pool.
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
#: One SQLSTATE of each class that reports the state of the server.
PASSING_STATES = ("08006", "25006", "25P03", "40001", "53100", "53200", "55P03", "57014", "58030", "XX001")


@pytest.fixture(autouse=True)
def no_outage(sessions: Sessions) -> Iterator[None]:
    yield
    outages.end(sessions)


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


@contextmanager
def released_for(sessions: Sessions, ref: JobRef, least: float, most: float | None = None) -> Iterator[None]:
    """Assert that the job's only chunk becomes due so many seconds after some moment of the block.

    Args:
        sessions: the database.
        ref: the job.
        least: seconds.
        most: seconds; by default, as many.
    """

    before = ledger.scalar(sessions, "SELECT clock_timestamp()")
    yield
    due, after = the_chunk(sessions, ref).available_at, ledger.scalar(sessions, "SELECT clock_timestamp()")
    assert before + timedelta(seconds=least) <= due <= after + timedelta(seconds=least if most is None else most)


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


def test_what_the_cleanup_of_stopped_work_meets_is_not_the_reason(
    runtime: Runtime, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    ref, message = one_chunk(runtime, sessions)

    async def hang(number: int) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            raise KeyError(number)

    assert executor.run(runtime, toy_kind(hang), message.chunk_id, limits=SHORT) == []
    assert "took longer than" in (the_chunk(sessions, ref).error or "")
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 5.0), (0.5, 5.625), (0.99, 6.2375)])
def test_jitter_spreads_the_chunks_that_are_released(
    runtime: Runtime, sessions: Sessions, jitter: float, seconds: float
) -> None:
    ref, message = one_chunk(runtime, sessions)
    busy = toy_kind(raising(TransientError("busy")))
    with released_for(sessions, ref, seconds):
        executor.run(runtime, busy, message.chunk_id, jitter=lambda: jitter)


def test_the_workers_own_jitter_is_random(runtime: Runtime, sessions: Sessions) -> None:
    delays = set()
    for _ in range(8):
        ref, message = one_chunk(runtime, sessions)
        with released_for(sessions, ref, 5, 6.25):
            executor.run(runtime, toy_kind(raising(TransientError("busy"))), message.chunk_id)
        left = the_chunk(sessions, ref).available_at - ledger.scalar(sessions, "SELECT clock_timestamp()")
        delays.add(round(left.total_seconds(), 1))
    assert len(delays) > 1


def test_a_retry_after_is_kept(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    busy = TransientError("busy", retry_after=timedelta(seconds=40))
    with released_for(sessions, ref, 60):
        executor.run(runtime, toy_kind(raising(busy)), message.chunk_id, jitter=lambda: 0.5)


def test_a_permanent_error_fails_the_chunk(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    executor.run(runtime, toy_kind(raising(PermanentError("broken"))), message.chunk_id)
    assert (toy(sessions, ref).status, toy(sessions, ref).error_message) == ("failed", "broken")


def test_a_bug_is_logged_once_and_names_itself(
    runtime: Runtime, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    ref, message = one_chunk(runtime, sessions)
    bug = toy_kind(raising(KeyError("label")))
    with released_for(sessions, ref, 5):
        assert executor.run(runtime, bug, message.chunk_id, jitter=lambda: 0.0) == []
    chunk = the_chunk(sessions, ref)
    assert (chunk.state, chunk.attempt, chunk.crash_count) == (ChunkState.QUEUED, 1, 0)
    assert chunk.error == "KeyError: 'label'"
    assert capsys.readouterr().out.count("Traceback (most recent call last)") == 1


def run_until_ended(runtime: Runtime, sessions: Sessions, kind: JobKind[int, int], ref: JobRef) -> int:
    """Run the job's only chunk again and again without its delays; return how often."""
    for runs in range(100):
        chunk = the_chunk(sessions, ref)
        if chunk.state != ChunkState.QUEUED:
            return runs
        ledger.execute(sessions, "UPDATE pixcrawler.chunks SET available_at = clock_timestamp()")
        executor.run(runtime, kind, chunk.id, limits=QUICK)
    raise AssertionError("the chunk has no end")


def test_a_bug_ends_its_chunk_after_the_attempts_and_is_the_reason_of_the_job(
    runtime: Runtime, sessions: Sessions
) -> None:
    ref, _ = one_chunk(runtime, sessions)
    assert run_until_ended(runtime, sessions, toy_kind(raising(ZeroDivisionError("by 0"))), ref) == MAX_ATTEMPTS
    assert (toy(sessions, ref).status, toy(sessions, ref).error_message) == ("failed", "ZeroDivisionError: by 0")
    assert the_chunk(sessions, ref).crash_count == 0


def test_a_chunk_whose_preparation_is_a_bug_ends_with_the_reason(runtime: Runtime, sessions: Sessions) -> None:
    """It is never claimed, so there is no lease that could expire."""
    ref, _ = one_chunk(runtime, sessions)
    ledger.execute(sessions, """UPDATE pixcrawler.chunks SET payload = '{"number": [1]}'""")
    assert run_until_ended(runtime, sessions, toy_kind(), ref) == MAX_ATTEMPTS
    chunk = the_chunk(sessions, ref)
    assert (chunk.state, chunk.attempt, chunk.crash_count) == (ChunkState.FAILED, MAX_ATTEMPTS, 0)
    assert (chunk.error or "").startswith("TypeError: int() argument must be")
    submission.conclude(runtime, toy_kind(), ref.id)
    assert (toy(sessions, ref).status, toy(sessions, ref).error_message) == ("failed", chunk.error)


def test_an_attempt_that_was_not_claimed_is_counted_once(runtime: Runtime, sessions: Sessions) -> None:
    """Also when the message comes twice, or the answer to the COMMIT was lost."""
    ref, message = one_chunk(runtime, sessions)
    ledger.execute(sessions, """UPDATE pixcrawler.chunks SET payload = '{"number": [1]}'""")
    for _ in range(3):
        executor.run(runtime, toy_kind(), message.chunk_id)
    assert (the_chunk(sessions, ref).attempt, the_chunk(sessions, ref).state) == (1, ChunkState.QUEUED)


def test_a_claim_that_the_database_rejects_ends_with_the_reason(runtime: Runtime, sessions: Sessions) -> None:
    """The sequence of fence tokens is exhausted: no claim is possible, and counting the attempt needs none."""
    ref, _ = one_chunk(runtime, sessions)
    with sessions.begin() as session:
        # One more than the next token: PostgreSQL takes no maximum that is the minimum, 1.
        exhausted = "SELECT setval('pixcrawler.fence', nextval('pixcrawler.fence') + 1)"
        last = session.connection().exec_driver_sql(exhausted).scalar_one()
    ledger.execute(sessions, f"ALTER SEQUENCE pixcrawler.fence MAXVALUE {last}")
    try:
        assert run_until_ended(runtime, sessions, toy_kind(), ref) == MAX_ATTEMPTS
    finally:
        ledger.execute(sessions, "ALTER SEQUENCE pixcrawler.fence NO MAXVALUE")
    error = the_chunk(sessions, ref).error or ""
    assert error.startswith("nextval: reached maximum value of sequence")
    assert error.endswith("(SQLSTATE 2200H)")


@pytest.mark.parametrize("state", ["22003", "2200H", "23514", "42501", "42P01", "P0001"])
def test_a_result_that_the_database_rejects_ends_with_the_reason(
    runtime: Runtime, sessions: Sessions, state: str
) -> None:
    ref, _ = one_chunk(runtime, sessions)
    outages.begin(sessions, "finish", state, seconds=60)
    assert run_until_ended(runtime, sessions, toy_kind(), ref) == MAX_ATTEMPTS
    reason = f"not now (SQLSTATE {state})"
    assert (toy(sessions, ref).status, toy(sessions, ref).error_message) == ("failed", reason)
    assert the_chunk(sessions, ref).crash_count == 0


# Outages


@pytest.mark.parametrize("state", PASSING_STATES)
def test_a_result_waits_in_memory_for_the_database_while_its_lease_is_extended(
    runtime: Runtime, sessions: Sessions, state: str
) -> None:
    """The lease is 1 s, the outage takes 2 s, and sweeps look all the time."""
    ref, message = one_chunk(runtime, sessions)
    ran: list[int] = []
    ended = threading.Event()

    async def work(number: int) -> int:
        ran.append(number)
        await asyncio.to_thread(outages.begin, sessions, "finish", state, seconds=2)
        return number

    def reap() -> int:
        reaped = 0
        while not ended.wait(0.02):
            with sessions.begin() as session:
                reaped += ledger.reap_of(session, ref.table) is not None
        return reaped

    with ThreadPoolExecutor(1) as threads:
        reaped = threads.submit(reap)
        try:
            executor.run(runtime, toy_kind(work), message.chunk_id)
        finally:
            ended.set()
    chunk = the_chunk(sessions, ref)
    assert (ran, reaped.result(), chunk.attempt, chunk.crash_count) == ([1], 0, 1, 0)
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 1)


def test_a_result_that_cannot_be_written_in_time_releases_its_chunk_and_costs_no_attempt(
    runtime: Runtime, sessions: Sessions
) -> None:
    ref, message = one_chunk(runtime, sessions)
    outages.begin(sessions, "finish", "53100", seconds=60)
    with released_for(sessions, ref, 1.5):
        executor.run(runtime, toy_kind(), message.chunk_id, limits=QUICK, jitter=lambda: 0.5)
    chunk = the_chunk(sessions, ref)
    assert (chunk.state, chunk.attempt, chunk.max_attempts, chunk.crash_count) == ("queued", 1, MAX_ATTEMPTS + 1, 0)
    assert chunk.error == "the database does not answer: not now (SQLSTATE 53100)"


def test_an_outage_costs_no_attempt_and_ends(runtime: Runtime, sessions: Sessions) -> None:
    ref, _ = one_chunk(runtime, sessions)
    away = toy_kind(raising(OutageError("the storage denies access")))
    assert run_until_ended(runtime, sessions, away, ref) == MAX_ATTEMPTS_WITH_DEFERRALS
    chunk = the_chunk(sessions, ref)
    assert (chunk.state, chunk.crash_count) == (ChunkState.FAILED, 0)
    assert chunk.error == "the storage denies access: the chunk has waited for that 55 times"
    assert toy(sessions, ref).error_message == chunk.error


def test_an_outage_that_concurrent_work_met_is_not_hidden_by_another_error(
    runtime: Runtime, sessions: Sessions
) -> None:
    ref, message = one_chunk(runtime, sessions)
    met = ExceptionGroup("two", [ZeroDivisionError(), ExceptionGroup("more", [OutageError("full")])])
    executor.run(runtime, toy_kind(raising(met)), message.chunk_id)
    assert (the_chunk(sessions, ref).error, the_chunk(sessions, ref).max_attempts) == ("full", MAX_ATTEMPTS + 1)


def test_a_claim_waits_for_the_database(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    outages.begin(sessions, "claim", "25006", seconds=0.5)
    executor.run(runtime, toy_kind(), message.chunk_id)
    assert (toy(sessions, ref).status, the_chunk(sessions, ref).attempt) == ("completed", 1)


def test_a_message_that_met_an_outage_is_sent_again(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    outages.begin(sessions, "claim", "58030", seconds=60)
    assert executor.run(runtime, toy_kind(), message.chunk_id, limits=QUICK) == []
    chunk = the_chunk(sessions, ref)
    assert (chunk.state, chunk.attempt) == (ChunkState.QUEUED, 0)
    outages.end(sessions)
    with sessions.begin() as session:
        again = dispatch.resend_lost(session, ref.table, after=timedelta(0), limit=9)
    assert [one.chunk_id for one in again] == [message.chunk_id]


def test_what_follows_a_chunk_is_left_to_the_sweep_when_it_fails(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)

    def conclude(*_: object) -> Conclusion:
        raise ZeroDivisionError

    assert executor.run(runtime, replace(toy_kind(), conclude=conclude), message.chunk_id) == []
    assert the_chunk(sessions, ref).state == ChunkState.COMPLETED
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("running", 1)


def test_a_heartbeat_does_not_wait_for_threads_that_hang(runtime: Runtime, sessions: Sessions) -> None:
    """All threads of the event loop's pool wait, as for a storage that hangs: the lease of 1 s is extended anyway."""
    ref, message = one_chunk(runtime, sessions)

    async def work(number: int) -> int:
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 2) for _ in range(POOL_THREADS)))
        with sessions.begin() as session:
            assert ledger.reap_of(session, ref.table) is None
        return number

    executor.run(runtime, toy_kind(work), message.chunk_id, limits=JobLimits())
    assert (toy(sessions, ref).status, the_chunk(sessions, ref).attempt) == ("completed", 1)


def test_a_chunk_that_this_version_cannot_read_fails(runtime: Runtime, sessions: Sessions) -> None:
    ref, message = one_chunk(runtime, sessions)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET payload = '{}'")
    assert executor.run(runtime, toy_kind(), message.chunk_id) == []
    assert the_chunk(sessions, ref).error == "the chunk has no number"


def test_heartbeats_keep_the_lease_of_long_work(runtime: Runtime, sessions: Sessions) -> None:
    """The lease is 2 s and the work takes 5 s: a sweep that looks all the time never finds it expired."""
    runtime = replace(runtime, settings=runtime.settings.model_copy(update={"lease_seconds": 2}))
    ref, message = one_chunk(runtime, sessions)
    expired: list[bool] = []

    async def work(number: int) -> int:
        for _ in range(100):
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

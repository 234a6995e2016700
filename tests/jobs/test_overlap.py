"""Several chunks in one process: each has its own claim, deadline and result, whatever becomes of the others."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial

import ledger
import outages
import psycopg
import pytest
from fakes.postgres_proxy import postgres_proxy
from ledger import at_once
from toy.kind import make_toy, open_chunks, toy, toy_kind

from pixcrawler_worker.db import session
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import ended_processes, executor, submission, sweeper
from pixcrawler_worker.jobs.executor import Turns
from pixcrawler_worker.jobs.kind import JobKind
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.runtime import Runtime, connect

WAIT = 20.0


class Process:
    """A process whose chunks call for more: what they do, and how many run at a time."""

    def __init__(self, runtime: Runtime, work: Callable[[int], Awaitable[int]]) -> None:
        self.runtime = runtime
        self.sent: list[ChunkMessage] = []
        self.now = self.most = 0
        self.order: list[int] = []
        self._work = work
        self.kind: JobKind[int, int] = replace(toy_kind(), work=self._do, overlaps=True)

    def start(self, sessions: Sessions, **values: int) -> tuple[JobRef, list[ChunkMessage]]:
        """Start a job; its messages count as sent a while ago."""
        ref = make_toy(sessions, **values)
        messages = submission.start(self.runtime, self.kind, ref.id)
        age(sessions)
        return ref, messages

    def run(self, message: ChunkMessage, *, limits: JobLimits = LIMITS) -> list[ChunkMessage]:
        turns = Turns([self.kind], postpone=self.sent.append, send=self._send)
        return executor.run(self.runtime, self.kind, message.chunk_id, turns=turns, limits=limits, jitter=lambda: 0.5)

    def _send(self, messages: Sequence[ChunkMessage]) -> None:
        self.sent += messages

    async def _do(self, runtime: Runtime, number: int, limits: JobLimits) -> int:
        del limits
        self.now += 1
        self.most = max(self.most, self.now)
        self.order.append(number)
        asking = asyncio.ensure_future(_ask(runtime))
        try:
            return await self._work(number)
        finally:
            asking.cancel()
            self.now -= 1


async def _ask(runtime: Runtime) -> None:
    while True:
        runtime.take_more()
        await asyncio.sleep(0.01)


def age(sessions: Sessions) -> None:
    """Let the messages that were sent be so old that no idle process waits for them."""
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET dispatched_at = dispatched_at - interval '3 s' WHERE dispatched_at IS NOT NULL",
    )


def meeting(parties: int) -> Callable[[int], Awaitable[int]]:
    """Work that ends when so many chunks run at a time."""
    arrived = 0
    everyone = asyncio.Event()

    async def work(number: int) -> int:
        nonlocal arrived
        arrived += 1
        if arrived >= parties:
            everyone.set()
        await asyncio.wait_for(everyone.wait(), WAIT)
        return number

    return work


@pytest.fixture(autouse=True)
def no_outage(sessions: Sessions) -> Iterator[None]:
    yield
    outages.end(sessions)


def test_a_process_with_room_runs_the_chunks_of_other_messages_and_each_counts_once(
    runtime: Runtime, sessions: Sessions
) -> None:
    process = Process(runtime, meeting(3))
    ref, messages = process.start(sessions, numbers=3)
    following = process.run(messages[0])
    assert process.most == 3
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 6)
    for message in [*messages, *process.sent, *following, *messages]:
        assert process.run(message) == []  # the chunks have run
    assert toy(sessions, ref).sum == 6


def test_a_message_that_was_sent_just_now_is_left_to_a_process_that_waits_for_it(
    runtime: Runtime, sessions: Sessions
) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.3)
        return number

    process = Process(runtime, work)
    ref = make_toy(sessions, numbers=2)
    first, second = submission.start(runtime, process.kind, ref.id)
    process.run(first)
    assert process.most == 1
    process.run(second)
    assert toy(sessions, ref).sum == 3


def test_chunks_without_a_message_come_first_and_leave_the_number_of_messages_as_it_is(
    runtime: Runtime, sessions: Sessions
) -> None:
    narrow = replace(runtime, settings=runtime.settings.model_copy(update={"dispatch_window": 2}))
    process = Process(narrow, meeting(3))
    ref, messages = process.start(sessions, numbers=6)
    assert len(messages) == 2
    following = process.run(messages[0])
    assert process.order[:3] == [1, 3, 4]
    assert len(process.sent) + len(following) <= 2
    waiting = [messages[1], *process.sent, *following]
    while waiting:
        waiting += process.run(waiting.pop(0))
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 21)


def test_one_that_fails_and_one_that_is_released_change_nothing_about_the_others(
    runtime: Runtime, sessions: Sessions
) -> None:
    together = meeting(4)

    async def work(number: int) -> int:
        await together(number)
        if number == 2:
            raise PermanentError("broken")
        if number == 3:
            raise TransientError("busy")
        if number == 4:
            raise RuntimeError("a bug")
        return number

    process = Process(runtime, work)
    ref, messages = process.start(sessions, numbers=4)
    process.run(messages[0])
    chunks = ledger.chunks_of(sessions, ref)
    states = [chunk.state for chunk in chunks]
    assert states == [ChunkState.COMPLETED, ChunkState.FAILED, ChunkState.QUEUED, ChunkState.QUEUED]
    assert ["busy" in (chunk.error or "") for chunk in chunks] == [False, False, True, False]
    assert toy(sessions, ref).sum == 1


def test_each_has_a_deadline_of_its_own(runtime: Runtime, sessions: Sessions) -> None:
    together = meeting(2)

    async def work(number: int) -> int:
        await together(number)
        await asyncio.sleep(60 if number == 2 else 0)
        return number

    process = Process(runtime, work)
    ref, messages = process.start(sessions, numbers=2)
    process.run(messages[0], limits=JobLimits(chunk_budget=timedelta(0), chunk_deadline=timedelta(seconds=1)))
    first, second = ledger.chunks_of(sessions, ref)
    assert (first.state, second.state) == (ChunkState.COMPLETED, ChunkState.QUEUED)
    assert "took longer than 1 s" in (second.error or "")


def test_the_deadline_of_a_late_one_leaves_time_before_the_limit_of_the_task() -> None:
    late = LIMITS.begun_after(LIMITS.overlap_period)
    written = LIMITS.overlap_period + late.chunk_deadline + 3 * LIMITS.transition_time
    assert LIMITS.chunk_budget < late.chunk_deadline < LIMITS.chunk_deadline
    assert written < LIMITS.soft_time_limit
    assert LIMITS.begun_after(timedelta(0)) == LIMITS


def test_after_its_period_a_task_begins_no_more(runtime: Runtime, sessions: Sessions) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.2)
        return number

    process = Process(runtime, work)
    _, messages = process.start(sessions, numbers=2)
    process.run(messages[0], limits=JobLimits(overlap_period=timedelta(0)))
    assert process.most == 1


def test_a_process_that_is_to_end_begins_no_more(runtime: Runtime, sessions: Sessions) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.2)
        return number

    process = Process(replace(runtime, is_stopping=lambda: True), work)
    _, messages = process.start(sessions, numbers=2)
    process.run(messages[0])
    assert process.most == 1


def test_messages_about_whole_jobs_come_before_further_chunks(runtime: Runtime, sessions: Sessions) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.2)
        return number

    process = Process(replace(runtime, requests_wait=lambda: True), work)
    _, messages = process.start(sessions, numbers=2)
    process.run(messages[0])
    assert process.most == 1


def test_a_job_that_is_cancelled_loses_its_chunks_and_another_one_keeps_its_own(
    runtime: Runtime, sessions: Sessions
) -> None:
    together = meeting(2)
    cancelling, is_cancelled = asyncio.Lock(), asyncio.Event()

    async def work(number: int) -> int:
        await together(number)
        if not is_cancelled.is_set() and not cancelling.locked():
            async with cancelling:
                await asyncio.to_thread(submission.cancel, runtime, process.kind, one.id)
            is_cancelled.set()
        await is_cancelled.wait()
        return number

    process = Process(runtime, work)
    one, messages = process.start(sessions, numbers=1)
    other, _ = process.start(sessions, numbers=1)
    process.run(messages[0])
    assert (toy(sessions, one).status, toy(sessions, one).sum) == ("failed", 0)
    assert (toy(sessions, other).status, toy(sessions, other).sum) == ("completed", 1)


def test_one_that_was_running_when_a_process_died_runs_alone(runtime: Runtime, sessions: Sessions) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.2)
        return number

    process = Process(runtime, work)
    ref, messages = process.start(sessions, numbers=3)
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET crash_count = 1 WHERE toy_job_id = :id AND seq < (SELECT max(seq) FROM"
        " pixcrawler.chunks WHERE toy_job_id = :id)",
        id=ref.id,
    )
    process.run(messages[0])
    assert process.most == 1  # it has crashed itself
    process.run(messages[2])
    assert process.most == 1  # the one that is left has crashed
    process.run(messages[1])
    assert toy(sessions, ref).sum == 6


def test_the_chunks_of_a_process_that_dies_are_all_known_by_its_message(database_url: str, runtime: Runtime) -> None:
    """As a child is reported that was killed: by the task that it ran."""
    sessions = runtime.sessions
    own = connect(runtime.settings)

    class Died(BaseException):
        pass

    together = meeting(2)

    async def work(number: int) -> int:
        await together(number)
        raise Died

    with closing(own):
        process = Process(own, work)
        ref, messages = process.start(sessions, numbers=2)
        with pytest.raises(Died):
            process.run(messages[0])
    assert [chunk.state for chunk in ledger.chunks_of(sessions, ref)] == [ChunkState.RUNNING] * 2
    assert ended_processes.expire_lease(runtime, messages[0].task_id, ended=lambda _: True)
    with psycopg.connect(database_url) as connection:
        expired = connection.execute(
            "SELECT count(*) FROM pixcrawler.chunks WHERE toy_job_id = %s AND lease_until <= clock_timestamp()",
            [ref.id],
        )
        assert expired.fetchone() == (2,)
    sweeper.sweep(runtime, [process.kind])
    assert open_chunks(sessions, ref) == 2
    assert [chunk.crash_count for chunk in ledger.chunks_of(sessions, ref)] == [1, 1]


def test_a_time_limit_releases_them_all(runtime: Runtime, sessions: Sessions) -> None:
    """Celery raises it in the event loop, outside of any chunk, as this does."""
    together = meeting(2)

    async def work(number: int) -> int:
        await together(number)
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)
        return number

    process = Process(runtime, work)
    ref, messages = process.start(sessions, numbers=2)
    process.run(messages[0])
    chunks = ledger.chunks_of(sessions, ref)
    assert [(chunk.state, chunk.attempt) for chunk in chunks] == [(ChunkState.QUEUED, 1)] * 2


def test_a_database_that_is_away_for_one_result_does_not_stop_the_work_of_the_others(
    runtime: Runtime, sessions: Sessions
) -> None:
    """The first result cannot be written until the second chunk, in the same event loop, has got further."""
    together = meeting(2)

    async def work(number: int) -> int:
        await together(number)
        if number == 2:
            await asyncio.sleep(0.3)  # the first one's result is being written
            await asyncio.to_thread(outages.end, sessions)
        return number

    process = Process(runtime, work)
    ref, messages = process.start(sessions, numbers=2)
    outages.begin(sessions, "finish", "55P03", seconds=300)
    process.run(messages[0], limits=JobLimits(transition_time=timedelta(seconds=WAIT)))
    assert toy(sessions, ref).sum == 3
    assert [chunk.attempt for chunk in ledger.chunks_of(sessions, ref)] == [1, 1]


def test_one_that_blocks_the_event_loop_costs_none_its_claim(runtime: Runtime, sessions: Sessions) -> None:
    """For longer than the lease of 1 s."""
    together = meeting(2)

    async def work(number: int) -> int:
        await together(number)
        if number == 1:
            time.sleep(1.5)  # noqa: ASYNC251 - as a plug-in might
            with sessions.begin() as session:
                assert not ledger.reap_of(session, ref.table)
        return number

    process = Process(runtime, work)
    ref, messages = process.start(sessions, numbers=2)
    process.run(messages[0])
    assert toy(sessions, ref).sum == 3
    assert [chunk.attempt for chunk in ledger.chunks_of(sessions, ref)] == [1, 1]


def test_many_processes_that_overlap_run_each_chunk_once(runtime: Runtime, sessions: Sessions) -> None:
    ran: list[int] = []

    async def work(number: int) -> int:
        ran.append(number)
        await asyncio.sleep(0.05)
        return number

    ref, messages = Process(runtime, work).start(sessions, numbers=12)

    def take(given: list[ChunkMessage]) -> None:
        with closing(connect(runtime.settings)) as own:
            process = Process(own, work)
            for message in given:
                process.run(message)

    at_once(*(partial(take, messages[turn:] + messages[:turn]) for turn in (0, 4, 8)))
    assert sorted(ran) == list(range(1, 13))
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 78)


def test_a_further_claim_whose_answer_was_lost_is_found_again(
    runtime: Runtime, sessions: Sessions, database_url: str
) -> None:
    meet = meeting(2)
    with postgres_proxy(database_url) as wire:

        async def work(number: int) -> int:
            if not wire.cuts:
                wire.cut_commit(done=True)
            return await meet(number)

        engine = session.connect(wire.url)
        process = Process(replace(runtime, sessions=session.sessions(engine)), work)
        ref, messages = process.start(sessions, numbers=3)
        waiting = [*process.run(messages[0]), *process.sent]
        engine.dispose()
    assert (wire.cuts, process.most) == (1, 2)
    while waiting:
        waiting += executor.run(runtime, process.kind, waiting.pop().chunk_id)
    found = ledger.chunks_of(sessions, ref)
    assert [(one.state, one.attempt) for one in found] == [(ChunkState.COMPLETED, 1)] * 3

"""The order in which a process runs the chunks of several jobs, whatever the order of their messages is."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import ledger
import pytest
from fakes.postgres_proxy import postgres_proxy
from structlog.testing import capture_logs
from toy.kind import make_toy, toy, toy_kind

from pixcrawler_worker.db import session as connections
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, NotRunningError
from pixcrawler_worker.db.session import Session, Sessions
from pixcrawler_worker.domain.lifecycle import ChunkState
from pixcrawler_worker.errors import OutageError
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.jobs.executor import Turns
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.runtime import Runtime

#: Random numbers with which no job, and every job that ends soonest, is favored.
PLAIN, FAVORING = 0.99, 0.0


class Queue:
    """The list of messages of one kind, and the jobs whose chunks were run, in their order."""

    def __init__(self, runtime: Runtime, sessions: Sessions, kind: AnyJobKind | None = None) -> None:
        self.runtime = runtime
        self.sessions = sessions
        self.messages: deque[ChunkMessage] = deque()
        self.served: list[int] = []
        self.kind = replace(kind or toy_kind(), prepare=self._prepare_with((kind or toy_kind()).prepare))

    def start(self, **values: int) -> JobRef:
        ref = make_toy(self.sessions, max_sum=10_000, **values)
        self.messages.extend(submission.start(self.runtime, self.kind, ref.id))
        return ref

    def run(self, *, jitter: float = PLAIN) -> None:
        """Do what a process does with the next message."""
        turns = Turns([self.kind], postpone=self.messages.append)
        message = self.messages.popleft()
        self.messages.extend(
            executor.run(self.runtime, self.kind, message.chunk_id, turns=turns, jitter=lambda: jitter)
        )

    def _prepare_with(
        self, prepare: Callable[[Runtime, Session, Claim], int]
    ) -> Callable[[Runtime, Session, Claim], int]:
        def remembering(runtime: Runtime, session: Session, claim: Claim) -> int:
            prepared = prepare(runtime, session, claim)
            self.served.append(claim.job.id)
            return prepared

        return remembering


@pytest.fixture
def queue(runtime: Runtime, sessions: Sessions) -> Queue:
    return Queue(runtime, sessions)


@pytest.fixture
def busy(sessions: Sessions) -> Callable[[JobRef], None]:
    """Let another process run a chunk of the job, and not end."""

    def run(ref: JobRef) -> None:
        ledger.execute(
            sessions,
            "UPDATE pixcrawler.chunks SET state = 'running', lease_until = clock_timestamp() + interval '1 hour'"
            " WHERE id = (SELECT max(id) FROM pixcrawler.chunks WHERE toy_job_id = :id AND state = 'queued')",
            id=ref.id,
        )

    return run


def test_a_small_job_runs_while_another_process_runs_a_large_one(
    queue: Queue, sessions: Sessions, busy: Callable[[JobRef], None]
) -> None:
    """Thirty-two messages of the large job stand in front of those of the small one."""
    large = queue.start(numbers=50)
    busy(large)
    small = queue.start(numbers=5)
    assert [message.chunk_id for message in list(queue.messages)[:32]] == ledger.ids_of(sessions, large)[:32]
    for _ in range(5):
        queue.run()
    assert queue.served == [small.id] * 5
    assert toy(sessions, small).status == "completed"


def test_every_queued_chunk_that_was_dispatched_keeps_one_message(
    queue: Queue, sessions: Sessions, busy: Callable[[JobRef], None]
) -> None:
    large = queue.start(numbers=40)
    busy(large)
    small = queue.start(numbers=5)
    steps = 0
    while queue.messages:
        steps += 1
        queue.run(jitter=FAVORING if steps % 2 else PLAIN)
        dispatched = [
            chunk.id
            for ref in (large, small)
            for chunk in ledger.chunks_of(sessions, ref)
            if chunk.state == ChunkState.QUEUED and chunk.dispatched_at
        ]
        messages = Counter(message.chunk_id for message in queue.messages)
        assert all(messages[chunk_id] == 1 for chunk_id in dispatched)
        assert max(messages.values(), default=0) <= 1
    assert Counter(queue.served) == {large.id: 39, small.id: 5}
    # One for each chunk, and one more for each that was run with the message of another one.
    assert steps <= 39 + 5 + 5


def test_a_message_that_is_not_sent_again_is_found_by_the_sweep(
    queue: Queue, sessions: Sessions, busy: Callable[[JobRef], None]
) -> None:
    """The process dies between its claim and sending the message again: the message counts as lost after a lease."""
    large = queue.start(numbers=3)
    busy(large)
    queue.start(numbers=1)
    first = queue.messages[0].chunk_id

    def die(message: ChunkMessage) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor.run(queue.runtime, queue.kind, first, turns=Turns([queue.kind], postpone=die), jitter=lambda: PLAIN)
    (chunk, *_) = ledger.chunks_of(sessions, large)
    assert (chunk.id, chunk.state) == (first, ChunkState.QUEUED)
    assert chunk.dispatched_at is not None


def test_a_job_that_cannot_be_served_does_not_stop_the_one_of_the_message(
    runtime: Runtime, sessions: Sessions, busy: Callable[[JobRef], None]
) -> None:
    broken: list[int] = []

    def prepare(runtime: Runtime, session: Session, claim: Claim) -> int:
        if claim.job.id in broken:
            raise ZeroDivisionError
        return int(claim.payload["number"])

    queue = Queue(runtime, sessions, replace(toy_kind(), prepare=prepare))
    large = queue.start(numbers=5)
    busy(large)
    small = queue.start(numbers=1)
    broken.append(small.id)
    with capture_logs() as logs:
        queue.run()
    assert queue.served == [large.id]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["the turns were not kept"]
    assert [chunk.attempt for chunk in ledger.chunks_of(sessions, small)] == [0]


def test_a_claim_whose_answer_was_lost_is_found_again_after_an_outage(
    runtime: Runtime, sessions: Sessions, busy: Callable[[JobRef], None], database_url: str
) -> None:
    """Also when it was long, so that the turns were not kept: no lease has to expire, and no crash is counted."""
    calm = Queue(runtime, sessions)
    large = calm.start(numbers=5)
    busy(large)
    small = calm.start(numbers=1)
    prepared: list[int] = []
    with postgres_proxy(database_url) as wire:

        def prepare(_runtime: Runtime, _session: Session, claim: Claim) -> int:
            prepared.append(claim.chunk_id)
            if len(prepared) == 1:
                wire.cut_commit(done=True)
            elif len(prepared) == 2:
                raise OutageError("the database restarts")
            return int(claim.payload["number"])

        engine = connections.connect(wire.url)
        shaky = replace(runtime, sessions=connections.sessions(engine))
        queue = Queue(shaky, sessions, replace(toy_kind(), prepare=prepare))
        queue.messages = calm.messages
        named = queue.messages[0]
        queue.run()
        engine.dispose()
    assert wire.cuts == 1
    assert prepared == ledger.ids_of(sessions, small) * 3
    assert [(chunk.state, chunk.attempt) for chunk in ledger.chunks_of(sessions, small)] == [(ChunkState.COMPLETED, 1)]
    assert queue.messages[-1] == named


def test_a_chunk_of_another_job_that_cannot_be_read_fails_and_the_message_goes_on(
    runtime: Runtime, sessions: Sessions, busy: Callable[[JobRef], None]
) -> None:
    queue = Queue(runtime, sessions)
    large = queue.start(numbers=5)
    busy(large)
    small = queue.start(numbers=1)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET payload = '{}' WHERE toy_job_id = :id", id=small.id)
    first = queue.messages[0]
    queue.run()
    assert ledger.states_of(sessions, small) == [ChunkState.FAILED]
    assert queue.messages[-1] == first


def test_a_job_that_is_cancelled_when_its_turn_comes_leaves_it_to_the_message(
    runtime: Runtime, sessions: Sessions, busy: Callable[[JobRef], None]
) -> None:
    cancelled: list[JobRef] = []

    def prepare(runtime: Runtime, session: Session, claim: Claim) -> int:
        if claim.job in cancelled:
            raise NotRunningError(str(claim.job))
        return int(claim.payload["number"])

    queue = Queue(runtime, sessions, replace(toy_kind(), prepare=prepare))
    large = queue.start(numbers=5)
    busy(large)
    cancelled.append(queue.start(numbers=1))
    queue.run()
    assert queue.served == [large.id]

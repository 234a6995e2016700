"""Any sequence of transitions on one job, against a model written with the domain's types alone.

A longer, random run: `LEDGER_EXAMPLES=2000 pytest tests/db/ledger/test_ledger_machine.py`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import ledger
import pytest
from chunk_lifecycle import TRANSITIONS, Event
from factories import make_image, start_job
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger import LEASE
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks, jobs
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.leases import Reaped
from pixcrawler_worker.db.ledger.tables import JobRef, LimitExceededError, NotRunningError
from pixcrawler_worker.db.models import CrawlJob, Image
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.lifecycle import (
    ChunkOutcome,
    ChunkState,
    Counters,
    JobStatus,
    after_crash,
    delta,
    job_status,
    progress,
)
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS

T = TypeVar("T")
MAX_IMAGES = 6
EXAMPLES = os.environ.get("LEDGER_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 30),
    stateful_step_count=30,
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=[HealthCheck.too_slow],
)

#: Which chunk or claim a rule takes, modulo those that there are.
choice = st.integers(0, 11)
#: How an attempt may end, the usual way twice.
ENDS = ("finish", "finish", "give_back", "put_back", "give_up", "fall_silent")
images = st.frozensets(st.integers(0, 11), max_size=3)


@dataclass(eq=False)
class ModelChunk:
    state: ChunkState = ChunkState.QUEUED
    attempt: int = 0
    crashes: int = 0
    generation: int = 1
    fence: int | None = None
    due: bool = True
    parted: bool = False


@dataclass
class Model:
    """What the database must be after every rule."""

    status: JobStatus = JobStatus.RUNNING
    progress: int = 0
    chunks: list[ModelChunk] = field(default_factory=list)
    counters: Counters = field(default_factory=lambda: Counters(total=0))
    images: set[int] = field(default_factory=set)

    def move(self, chunk: ModelChunk, event: Event, after: ChunkState) -> None:
        """Let a chunk go into another state, and count it."""
        assert (chunk.state, event, after) in TRANSITIONS
        change = delta(chunk.state, after)
        cancelled = (after is ChunkState.CANCELLED) - (chunk.state is ChunkState.CANCELLED)
        self.counters = Counters(
            total=self.counters.total,
            active=self.counters.active + change.active,
            completed=self.counters.completed + change.completed,
            failed=self.counters.failed + change.failed,
            cancelled=self.counters.cancelled + cancelled,
        )
        chunk.state = after
        chunk.due = True
        chunk.parted = event is Event.PUT_BACK
        self.progress = max(self.progress, progress(self.counters))

    def add(self, number: int) -> None:
        generation = max((chunk.generation for chunk in self.chunks), default=1)
        self.chunks += [ModelChunk(generation=generation) for _ in range(number)]
        self.counters = Counters(
            total=self.counters.total + number,
            active=self.counters.active,
            completed=self.counters.completed,
            failed=self.counters.failed,
            cancelled=self.counters.cancelled,
        )


@dataclass
class Held:
    """A claim that was made at some time, with the chunk that it was made on."""

    claim: Claim
    chunk: ModelChunk

    @property
    def stands(self) -> bool:
        return self.chunk.state is ChunkState.RUNNING and self.chunk.fence == self.claim.fence


def pick(those: Sequence[T], at: int) -> T:
    """Choose one, the last most often."""
    return those[-1 - at % len(those)]


class LedgerMachine(RuleBasedStateMachine):
    """One job and everything that workers, sweeps and users may do to it, in any order."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self.sessions = sessions
        self.model = Model()
        self.claims: list[Held] = []
        self.highest_progress = 0
        self.calm = 2

    @initialize(number=st.integers(1, 4))
    def start(self, number: int) -> None:
        self.ref: JobRef = start_job(self.sessions, chunks=number, max_images=MAX_IMAGES)
        self.ids = ledger.ids_of(self.sessions, self.ref)
        self.model.add(number)

    def teardown(self) -> None:
        ledger.execute(self.sessions, "DELETE FROM crawl_jobs")

    # What workers do

    @precondition(lambda self: self.having(ChunkState.QUEUED))
    @rule(at=choice)
    def claim(self, at: int) -> None:
        """Deliver the message about a queued chunk twice, and too early if it rests."""
        chunk = pick(self.having(ChunkState.QUEUED), at)
        chunk_id = self.ids[self.model.chunks.index(chunk)]
        owner = f"delivery {len(self.claims)}"

        def deliver(owner: str) -> Claim | None:
            return self.do(lambda session: chunks.claim(session, CRAWL_JOBS, chunk_id, owner=owner, lease=LEASE))

        if not chunk.due:
            assert deliver(owner) is None
            ledger.make_due(self.sessions, self.ref)
            for rested in self.model.chunks:
                rested.due = True
        if self.model.status is not JobStatus.RUNNING:
            with pytest.raises(NotRunningError):
                deliver(owner)
            return
        claim = deliver(owner)
        assert claim is not None
        self.model.move(chunk, Event.CLAIM, ChunkState.RUNNING)
        chunk.attempt += 1
        assert (claim.attempt, claim.max_attempts, claim.job) == (chunk.attempt, MAX_ATTEMPTS, self.ref)
        assert claim.fence > max((held.claim.fence for held in self.claims), default=0)
        chunk.fence = claim.fence
        self.claims.append(Held(claim, chunk))
        assert deliver("duplicate") is None
        assert deliver(owner) == claim, "its answer might have been lost"

    @precondition(lambda self: self.live())
    @rule(
        at=choice,
        how=st.sampled_from(["finish", "finish", "give_back", "put_back", "give_up", "fall_silent"]),
        names=images,
    )
    def end(self, at: int, how: str, names: frozenset[int]) -> None:
        """End a claim that stands."""
        held = pick(self.live(), at)
        beaten = self.do(lambda session: chunks.heartbeat(session, held.claim, lease=LEASE))
        assert beaten == (self.model.status is JobStatus.RUNNING)
        if how == "finish":
            self.finish(held, names)
        elif how == "give_back":
            self.give_back(held)
        elif how == "put_back":
            self.put_back(held)
        elif how == "give_up":
            self.give_up(held)
        else:
            self.fall_silent(held)

    def finish(self, held: Held, names: frozenset[int]) -> None:
        found = [make_image(str(name)) for name in sorted(names)]
        brought = self.model.images | names
        if self.model.status is not JobStatus.RUNNING:
            with pytest.raises(NotRunningError):
                ledger.finish(self.sessions, held.claim, found)
        elif len(brought) > MAX_IMAGES:
            with pytest.raises(LimitExceededError):
                ledger.finish(self.sessions, held.claim, found)
        else:
            assert ledger.finish(self.sessions, held.claim, found)
            self.model.move(held.chunk, Event.FINISH, ChunkState.COMPLETED)
            self.model.images |= names

    def give_back(self, held: Held) -> None:
        last = held.chunk.attempt >= MAX_ATTEMPTS
        event, after = (Event.FAIL, ChunkState.FAILED) if last else (Event.RELEASE, ChunkState.QUEUED)
        self.close(held, lambda session: chunks.release(session, held.claim, error="busy", jitter=0.5), event, after)
        held.chunk.due = held.chunk.state is not ChunkState.QUEUED

    def put_back(self, held: Held) -> None:
        def work(session: Session) -> ChunkOutcome:
            assert chunks.lock_claim(session, held.claim) is ClaimState.VALID
            return chunks.put_back(
                session,
                held.claim,
                result={"part": 1},
                gains={},
                payload={"rest": 1},
                delay=timedelta(0),
                progressed=True,
            )

        self.close(held, work, Event.PUT_BACK, ChunkState.QUEUED)
        if held.chunk.parted:
            held.chunk.attempt, held.chunk.crashes = 0, 0

    def give_up(self, held: Held) -> None:
        def work(session: Session) -> ChunkOutcome:
            return chunks.fail(session, held.claim, error="broken")

        self.close(held, work, Event.FAIL, ChunkState.FAILED)

    def close(self, held: Held, work: Callable[[Session], ChunkOutcome], event: Event, after: ChunkState) -> None:
        if self.model.status is not JobStatus.RUNNING:
            with pytest.raises(NotRunningError):
                self.do(work)
        else:
            last = self.do(work)
            self.model.move(held.chunk, event, after)
            assert last is (ChunkOutcome.CONTINUES if self.model.counters.open else ChunkOutcome.JOB_FINISHED)

    def fall_silent(self, held: Held) -> None:
        chunk, chunk_id = held.chunk, held.claim.chunk_id
        ledger.expire_lease(self.sessions, chunk_id)
        reaped = self.do(ledger.reap)
        if self.model.status is not JobStatus.RUNNING:
            assert reaped is None
            return
        chunk.crashes += 1
        state = after_crash(crashes=chunk.crashes, attempt=chunk.attempt, max_attempts=MAX_ATTEMPTS)
        self.model.move(chunk, Event.REAP, state)
        assert reaped == Reaped(chunk_id, self.ref, state)

    @precondition(lambda self: self.late())
    @rule(at=choice, names=images)
    def come_late(self, at: int, names: frozenset[int]) -> None:
        """Try to end a claim that does not stand any more: nothing may come of it."""
        held = pick(self.late(), at)
        done = held.chunk.fence == held.claim.fence and (held.chunk.parted or held.chunk.state is ChunkState.COMPLETED)
        assert self.do(lambda session: chunks.lock_claim(session, held.claim)) is (
            ClaimState.FINISHED if done else ClaimState.LOST
        )
        assert not ledger.finish(self.sessions, held.claim, [make_image(str(name)) for name in names])
        assert self.do(lambda s: chunks.release(s, held.claim, error="late", jitter=0.5)) is ChunkOutcome.LOST
        assert self.do(lambda s: chunks.fail(s, held.claim, error="late")) is ChunkOutcome.LOST
        assert not self.do(lambda session: chunks.heartbeat(session, held.claim, lease=LEASE))

    # What sweeps and users do

    @precondition(lambda self: self.model.status is JobStatus.CANCELLED)
    @rule()
    def drop_chunks(self) -> None:
        still_open = self.having(ChunkState.QUEUED, ChunkState.RUNNING)
        assert self.do(lambda session: jobs.drop_chunks(session, self.ref)) == len(still_open)
        for chunk in still_open:
            self.model.move(chunk, Event.CANCEL, ChunkState.CANCELLED)

    @precondition(lambda self: not self.model.counters.open)
    @rule(number=st.integers(0, 2))
    def conclude(self, number: int) -> None:
        """End the job, or add another round, when all its chunks have ended."""

        def work(session: Session) -> JobStatus | None:
            if jobs.lock(session, self.ref) is not JobStatus.RUNNING:
                return None
            counters = jobs.counters(session, self.ref)
            if counters.open:
                return None
            if number:
                jobs.add_chunks(session, self.ref, [{}] * number)
                return JobStatus.RUNNING
            jobs.end(session, self.ref, job_status(counters))
            return job_status(counters)

        outcome = self.do(work)
        if self.model.status is not JobStatus.RUNNING or self.model.counters.open:
            assert outcome is None
        elif number:
            self.model.add(number)
            self.ids = ledger.ids_of(self.sessions, self.ref)
        else:
            assert outcome is job_status(self.model.counters)
            self.model.status = outcome
            self.model.progress = 100 if outcome is JobStatus.COMPLETED else self.model.progress

    @precondition(lambda self: self.model.status is not JobStatus.CANCELLED and len(self.claims) > self.calm)
    @rule()
    def cancel(self) -> None:
        # Not too often: what happens to a job that runs is of more interest.
        self.calm = len(self.claims) + 3
        cancelled = self.do(lambda session: jobs.cancel(session, self.ref))
        assert cancelled == (self.model.status is JobStatus.RUNNING)
        if cancelled:
            self.model.status = JobStatus.CANCELLED

    @precondition(lambda self: self.model.status is not JobStatus.RUNNING or not self.model.counters.open)
    @rule()
    def retry(self) -> None:
        model = self.model
        again = self.having(ChunkState.FAILED, ChunkState.CANCELLED)
        refused = model.status is JobStatus.RUNNING or (model.status is JobStatus.COMPLETED and not again)
        if refused or model.counters.open:
            with pytest.raises(NotRunningError):
                self.do(lambda session: jobs.retry(session, self.ref))
            return
        self.do(lambda session: jobs.retry(session, self.ref))
        generation = max(chunk.generation for chunk in model.chunks) + 1
        model.status = JobStatus.RUNNING
        model.progress = self.highest_progress = min(model.progress, 99)
        for chunk in again:
            model.move(chunk, Event.RETRY, ChunkState.QUEUED)
            chunk.attempt, chunk.crashes, chunk.generation, chunk.fence = 0, 0, generation, None

    # What must hold

    @invariant()
    def model_equals_database(self) -> None:
        with self.sessions.begin() as session:
            ledger.check_invariants(session, self.ref.id)
            rows = session.scalars(select(Chunk).where(jobs.belongs_to(self.ref)).order_by(Chunk.seq)).all()
            job = session.get_one(CrawlJob, self.ref.id)
            images = session.scalar(select(func.count()).where(Image.crawl_job_id == self.ref.id))
            counters = jobs.counters(session, self.ref)
        model = self.model
        assert [(row.state, row.attempt, row.crash_count, row.generation, row.fence) for row in rows] == [
            (chunk.state, chunk.attempt, chunk.crashes, chunk.generation, chunk.fence) for chunk in model.chunks
        ]
        assert counters == model.counters
        assert (job.status, job.progress) == (model.status, model.progress)
        assert (job.valid_images, images) == (len(model.images), len(model.images))
        assert job.progress >= self.highest_progress
        self.highest_progress = job.progress

    # Shorthands

    def do(self, work: Callable[[Session], T]) -> T:
        return transact(self.sessions, work)

    def having(self, *states: ChunkState) -> list[ModelChunk]:
        return [chunk for chunk in self.model.chunks if chunk.state in states]

    def live(self) -> list[Held]:
        """Claims that stand."""
        return [held for held in self.claims if held.stands]

    def late(self) -> list[Held]:
        """Claims that do not stand any more, those of running chunks last, where `pick` begins."""
        late = [held for held in self.claims if not held.stands]
        return sorted(late, key=lambda held: held.chunk.state is ChunkState.RUNNING)


@pytest.mark.timeout(300)
def test_the_ledger_does_what_the_model_does(sessions: Sessions) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(sessions)

    run_state_machine_as_test(Machine, settings=SETTINGS)

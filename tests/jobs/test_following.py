"""Chunks that a process takes in the transaction that ends another one: others come first, and nothing is lost."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import ledger
import pytest
from factories import start_job
from fakes.postgres_proxy import PostgresProxy, postgres_proxy
from ledger import LEASE
from sqlalchemy import text
from structlog.testing import capture_logs
from toy.kind import make_toy, toy, toy_kind

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import session
from pixcrawler_worker.db.ledger import chunks, dispatch, leases
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.session import Session, Sessions, transact
from pixcrawler_worker.domain.lifecycle import ChunkState, job_status
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.jobs.executor import Turns
from pixcrawler_worker.jobs.kind import AnyJobKind, Conclusion, Report, Rest
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime, local_pid, owner

#: No process is too slow to follow, and none follows.
LONG = JobLimits(following=timedelta(seconds=60), chunk_deadline=timedelta(seconds=300))
NEVER = JobLimits(following=timedelta(0))


async def _nothing(*_: object) -> None:
    return None


def crawl(**parts: Any) -> AnyJobKind:
    """Crawl jobs, whose rows count chunks, with chunks that have nothing to do."""
    usual: dict[str, Any] = {
        "prepare": lambda _runtime, _session, claim: claim,
        "work": _nothing,
        "write": lambda *_: Report({"done": True}),
        "conclude": lambda *given: Conclusion(job_status(given[-1])),
    }
    kind: AnyJobKind = replace(CRAWL, **usual | parts)
    return kind


def first_message(sessions: Sessions, ref: JobRef) -> ChunkMessage:
    """Note that one message was sent for the job; the other chunks have none."""
    with sessions.begin() as session:
        (message,) = dispatch.next_due(session, ref, limit=1)
    return message


def run(runtime: Runtime, kind: AnyJobKind, message: ChunkMessage, *, limits: JobLimits = LONG) -> list[ChunkMessage]:
    return executor.run(runtime, kind, message.chunk_id, turns=Turns([kind], postpone=lambda _: None), limits=limits)


def test_a_process_runs_the_chunks_that_have_no_message_one_after_the_other(
    runtime: Runtime, sessions: Sessions
) -> None:
    ref = start_job(sessions, chunks=5)
    assert run(runtime, crawl(), first_message(sessions, ref)) == []
    ledger.check(sessions, ref)
    assert ledger.crawl_job(sessions, ref).status == "completed"
    assert [(chunk.attempt, chunk.dispatch_count) for chunk in ledger.chunks_of(sessions, ref)] == [(1, 1)] + [
        (1, 0)
    ] * 4


def test_chunks_whose_message_is_under_way_are_left_to_it(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3)
    with sessions.begin() as session:
        first, second = dispatch.next_due(session, ref, limit=2)
    run(runtime, crawl(), first)
    assert ledger.states_of(sessions, ref) == [ChunkState.COMPLETED, ChunkState.QUEUED, ChunkState.COMPLETED]
    ledger.check(sessions, ref)
    run(runtime, crawl(), second)
    assert ledger.crawl_job(sessions, ref).status == "completed"


def test_a_kind_whose_rows_do_not_count_chunks_is_followed_as_well(runtime: Runtime, sessions: Sessions) -> None:
    ref = make_toy(sessions, numbers=4)
    narrow = replace(runtime, settings=runtime.settings.model_copy(update={"dispatch_window": 1}))
    (message,) = submission.start(narrow, toy_kind(), ref.id)
    assert run(narrow, toy_kind(), message) == []
    assert (toy(sessions, ref).status, toy(sessions, ref).sum) == ("completed", 10)


def test_after_its_time_a_process_sends_a_message(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3)
    sent = run(runtime, crawl(), first_message(sessions, ref), limits=NEVER)
    assert [message.chunk_id for message in sent] == ledger.ids_of(sessions, ref)[1:2]
    assert ledger.states_of(sessions, ref) == [ChunkState.COMPLETED, ChunkState.QUEUED, ChunkState.QUEUED]


def test_while_another_job_runs_a_process_sends_a_message(runtime: Runtime, sessions: Sessions) -> None:
    ref, other = start_job(sessions, chunks=3), start_job(sessions)
    message = first_message(sessions, ref)
    sent = run(runtime, crawl(), message)
    # Which of the jobs had its turn is not of interest here.
    assert len(sent) <= 1
    states = ledger.states_of(sessions, ref) + ledger.states_of(sessions, other)
    assert states.count(ChunkState.COMPLETED) == 1
    ledger.check(sessions, ref, other)


def test_the_claim_of_a_follower_names_the_process_and_the_message(runtime: Runtime, sessions: Sessions) -> None:
    """By these its lease is expired at once when the process dies."""
    ref = start_job(sessions, chunks=2)
    message = first_message(sessions, ref)
    found: list[tuple[str | None, list[str]]] = []

    async def look(_runtime: Runtime, claim: Claim, _limits: JobLimits) -> None:
        with sessions.begin() as opened:
            name = opened.scalar(text("SELECT owner FROM pixcrawler.chunks WHERE id = :id"), {"id": claim.chunk_id})
            found.append((name, leases.owners_of(opened, message.task_id)))

    run(runtime, crawl(work=look), message)
    assert len({name for name, _ in found}) == 2
    for name, owners in found:
        assert owners == [name]
        assert local_pid(str(name)) == local_pid(owner(1))


def test_a_follower_of_another_version_fails_and_the_next_one_runs(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3)
    _, second, third = ledger.ids_of(sessions, ref)

    def prepare(_runtime: Runtime, _session: Session, claim: Claim) -> Claim:
        if claim.chunk_id == second:
            raise PermanentError("no such page")
        return claim

    (message,) = run(runtime, crawl(prepare=prepare), first_message(sessions, ref))
    assert message.chunk_id == third
    assert ledger.states_of(sessions, ref) == [ChunkState.COMPLETED, ChunkState.FAILED, ChunkState.QUEUED]
    ledger.check(sessions, ref)
    run(runtime, crawl(prepare=prepare), message)
    assert ledger.crawl_job(sessions, ref).status == "completed"


def test_when_the_last_follower_is_of_another_version_the_job_ends(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    _, second = ledger.ids_of(sessions, ref)

    def prepare(_runtime: Runtime, _session: Session, claim: Claim) -> Claim:
        if claim.chunk_id == second:
            raise PermanentError("no such page")
        return claim

    assert run(runtime, crawl(prepare=prepare), first_message(sessions, ref)) == []
    assert ledger.crawl_job(sessions, ref).status == "completed"
    ledger.check(sessions, ref)


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), TransientError("away")])
def test_what_is_wrong_with_a_follower_costs_the_chunk_before_it_nothing(
    runtime: Runtime, sessions: Sessions, error: Exception
) -> None:
    ref = start_job(sessions, chunks=2)
    _, second = ledger.ids_of(sessions, ref)

    def prepare(_runtime: Runtime, _session: Session, claim: Claim) -> Claim:
        if claim.chunk_id == second:
            raise error
        return claim

    with capture_logs() as logged:
        assert run(runtime, crawl(prepare=prepare), first_message(sessions, ref)) == []
    assert "what follows is left to the sweep" in [line["event"] for line in logged]
    first, other = ledger.chunks_of(sessions, ref)
    assert (first.state, other.state, other.attempt, other.dispatched_at) == ("completed", "queued", 0, None)
    ledger.check(sessions, ref)


def test_a_chunk_with_a_rest_is_not_followed(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    rests = iter([Rest({"number": 7}), None, None])
    kind = crawl(write=lambda *_: Report({"done": True}, rest=next(rests)))
    (message,) = run(runtime, kind, first_message(sessions, ref))
    # The rest comes first: it has the place of its chunk.
    assert message.chunk_id == ledger.ids_of(sessions, ref)[0]
    assert ledger.states_of(sessions, ref) == [ChunkState.QUEUED, ChunkState.QUEUED]
    ledger.check(sessions, ref)


def test_after_a_cancel_nothing_follows(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3)

    async def cancel(_runtime: Runtime, claim: Claim, _limits: JobLimits) -> None:
        submission.cancel(runtime, crawl(), ref.id)

    assert run(runtime, crawl(work=cancel), first_message(sessions, ref)) == []
    assert ledger.states_of(sessions, ref) == [ChunkState.CANCELLED] * 3
    ledger.check(sessions, ref)


def test_a_limit_that_is_exceeded_is_tried_again_with_its_follower(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2, max_images=1)
    gains = iter([5, 0, 0])
    kind = crawl(write=lambda *_: Report({"done": True}, {"valid_images": next(gains)}))
    assert run(runtime, kind, first_message(sessions, ref)) == []
    ledger.check(sessions, ref)
    assert ledger.crawl_job(sessions, ref).status == "completed"


# Connections that break


@pytest.fixture
def wire(runtime: Runtime) -> Iterator[PostgresProxy]:
    with postgres_proxy(runtime.settings.require_database()) as proxy:
        yield proxy


@pytest.fixture
def shaky(runtime: Runtime, wire: PostgresProxy) -> Iterator[Runtime]:
    engine = session.connect(wire.url, pool_size=1)
    yield replace(runtime, sessions=session.sessions(engine))
    engine.dispose()


def cutting(wire: PostgresProxy, request: int, *, done: bool) -> Callable[..., Awaitable[None]]:
    """The work of chunks, the first of which has the n-th request from then on cut."""
    runs = itertools.count()

    async def work(*_: object) -> None:
        if next(runs) == 0:
            wire.cut_at(request, done=done)

    return work


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
def test_a_cut_at_any_request_of_the_end_of_a_chunk_shows_in_nothing(
    wire: PostgresProxy, shaky: Runtime, sessions: Sessions, *, done: bool
) -> None:
    for request in range(1, 20):
        ref = start_job(sessions, chunks=3)
        message = first_message(sessions, ref)
        cuts = wire.cuts
        assert run(shaky, crawl(work=cutting(wire, request, done=done)), message) == []
        happened = wire.cuts > cuts
        wire.cancel_cut()
        ledger.check(sessions, ref)
        assert ledger.crawl_job(sessions, ref).status == "completed"
        assert [chunk.attempt for chunk in ledger.chunks_of(sessions, ref)] == [1, 1, 1]
        if request > 15:
            return
        assert happened


def test_a_commit_whose_answer_is_lost_brings_the_same_follower(
    wire: PostgresProxy, shaky: Runtime, sessions: Sessions
) -> None:
    ref = start_job(sessions, chunks=3)
    message = first_message(sessions, ref)
    claims: list[Claim] = []

    async def work(_runtime: Runtime, claim: Claim, _limits: JobLimits) -> None:
        if not claims:
            wire.cut_commit(done=True)
        claims.append(claim)

    assert run(shaky, crawl(work=work), message) == []
    assert wire.cuts == 1
    assert [claim.chunk_id for claim in claims] == ledger.ids_of(sessions, ref)
    ledger.check(sessions, ref)


def test_the_end_of_a_chunk_and_the_commit_are_one_request(
    wire: PostgresProxy, shaky: Runtime, sessions: Sessions
) -> None:
    ref = start_job(sessions, chunks=4)
    message = first_message(sessions, ref)
    seen: list[int] = []

    async def work(*_: object) -> None:
        seen.append(wire.requests)

    run(shaky, crawl(work=work), message)
    # BEGIN, the chunk's lock, the claim of the next one, and both ends: the other processes wait for the last alone.
    assert [after - before for before, after in itertools.pairwise(seen)][1:] == [4, 4]
    finish = next(at for at, text in enumerate(wire.statements) if text.startswith("\nWITH completed"))
    assert wire.statements[finish + 1] == "COMMIT"
    ledger.check(sessions, ref)


@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_a_job_that_ends_while_its_chunk_is_ended_loses_the_result(
    runtime: Runtime, sessions: Sessions, status: str
) -> None:
    """The row alone says so, as a person may write it; the chunks know nothing of it."""
    ref = start_job(sessions, chunks=3)

    async def end(*_: object) -> None:
        ledger.execute(sessions, f"UPDATE crawl_jobs SET status = '{status}' WHERE id = :id", id=ref.id)

    assert run(runtime, crawl(work=end), first_message(sessions, ref)) == []
    assert ledger.states_of(sessions, ref) == [ChunkState.RUNNING, ChunkState.QUEUED, ChunkState.QUEUED]
    assert ledger.crawl_job(sessions, ref).completed_chunks == 0


def test_a_follower_that_was_reaped_meanwhile_brings_nothing_late(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    second = ledger.ids_of(sessions, ref)[1]

    async def lose(_runtime: Runtime, claim: Claim, _limits: JobLimits) -> None:
        if claim.chunk_id == second:
            ledger.expire_lease(sessions, second)
            assert transact(sessions, lambda opened: leases.reap(opened, ref.table, second)) is not None
            assert transact(
                sessions, lambda opened: chunks.claim(opened, ref.table, second, owner="other", lease=LEASE)
            )

    assert run(runtime, crawl(work=lose), first_message(sessions, ref)) == []
    assert ledger.states_of(sessions, ref) == [ChunkState.COMPLETED, ChunkState.RUNNING]
    ledger.check(sessions, ref)

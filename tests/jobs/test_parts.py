"""Chunks that are done in parts: each attempt keeps what it has, and is put back with the rest."""

from contextlib import closing
from datetime import timedelta

import ledger
import pytest
from ledger import at_once
from toy.kind import make_toy, open_chunks, toy, toy_in_parts

from pixcrawler_worker.db.ledger import chunk_results, chunks, dispatch, leases
from pixcrawler_worker.db.ledger.chunks import Claim, ClaimState
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import ChunkOutcome, ChunkState
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS, MAX_ATTEMPTS_WITH_DEFERRALS
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.runtime import Runtime, connect


def started(runtime: Runtime, sessions: Sessions, kind: AnyJobKind, **values: int) -> tuple[JobRef, list[int]]:
    ref = make_toy(sessions, **values)
    return ref, [message.chunk_id for message in submission.start(runtime, kind, ref.id)]


def the_chunk(sessions: Sessions, ref: JobRef) -> Chunk:
    (chunk,) = ledger.chunks_of(sessions, ref)
    return chunk


def last_number_only(sessions: Sessions, ref: JobRef, number: int) -> None:
    """Give the only chunk of the job a number."""
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET payload = jsonb_build_object('number', CAST(:number AS int))"
        " WHERE toy_job_id = :id",
        number=number,
        id=ref.id,
    )


def test_every_part_is_counted_once_and_the_chunk_ends_with_the_last(runtime: Runtime, sessions: Sessions) -> None:
    kind = toy_in_parts()
    ref, waiting = started(runtime, sessions, kind, numbers=3)
    runs = 0
    while waiting:
        runs += 1
        waiting += [message.chunk_id for message in executor.run(runtime, kind, waiting.pop(0))]
        with sessions.begin() as session:
            results = chunk_results.results(session, ref)
        assert toy(sessions, ref).sum == sum(result["added"] for result in results) == runs
    assert runs == 1 + 2 + 3
    assert toy(sessions, ref).status == "completed"
    assert [chunk.result for chunk in ledger.chunks_of(sessions, ref)] == [
        {"number": number, "added": number} for number in (1, 2, 3)
    ]


def test_a_part_costs_no_attempt(runtime: Runtime, sessions: Sessions) -> None:
    kind = toy_in_parts()
    ref, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    last_number_only(sessions, ref, MAX_ATTEMPTS + 3)
    for _ in range(MAX_ATTEMPTS + 2):
        executor.run(runtime, kind, chunk_id)
        chunk = the_chunk(sessions, ref)
        assert (chunk.state, chunk.attempt, chunk.max_attempts) == (ChunkState.QUEUED, 0, MAX_ATTEMPTS)
    executor.run(runtime, kind, chunk_id)
    assert toy(sessions, ref).status == "completed"


def test_attempts_that_get_no_further_are_deferrals(runtime: Runtime, sessions: Sessions) -> None:
    kind = toy_in_parts(0)
    ref, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    for attempt in range(1, MAX_ATTEMPTS_WITH_DEFERRALS + 1):
        executor.run(runtime, kind, chunk_id)
        allowed = min(MAX_ATTEMPTS + attempt, MAX_ATTEMPTS_WITH_DEFERRALS)
        chunk = the_chunk(sessions, ref)
        assert (chunk.state, chunk.attempt, chunk.max_attempts) == (ChunkState.QUEUED, attempt, allowed)
    executor.run(runtime, kind, chunk_id)
    assert the_chunk(sessions, ref).attempt == MAX_ATTEMPTS_WITH_DEFERRALS, "it is not claimed any more"


def test_the_rest_is_not_claimed_before_it_is_due(runtime: Runtime, sessions: Sessions) -> None:
    kind = toy_in_parts(delay=timedelta(hours=1))
    ref, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    last_number_only(sessions, ref, 2)
    assert executor.run(runtime, kind, chunk_id) == []
    executor.run(runtime, kind, chunk_id)
    assert toy(sessions, ref).sum == 1
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET available_at = now() WHERE id = :id", id=chunk_id)
    with sessions.begin() as session:
        assert [message.chunk_id for message in dispatch.next_due(session, ref, limit=9)] == [chunk_id]
    executor.run(runtime, kind, chunk_id)
    assert (toy(sessions, ref).sum, toy(sessions, ref).status) == (2, "completed")


def test_messages_of_a_chunk_in_parts_may_come_at_once(runtime: Runtime, sessions: Sessions) -> None:
    kind = toy_in_parts()
    ref, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    last_number_only(sessions, ref, 6)

    def run_four_times() -> None:
        with closing(connect(runtime.settings)) as own:
            for _ in range(4):
                executor.run(own, kind, chunk_id)

    at_once(*[run_four_times] * 4)
    for _ in range(6):
        executor.run(runtime, kind, chunk_id)
    assert (toy(sessions, ref).sum, toy(sessions, ref).status) == (6, "completed")


@pytest.mark.parametrize("lost_by", ["reaped", "cancelled", "deleted"])
def test_a_part_that_comes_too_late_is_dropped(runtime: Runtime, sessions: Sessions, lost_by: str) -> None:
    kind = toy_in_parts()
    ref, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    with sessions.begin() as session:
        claim = chunks.claim(session, kind.table, chunk_id, owner="late", lease=timedelta(minutes=1))
    assert claim is not None
    match lost_by:
        case "reaped":
            ledger.execute(sessions, "UPDATE pixcrawler.chunks SET lease_until = now() - interval '1 s'")
            with sessions.begin() as session:
                assert leases.reap(session, kind.table)
        case "cancelled":
            submission.cancel(runtime, kind, ref.id)
        case _:
            ledger.execute(sessions, "DELETE FROM toy_jobs WHERE id = :id", id=ref.id)
    assert put_back(sessions, claim) is ChunkOutcome.LOST
    if lost_by != "deleted":
        assert toy(sessions, ref).sum == 0


def test_a_part_whose_commit_lost_its_answer_was_done(runtime: Runtime, sessions: Sessions) -> None:
    kind = toy_in_parts()
    _, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    with sessions.begin() as session:
        claim = ledger.claim_of(session, kind.table, chunk_id)
    assert put_back(sessions, claim) is ChunkOutcome.CONTINUES
    with sessions.begin() as session:
        assert chunks.lock_claim(session, claim) is ClaimState.FINISHED


@pytest.mark.parametrize("ended_by", ["released", "reaped"])
def test_an_attempt_that_ended_otherwise_was_not(runtime: Runtime, sessions: Sessions, ended_by: str) -> None:
    kind = toy_in_parts()
    _, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    with sessions.begin() as session:
        claim = ledger.claim_of(session, kind.table, chunk_id)
    with sessions.begin() as session:
        if ended_by == "released":
            chunks.release(session, claim, error="busy", jitter=0.0)
        else:
            ledger.execute(sessions, "UPDATE pixcrawler.chunks SET lease_until = now() - interval '1 s'")
            assert leases.reap(session, kind.table)
    with sessions.begin() as session:
        assert chunks.lock_claim(session, claim) is ClaimState.LOST


def test_a_retry_continues_with_the_rest(runtime: Runtime, sessions: Sessions) -> None:
    kind = toy_in_parts()
    ref, (chunk_id,) = started(runtime, sessions, kind, numbers=1)
    last_number_only(sessions, ref, 3)
    executor.run(runtime, kind, chunk_id)
    submission.cancel(runtime, kind, ref.id)
    waiting = [message.chunk_id for message in submission.retry(runtime, kind, ref.id)]
    while waiting:
        waiting += [message.chunk_id for message in executor.run(runtime, kind, waiting.pop(0))]
    assert (toy(sessions, ref).sum, toy(sessions, ref).status, open_chunks(sessions, ref)) == (3, "completed", 0)
    assert the_chunk(sessions, ref).result == {"number": 3, "added": 3}


def put_back(sessions: Sessions, claim: Claim) -> ChunkOutcome:
    with sessions.begin() as session:
        if chunks.lock_claim(session, claim) is not ClaimState.VALID:
            return ChunkOutcome.LOST
        return chunks.put_back(
            session,
            claim,
            result={"number": 1, "added": 1},
            gains={"sum": 1},
            payload={"number": 1},
            delay=timedelta(0),
            progressed=True,
        )

"""The order in which jobs and owners get their turns, and what happens to the messages of those who wait."""

from collections import Counter

import ledger
import pytest
from factories import TABLES, make_project, start_job
from ledger import LEASE, at_once
from sqlalchemy import text
from sqlalchemy.orm import Session

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger import chunks, dispatch, fairness, jobs, leases
from pixcrawler_worker.db.ledger.fairness import Taken
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable, NotRunningError
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import ChunkState


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    """Turns depend on all jobs: only those of the test are to be there."""
    ledger.execute(sessions, "DELETE FROM profiles")


def take(  # noqa: PLR0913 - everything that a turn depends on
    sessions: Sessions,
    named: JobRef,
    *,
    at: int = 0,
    owner: str = "",
    favor_short: bool = False,
    tables: tuple[JobTable, ...] = TABLES,
) -> Taken:
    """Do what a process does with the message of the job's n-th chunk."""
    chunk_id = ledger.ids_of(sessions, named)[at]
    return transact(
        sessions,
        lambda session: fairness.claim(
            session,
            named.table,
            chunk_id,
            tables=tables,
            owner=owner or f"{named} {at}",
            lease=LEASE,
            favor_short=favor_short,
        ),
    )


def served(taken: Taken) -> JobRef | None:
    return None if taken.claim is None else taken.claim.job


def send(sessions: Sessions, ref: JobRef, *, limit: int = 100) -> None:
    with sessions.begin() as session:
        dispatch.next_due(session, ref, limit=limit)


def test_a_job_alone_runs_the_chunks_of_its_messages(sessions: Sessions) -> None:
    large = start_job(sessions, chunks=3)
    for at, chunk_id in reversed(list(enumerate(ledger.ids_of(sessions, large)))):
        taken = take(sessions, large, at=at)
        assert (taken.claim and taken.claim.chunk_id, taken.postponed) == (chunk_id, None)
    ledger.check(sessions, large)


def test_messages_of_a_large_job_run_chunks_of_a_small_one_in_turns(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=8), start_job(sessions, chunks=3)
    order = [served(take(sessions, large, at=at)) for at in range(6)]
    assert order == [large, small, large, small, large, small]
    ledger.check(sessions, large, small)


def test_a_message_that_gave_its_turn_away_is_sent_again(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=8), start_job(sessions, chunks=3)
    send(sessions, large)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET dispatched_at = dispatched_at - interval '1 hour'")
    take(sessions, large)
    before = ledger.chunks_of(sessions, large)[1]
    taken = take(sessions, large, at=1)
    after = ledger.chunks_of(sessions, large)[1]
    assert taken.claim
    assert taken.claim.chunk_id == ledger.ids_of(sessions, small)[0]
    assert taken.postponed
    assert (taken.postponed.chunk_id, taken.postponed.task_id) == (after.id, str(after.task_id))
    assert (taken.postponed.task, taken.postponed.queue) == (CRAWL_JOBS.chunk_task, CRAWL_JOBS.queue)
    # It is not taken for lost, and its next interval is no longer.
    assert (after.state, after.dispatch_count) == (ChunkState.QUEUED, before.dispatch_count)
    assert before.dispatched_at
    assert after.dispatched_at
    assert after.dispatched_at > before.dispatched_at


def test_a_stale_message_is_no_permission(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=8), start_job(sessions, chunks=3)
    take(sessions, large)
    assert take(sessions, large, owner="another delivery") == Taken()
    with sessions.begin() as session:
        assert (
            fairness.claim(session, CRAWL_JOBS, 2**40, tables=TABLES, owner="me", lease=LEASE, favor_short=True)
            == Taken()
        )
    assert ledger.states_of(sessions, small) == [ChunkState.QUEUED] * 3


def test_owners_get_turns_however_many_jobs_they_have(sessions: Sessions) -> None:
    project = make_project(sessions)
    many = [start_job(sessions, chunks=4, project_id=project) for _ in range(10)]
    one = start_job(sessions, chunks=6)
    order = [served(take(sessions, many[at // 2], at=at % 2)) for at in range(12)]
    assert order.count(one) == 6
    assert Counter(order)[one] == sum(job is not one and job in many for job in order)
    # And within an owner, jobs do.
    assert max(Counter(order)[job] for job in many) == 1
    ledger.check(sessions, one, *many)


def test_kinds_count_together_and_a_process_serves_only_its_own(sessions: Sessions) -> None:
    crawl = start_job(sessions, chunks=8)
    check, archive = (start_job(sessions, chunks=2, kind=kind) for kind in (VALIDATION_JOBS, EXPORT_JOBS))
    order = [served(take(sessions, crawl, at=at)) for at in range(4)]
    assert order[0] == crawl
    assert set(order[1:3]) == {check, archive}
    assert served(take(sessions, crawl, at=4, tables=(CRAWL_JOBS,))) == crawl
    ledger.check(sessions, crawl)


def test_the_job_that_ends_soonest_is_ahead_when_it_is_favored(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=20), start_job(sessions, chunks=9)
    ledger.execute(
        sessions,
        "UPDATE crawl_jobs SET started_at = started_at - interval '1 hour', progress = 1 WHERE id = :id",
        id=large.id,
    )
    favored = [served(take(sessions, large, at=at, favor_short=True)) for at in range(6)]
    assert favored == [small, small, large, small, large, small]
    # With two processes, it keeps both: a process is free, the other one runs a chunk of the small job.
    ledger.execute(sessions, "DELETE FROM crawl_jobs")
    large, small = start_job(sessions, chunks=20), start_job(sessions, chunks=9)
    ledger.execute(
        sessions, "UPDATE crawl_jobs SET started_at = started_at - interval '1 hour' WHERE id = :id", id=large.id
    )
    take(sessions, small)
    assert served(take(sessions, large, favor_short=True)) == small
    assert served(take(sessions, large, owner="later", favor_short=False)) == large


def test_a_job_without_chunks_that_are_due_has_no_turn(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=8), start_job(sessions, chunks=1)
    with sessions.begin() as session:
        chunks.release(session, ledger.claim(sessions, ledger.ids_of(sessions, small)[0]), error="busy", jitter=0.5)
    assert [served(take(sessions, large, at=at)) for at in range(3)] == [large] * 3
    ledger.make_due(sessions, small)
    taken = take(sessions, large, at=3)
    assert served(taken) == small


def test_a_job_that_was_cancelled_has_no_turn(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=8), start_job(sessions, chunks=3)
    take(sessions, large)
    with sessions.begin() as session:
        jobs.cancel(session, small)
    assert served(take(sessions, large, at=1)) == large
    with pytest.raises(NotRunningError):
        take(sessions, small, tables=())


def test_a_claim_whose_answer_was_lost_is_found_again_with_its_message(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=8), start_job(sessions, chunks=3)
    take(sessions, large)
    first = take(sessions, large, at=1, owner="me")
    assert served(first) == small
    assert take(sessions, large, at=1, owner="me") == first
    assert [state.value for state in ledger.states_of(sessions, small)] == ["running", "queued", "queued"]
    ledger.check(sessions, large, small)


def test_many_processes_share_two_jobs_without_waiting_for_each_other(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=40), start_job(sessions, chunks=5)
    take(sessions, large, at=12)
    taken = at_once(*(lambda at=at: take(sessions, large, at=at) for at in range(12)))
    claims = [one.claim.chunk_id for one in taken if one.claim]
    assert len(claims) == len(set(claims)) == 12
    assert 0 < Counter(map(served, taken))[small] <= 5
    ledger.check(sessions, large, small)


def test_a_task_is_held_by_the_chunk_that_it_claimed_for_another_job(sessions: Sessions) -> None:
    large, small = start_job(sessions, chunks=8), start_job(sessions, chunks=3)
    take(sessions, large)
    named = ledger.chunks_of(sessions, large)[1]
    assert served(take(sessions, large, at=1, owner=f"host:17:{named.id}.a")) == small
    take(sessions, large, at=2, owner=f"host:18:1{named.id}.b")
    with sessions.begin() as session:
        assert leases.owners_of(session, str(named.task_id)) == [f"host:17:{named.id}.a"]


def test_a_turn_does_not_read_the_chunks_of_large_jobs(sessions: Sessions) -> None:
    """The turn of one among 40 jobs, one of them with 1,000 chunks, most of which have ended."""
    large = start_job(sessions, chunks=1000)
    for _ in range(39):
        start_job(sessions, chunks=2)
    ledger.execute(sessions, "UPDATE pixcrawler.chunks SET state = 'completed' WHERE seq BETWEEN 2 AND 990")
    engine = sessions.kw["bind"]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # What was updated just now is still in the indexes, and is read as well.
        connection.execute(text("VACUUM ANALYZE pixcrawler.chunks"))
    with sessions.begin() as session:
        # Once its statistics are collected, PostgreSQL may read a table as small as this one as a whole.
        session.execute(text("SET LOCAL enable_seqscan = off"))
        before = rows_read(session)
        fairness.next_turn(session, (CRAWL_JOBS,), large, favor_short=True)
        assert rows_read(session) - before < 500


def rows_read(session: Session) -> int:
    """Rows of the ledger that this transaction has read so far."""
    counted = "pg_stat_get_xact_tuples_returned(c.oid) + pg_stat_get_xact_tuples_fetched(c.oid)"
    chunks_and_indexes = (
        "SELECT sum(%s) FROM pg_class c WHERE c.oid = 'pixcrawler.chunks'::regclass"
        " OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'pixcrawler.chunks'::regclass)"
    )
    return int(session.scalar(text(chunks_and_indexes % counted)) or 0)

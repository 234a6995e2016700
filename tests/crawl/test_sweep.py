"""The sweep of crawl jobs: everything lost is found once, and one bad job does not stop the others."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import ledger
import pytest
from doubles import (
    actions,
    first,
    last_details,
    log_of,
    make_job,
    query,
    start,
    status,
)
from ledger import at_once

from pixcrawler_worker.crawl import options, planner
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.jobs import ended_processes, sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime, owner

NOW = timedelta(0)


@pytest.fixture(autouse=True)
def invariants(runtime: Runtime) -> Iterator[None]:
    """A sweep looks at all jobs: only those of the test are there, and after it the ledger's invariants hold."""
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs")
    yield
    with runtime.sessions.begin() as checked:
        for (job_id,) in query(runtime, "SELECT id FROM crawl_jobs"):
            ledger.check_invariants(checked, job_id)


def urls(count: int) -> list[str]:
    return [f"https://example.org/{number}.jpg" for number in range(count)]


def dispatched(swept: sweeper.Swept) -> list[int]:
    return sorted(message.chunk_id for message in swept.messages)


def sweep(runtime: Runtime) -> sweeper.Swept:
    return sweeper.sweep(runtime, JOB_KINDS.values())


def complete(runtime: Runtime, chunk_id: int) -> None:
    """Finish a chunk that brings nothing, and lose the conclusion."""
    held = ledger.claim(runtime.sessions, chunk_id)
    result = {"offered": 0, "stored": 0, "left": [], "more": False, "reasons": {}}
    with runtime.sessions.begin() as session:
        chunks.finish(session, held, result=result, gains={})


def settled(runtime: Runtime, **changes: object) -> Runtime:
    return replace(runtime, settings=runtime.settings.model_copy(update=changes))


def test_a_sweep_does_nothing_when_nothing_is_lost(runtime: Runtime) -> None:
    assert sweep(runtime).idle
    ref, messages = start(runtime, urls(4), chunk_size=2)
    ledger.claim(runtime.sessions, messages[0].chunk_id)
    make_job(runtime)
    rows = "SELECT * FROM crawl_jobs, pixcrawler.chunks WHERE crawl_job_id = :id ORDER BY crawl_jobs.id, seq"
    before = query(runtime, rows, id=ref.id)
    assert sweep(runtime) == sweeper.Swept()
    assert query(runtime, rows, id=ref.id) == before


# Expired leases


def test_a_chunk_with_an_expired_lease_is_reaped_and_dispatched_again(runtime: Runtime) -> None:
    ref, messages = start(runtime, urls(2), chunk_size=1)
    stale, _ = (ledger.claim(runtime.sessions, message.chunk_id) for message in messages)
    ledger.expire_lease(runtime.sessions, stale.chunk_id)
    swept = sweep(runtime)
    assert (swept.reaped, dispatched(swept)) == (1, [stale.chunk_id])
    assert ledger.states_of(runtime.sessions, ref) == [ChunkState.QUEUED, ChunkState.RUNNING]
    assert sweep(runtime).idle


def test_a_chunk_whose_lease_expires_twice_fails_and_ends_its_job(runtime: Runtime) -> None:
    ref, (message,) = start(runtime, urls(1), max_rounds=1)
    for turn in range(2):
        ledger.claim(runtime.sessions, message.chunk_id, owner=str(turn))
        ledger.expire_lease(runtime.sessions, message.chunk_id)
        assert sweep(runtime).reaped == 1
    assert ledger.states_of(runtime.sessions, ref) == [ChunkState.FAILED]
    assert status(runtime, ref) is JobStatus.FAILED
    assert last_details(runtime, ref)["errors"] == {"the lease expired (2 of this chunk so far)": 1}


def test_the_lease_of_a_dead_process_is_found_by_the_id_of_its_task(runtime: Runtime) -> None:
    _, (message,) = start(runtime, urls(1))
    assert not ended_processes.expire_lease(runtime, message.task_id, ended=lambda _: True)
    ledger.claim(runtime.sessions, message.chunk_id, owner=owner(message.chunk_id))
    assert not ended_processes.expire_lease(runtime, "no-uuid", ended=lambda _: True)
    assert sweep(runtime).idle
    assert ended_processes.expire_lease(runtime, message.task_id, ended=lambda pid: pid == os.getpid())
    assert dispatched(sweep(runtime)) == [message.chunk_id]


def test_a_late_report_of_a_dead_process_does_not_affect_the_next_attempt(runtime: Runtime) -> None:
    # Both attempts are runs of one task. The first one's process is dead, the second one's is not.
    ref, (message,) = start(runtime, urls(1))
    ledger.claim(runtime.sessions, message.chunk_id, owner="elsewhere:1:a")
    ledger.expire_lease(runtime.sessions, message.chunk_id)
    assert sweep(runtime).reaped == 1
    ledger.claim(runtime.sessions, message.chunk_id, owner=owner(message.chunk_id))
    assert not ended_processes.expire_lease(runtime, message.task_id, ended=lambda pid: pid != os.getpid())
    assert sweep(runtime).reaped == 0
    assert ledger.states_of(runtime.sessions, ref) == [ChunkState.RUNNING]


@pytest.mark.parametrize("held_by", ["elsewhere:{pid}:a", "no owner at all", ""])
def test_leases_of_other_machines_are_kept(runtime: Runtime, held_by: str) -> None:
    _, (message,) = start(runtime, urls(1))
    ledger.claim(runtime.sessions, message.chunk_id, owner=held_by.format(pid=os.getpid()))
    assert not ended_processes.expire_lease(runtime, message.task_id, ended=lambda _: True)


# Rows that others wrote to


def test_chunks_of_a_job_that_was_cancelled_by_hand_are_dropped(runtime: Runtime) -> None:
    ref, messages = start(runtime, urls(3), chunk_size=1)
    ledger.claim(runtime.sessions, messages[0].chunk_id)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET status = 'cancelled' WHERE id = :id", id=ref.id)
    assert sweep(runtime).dropped == 3
    assert ledger.states_of(runtime.sessions, ref) == [ChunkState.CANCELLED] * 3
    assert ledger.crawl_job(runtime.sessions, ref).active_chunks == 0
    assert sweep(runtime).idle


@pytest.mark.parametrize("cancelled", [False, True], ids=["running", "cancelled"])
def test_overwritten_counters_are_repaired_before_they_are_counted_with(runtime: Runtime, *, cancelled: bool) -> None:
    ref, messages = start(runtime, urls(3), chunk_size=1)
    other, _ = start(runtime, urls(1))
    for message in messages[:2]:
        ledger.claim(runtime.sessions, message.chunk_id)
    ledger.expire_lease(runtime.sessions, messages[0].chunk_id)
    lie = "active_chunks = 0, failed_chunks = 2" + (", status = 'cancelled'" if cancelled else "")
    ledger.execute(runtime.sessions, f"UPDATE crawl_jobs SET {lie} WHERE id = :id", id=ref.id)
    assert sweep(runtime).repaired == 1
    entry = next(entry for entry in log_of(runtime, ref) if entry.action == "crawl_job.repaired")
    assert ((entry.metadata_ or {})["was"]["active_chunks"], (entry.metadata_ or {})["is"]["active_chunks"]) == (0, 2)
    expected = [ChunkState.QUEUED, ChunkState.RUNNING, ChunkState.QUEUED]
    assert ledger.states_of(runtime.sessions, ref) == ([ChunkState.CANCELLED] * 3 if cancelled else expected)
    assert sweep(runtime).idle
    assert status(runtime, other) is JobStatus.RUNNING


# Lost messages


def kept_pending(runtime: Runtime, **values: Any) -> JobRef:
    """A job as the command line leaves it when the broker is away."""
    ref = make_job(runtime, **values)
    with runtime.sessions.begin() as session:
        planner.record_options(runtime, session, ref.id, options.parse({"urls": urls(2), "chunk_size": 1}))
    return ref


def long_ago(runtime: Runtime, what: str, interval: str) -> None:
    table = {"requested_at": "crawl_plans", "dispatched_at": "chunks"}[what]
    ledger.execute(
        runtime.sessions, f"UPDATE pixcrawler.{table} SET {what} = clock_timestamp() - interval '{interval}'"
    )


def test_a_requested_job_is_started_when_its_message_is_lost(runtime: Runtime) -> None:
    ref, unasked = kept_pending(runtime), make_job(runtime)
    assert sweep(runtime).idle, "its message may still be under way"
    long_ago(runtime, "requested_at", "1 min")
    swept = sweep(runtime)
    assert (swept.started, dispatched(swept)) == (1, ledger.ids_of(runtime.sessions, ref))
    assert (status(runtime, ref), status(runtime, unasked)) == (JobStatus.RUNNING, JobStatus.PENDING)
    assert sweep(runtime).idle


def test_pending_rows_are_started_without_a_message_when_configured(runtime: Runtime) -> None:
    unasked = make_job(runtime)
    eager = settled(runtime, start_pending=True, gallery_url="https://example.org/")
    complete = make_job(runtime, keywords={"keywords": ["cat"], "options": {}})
    assert sweep(eager).idle, "their messages may still be under way"
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET created_at = created_at - interval '61 s'")
    swept = sweep(eager)
    assert (swept.started, status(runtime, complete)) == (1, JobStatus.RUNNING)
    assert sweep(eager).idle, "its message alone has the options"
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET created_at = created_at - interval '240 s'")
    swept = sweep(eager)
    assert (swept.started, status(runtime, unasked)) == (1, JobStatus.RUNNING)
    assert dispatched(swept) == ledger.ids_of(runtime.sessions, unasked)
    assert sweep(runtime).idle


def test_a_lost_message_is_sent_again_after_growing_intervals(runtime: Runtime) -> None:
    ref, (message,) = start(runtime, urls(1))
    lease = runtime.settings.lease
    for patience in (1, 2, 4, 8, 16, 16, 16):
        long_ago(runtime, "dispatched_at", f"{patience * lease.total_seconds() - 5} s")
        assert sweep(runtime).idle
        long_ago(runtime, "dispatched_at", f"{patience * lease.total_seconds() + 1} s")
        swept = sweep(runtime)
        assert (swept.redispatched, dispatched(swept)) == (1, [message.chunk_id])
        assert sweep(runtime).idle
    assert ledger.states_of(runtime.sessions, ref) == [ChunkState.QUEUED]


def test_after_an_outage_messages_are_sent_in_batches(runtime: Runtime) -> None:
    wide = settled(runtime, dispatch_window=1000)
    ref, _ = start(wide, urls(620), job={"max_images": 620}, chunk_size=1)
    long_ago(runtime, "dispatched_at", "1 h")
    ids = ledger.ids_of(runtime.sessions, ref)
    assert dispatched(sweep(wide)) == ids[:500]
    assert dispatched(sweep(wide)) == ids[500:]
    assert sweep(wide).idle


def test_chunks_are_dispatched_up_to_the_window(runtime: Runtime) -> None:
    narrow = settled(runtime, dispatch_window=3)
    ref, messages = start(narrow, urls(8), chunk_size=1)
    ids = ledger.ids_of(runtime.sessions, ref)
    assert [message.chunk_id for message in messages] == ids[:3]
    assert sweep(narrow).idle
    complete(runtime, ids[0])
    ledger.claim(runtime.sessions, ids[1])
    assert dispatched(sweep(narrow)) == ids[3:4]
    wider = settled(runtime, dispatch_window=5)
    assert dispatched(sweep(wider)) == ids[4:6]
    assert sweep(wider).idle


def test_a_released_chunk_is_dispatched_when_it_is_due(runtime: Runtime) -> None:
    ref, (message,) = start(runtime, urls(1))
    held = ledger.claim(runtime.sessions, message.chunk_id)
    with runtime.sessions.begin() as session:
        chunks.release(session, held, error="busy", jitter=0.5)
    assert sweep(runtime).idle
    ledger.make_due(runtime.sessions, ref)
    assert dispatched(sweep(runtime)) == [message.chunk_id]


@pytest.mark.parametrize("more", [False, True])
def test_a_job_whose_conclusion_was_lost_is_concluded(runtime: Runtime, *, more: bool) -> None:
    ref, messages = start(runtime, urls(4), job={"max_images": 2}, chunk_size=2)
    if more:
        held = ledger.claim(runtime.sessions, first(messages).chunk_id)
        result = {"offered": 2, "stored": 0, "left": [], "more": True, "reasons": {"not_found": 2}}
        with runtime.sessions.begin() as session:
            chunks.finish(session, held, result=result, gains={})
    else:
        complete(runtime, first(messages).chunk_id)
    swept = sweep(runtime)
    assert swept.concluded == 1
    if more:
        assert dispatched(swept) == ledger.ids_of(runtime.sessions, ref)[1:]
        assert status(runtime, ref) is JobStatus.RUNNING
    else:
        assert (dispatched(swept), status(runtime, ref)) == ([], JobStatus.COMPLETED)
    assert sweep(runtime).idle


def test_two_sweeps_at_once_do_each_thing_once(runtime: Runtime) -> None:
    lost, (sent, *_) = start(settled(runtime, dispatch_window=1), urls(3), job={"max_images": 3}, chunk_size=1)
    stale, (message,) = start(runtime, urls(1))
    ledger.claim(runtime.sessions, message.chunk_id)
    ledger.expire_lease(runtime.sessions, message.chunk_id)
    ended, (last,) = start(runtime, urls(1))
    complete(runtime, last.chunk_id)
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.chunks SET dispatched_at = dispatched_at - interval '1 h' WHERE id = :id",
        id=sent.chunk_id,
    )
    pending = kept_pending(runtime)
    long_ago(runtime, "requested_at", "1 min")
    cancelled, _ = start(runtime, urls(2), chunk_size=1)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET status = 'cancelled' WHERE id = :id", id=cancelled.id)

    swept = at_once(*[partial(sweep, runtime)] * 4)
    again = sweep(runtime)  # what was left because the other sweep was at that step
    messages = [chunk_id for each in (*swept, again) for chunk_id in dispatched(each)]
    expected = [*ledger.ids_of(runtime.sessions, lost), message.chunk_id, *ledger.ids_of(runtime.sessions, pending)]
    assert sorted(messages) == sorted(expected)
    assert sum(each.reaped for each in swept) == 1
    assert sum(each.dropped for each in swept) == 2
    assert actions(runtime, ended) == ["started", "completed"]
    assert actions(runtime, pending) == ["started"]
    assert status(runtime, stale) is JobStatus.RUNNING
    assert sweep(runtime).idle


# Bad jobs


def test_one_job_that_cannot_be_concluded_does_not_stop_the_others(runtime: Runtime) -> None:
    bad, (mine,) = start(runtime, urls(1))
    good, (theirs,) = start(runtime, urls(1))
    complete(runtime, mine.chunk_id)
    complete(runtime, theirs.chunk_id)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET keywords = '{}', max_images = 0 WHERE id = :id", id=bad.id)
    sweep(runtime)
    assert (status(runtime, bad), status(runtime, good)) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
    assert "max_images must be above 0" in last_details(runtime, bad)["reason"]


def test_one_job_whose_row_is_locked_does_not_stop_the_others(runtime: Runtime) -> None:
    held, (mine,) = start(runtime, urls(1))
    good, (theirs,) = start(runtime, urls(1))
    complete(runtime, mine.chunk_id)
    complete(runtime, theirs.chunk_id)
    # The effect of a lock that outlasts all tries, without the wait.
    ledger.execute(
        runtime.sessions,
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'lock_not_available', MESSAGE = 'held'; END $$",
    )
    ledger.execute(
        runtime.sessions,
        "CREATE TRIGGER held BEFORE UPDATE ON crawl_jobs FOR EACH ROW"
        f" WHEN (OLD.id = {held.id}) EXECUTE FUNCTION hold()",
    )
    try:
        sweep(runtime)
    finally:
        ledger.execute(runtime.sessions, "DROP FUNCTION hold CASCADE")
    assert (status(runtime, held), status(runtime, good)) == (JobStatus.RUNNING, JobStatus.COMPLETED)
    sweep(runtime)
    assert status(runtime, held) is JobStatus.COMPLETED


def test_one_pending_job_that_cannot_be_planned_does_not_stop_the_others(runtime: Runtime) -> None:
    bad, good = kept_pending(runtime, keywords=[]), kept_pending(runtime)
    long_ago(runtime, "requested_at", "1 min")
    assert sweep(runtime).started == 2
    assert (status(runtime, bad), status(runtime, good)) == (JobStatus.FAILED, JobStatus.RUNNING)

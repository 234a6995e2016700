"""Times and numbers that a hand or another version wrote: the sweep goes on, and so do the chunk and its job."""

import ledger
import pytest
from factories import TABLES, make_job, start_job

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.jobs import submission, sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

TIMES = ("infinity", "-infinity", "294276-12-31 23:59:59+00", "4713-01-02 00:00:00+00 BC", "2999-01-01")
SMALL, INT = 2**15 - 1, 2**31 - 1
LATE = "dispatched_at = now() - interval '1 h'"
EXPIRED = "state = 'running', lease_until = now() - interval '1 s'"

#: What is written over an open chunk of a running job.
CHUNKS = (
    *(f"dispatched_at = '{time}', dispatch_count = 1" for time in TIMES),
    *(f"available_at = '{time}', dispatched_at = NULL" for time in TIMES),
    *(f"state = 'running', attempt = 1, lease_until = '{time}'" for time in TIMES),
    *(f"{LATE}, dispatch_count = {count}" for count in (INT, -INT - 1, -1, 1024)),
    *(f"{EXPIRED}, attempt = 1, crash_count = {count}" for count in (SMALL, -SMALL - 1, -1)),
    *(f"{EXPIRED}, attempt = {attempt}" for attempt in (SMALL, -SMALL - 1)),
    *(f"{LATE}, attempt = {attempt}, max_attempts = {limit}" for attempt, limit in ((7, 5), (SMALL, SMALL), (-9, 5))),
    *(f"{LATE}, max_attempts = {limit}" for limit in (0, -SMALL - 1, SMALL)),
    f"{LATE}, fence = {2**63 - 1}, generation = {INT}, seq = {INT}, owner = ''",
)


def sweep(runtime: Runtime) -> sweeper.Swept:
    swept = sweeper.sweep(runtime, JOB_KINDS.values())
    assert swept.failed == 0
    return swept


@pytest.mark.parametrize("written", CHUNKS)
def test_a_chunk_with_odd_times_and_numbers_is_sent_again_or_fails(
    runtime: Runtime, sessions: Sessions, written: str
) -> None:
    refs = [start_job(sessions, chunks=1, kind=table) for table in TABLES]
    ledger.execute(sessions, f"UPDATE pixcrawler.chunks SET {written}")
    beside = start_job(sessions, chunks=1)
    first = sweep(runtime)
    assert ledger.ids_of(sessions, beside)[0] in {message.chunk_id for message in first.messages}
    sent = {message.chunk_id for message in [*first.messages, *sweep(runtime).messages]}
    for ref in refs:
        (chunk,) = ledger.chunks_of(sessions, ref)
        assert chunk.id in sent or chunk.state == "failed", (ref, chunk.state, chunk.error)
        assert chunk.state == "queued" or chunk.error


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_chunks_of_jobs_that_were_ended_by_hand_are_never_sent_again_whatever_was_counted(
    runtime: Runtime, sessions: Sessions, table: JobTable
) -> None:
    ref = start_job(sessions, chunks=2, kind=table)
    ledger.execute(sessions, f"UPDATE pixcrawler.chunks SET {LATE}, dispatch_count = {INT}")
    ledger.execute(sessions, f"UPDATE {table.name}_jobs SET status = 'failed', completed_at = 'infinity'")
    assert (sweep(runtime).messages, sweep(runtime).messages) == ([], [])
    assert {chunk.state for chunk in ledger.chunks_of(sessions, ref)} == {"cancelled"}


@pytest.mark.parametrize("time", TIMES)
def test_a_pending_job_is_started_whatever_its_times_are(runtime: Runtime, sessions: Sessions, time: str) -> None:
    job_id = make_job(sessions)
    ledger.execute(
        sessions, f"UPDATE crawl_jobs SET created_at = '{time}', started_at = '{time}', completed_at = '{time}'"
    )
    ledger.execute(
        sessions,
        "INSERT INTO pixcrawler.crawl_plans (crawl_job_id, options, requested_at)"
        f" VALUES (:id, '{{\"sources\": [\"urls\"]}}', '{time}')",
        id=job_id,
    )
    assert sweep(runtime).started == 1
    assert ledger.scalar(sessions, "SELECT status FROM crawl_jobs WHERE id = :id", id=job_id) == "failed"


def test_counters_at_the_end_of_their_type_are_repaired(runtime: Runtime, sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=2)
    names = ("total_chunks", "active_chunks", "completed_chunks", "failed_chunks", "total_images", "downloaded_images")
    ledger.execute(sessions, f"UPDATE crawl_jobs SET progress = 100, {', '.join(f'{name} = {INT}' for name in names)}")
    assert sweep(runtime).repaired == 1
    chunk_id, _ = ledger.ids_of(sessions, ref)
    held = ledger.claim(sessions, chunk_id)
    assert ledger.finish(sessions, held)
    assert sweep(runtime).repaired == 0


@pytest.mark.parametrize("task_ids", ["{}", '{"a": 1}', "5", "null", '"a"', "[[1]]"])
def test_task_ids_that_are_no_list_do_not_keep_a_job_from_its_chunks(
    runtime: Runtime, sessions: Sessions, task_ids: str
) -> None:
    job_id = make_job(sessions)
    ledger.execute(sessions, f"UPDATE crawl_jobs SET task_ids = '{task_ids}'")
    (message,) = submission.start(runtime, CRAWL, job_id, {"urls": ["https://example.org/a.jpg"]})
    assert ledger.scalar(sessions, "SELECT task_ids ? :id FROM crawl_jobs", id=message.task_id)

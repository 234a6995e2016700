"""The kept sums of a crawl job: exact after everything that changes results, and read in place of them."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import ledger
import pytest
from factories import start_job
from sqlalchemy import select, update

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import crawl_history, crawls, retention
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.private_models import CrawlPlan
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.domain.crawl_history import CrawlHistory

_PLAN = "INSERT INTO pixcrawler.crawl_plans (crawl_job_id, round, cleaned_at) VALUES ({job}, 1, now())"
#: Chunks that have ended: the page and the reasons of each are those of its number.
_END = """
    UPDATE pixcrawler.chunks SET state = '{state}', attempt = 1, payload = jsonb_build_object('source', 'urls',
            'query', '', 'label', 'cat', 'page', seq, 'page_size', 10, 'quota', 10),
        result = jsonb_build_object('offered', 9, 'stored', 1, 'left', jsonb_build_array(), 'more', true,
            'reasons', jsonb_build_object('not_found', seq, 'timeout', 2), 'retriable', '{{"3": "timeout"}}'::jsonb)
        WHERE crawl_job_id = {job} AND state = 'queued';
    UPDATE crawl_jobs SET {state}_chunks = {state}_chunks + {chunks} WHERE id = {job}
"""
_COMPLETED = "UPDATE crawl_jobs SET status = 'completed', progress = 100, completed_at = now() WHERE id = {job}"


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> Iterator[None]:
    ledger.execute(sessions, "DELETE FROM crawl_jobs")
    yield
    with sessions.begin() as session:
        for job_id in session.scalars(select(CrawlPlan.crawl_job_id)).all():
            ledger.check_invariants(session, job_id)


def run(sessions: Sessions, ref: JobRef, statements: str, **values: object) -> None:
    for statement in statements.split(";"):
        ledger.execute(sessions, statement.format(job=ref.id, **values))


def job_with(sessions: Sessions, chunks: int = 3, *, state: str = "completed") -> JobRef:
    """A running job whose first round has ended and is not summed up."""
    ref = start_job(sessions, chunks=chunks)
    run(sessions, ref, _PLAN)
    run(sessions, ref, _END, state=state, chunks=chunks)
    return ref


def another_round(sessions: Sessions, ref: JobRef, *, chunks: int = 2) -> None:
    with sessions.begin() as session:
        jobs.lock(session, ref)
        jobs.add_chunks(session, ref, [{"number": number} for number in range(chunks)])
        crawls.next_round(session, ref.id)
    run(sessions, ref, _END, state="completed", chunks=chunks)


def sum_up(sessions: Sessions, ref: JobRef) -> CrawlHistory:
    with sessions.begin() as session:
        jobs.lock(session, ref)
        return crawl_history.sum_up(session, ref.id, round_=crawls.load(session, ref.id).round)


def kept(sessions: Sessions, ref: JobRef) -> tuple[int, dict[str, int]] | None:
    """How many chunks are in the kept sums, and their reasons."""
    with sessions.begin() as session:
        found = session.scalar(select(CrawlPlan.history).where(CrawlPlan.crawl_job_id == ref.id))
    return None if found is None else (found["before"], found["reasons"])


def reasons(sessions: Sessions, ref: JobRef) -> dict[str, int]:
    """The reasons as they are shown, which must be those in the results of all chunks."""
    with sessions.begin() as session:
        shown = crawl_history.reasons(session, ref.id)
    of_chunks: Counter[str] = Counter()
    for chunk in ledger.chunks_of(sessions, ref):
        of_chunks.update(stored_json.counts((chunk.result or {}).get("reasons")))
    assert shown == dict(of_chunks)
    return shown


def test_each_round_adds_its_chunks_to_the_sums(sessions: Sessions) -> None:
    ref = job_with(sessions, 3)
    assert kept(sessions, ref) is None
    assert reasons(sessions, ref) == {"not_found": 0 + 1 + 2, "timeout": 6}
    first = sum_up(sessions, ref)
    assert kept(sessions, ref) == (3, {"not_found": 3, "timeout": 6})
    another_round(sessions, ref)
    assert reasons(sessions, ref) == {"not_found": 10, "timeout": 10}
    assert kept(sessions, ref) == (3, {"not_found": 3, "timeout": 6})
    second = sum_up(sessions, ref)
    assert kept(sessions, ref) == (5, reasons(sessions, ref))
    assert [one.of("", "cat", "urls").next_page for one in (first, second)] == [3, 5]
    assert second.of("", "cat", "urls").stored == 5
    # Once more, as after a commit without an answer.
    assert sum_up(sessions, ref) == second


def test_chunks_that_are_in_the_sums_are_not_read_again(sessions: Sessions) -> None:
    ref = job_with(sessions)
    sum_up(sessions, ref)
    ledger.execute(sessions, f"UPDATE pixcrawler.chunks SET payload = '[]' WHERE crawl_job_id = {ref.id}")
    another_round(sessions, ref)
    assert sum_up(sessions, ref).of("", "cat", "urls").stored == 5


def test_what_failed_chunks_brought_before_counts(sessions: Sessions) -> None:
    ref = job_with(sessions, state="failed")
    history = sum_up(sessions, ref).of("", "cat", "urls")
    assert (history.failures, history.stored) == (3, 3)
    assert reasons(sessions, ref) == {"not_found": 3, "timeout": 6}


def test_a_retry_sums_up_again_what_it_changes(sessions: Sessions) -> None:
    ref = job_with(sessions)
    sum_up(sessions, ref)
    run(sessions, ref, _COMPLETED)
    with sessions.begin() as session:
        jobs.retry(session, ref, has_more=True)
        crawls.reopened(session, ref)
    assert kept(sessions, ref) is None
    assert reasons(sessions, ref) == {"not_found": 3, "timeout": 3}
    again = sum_up(sessions, ref)
    assert again.of("", "cat", "urls").left == {0: (3,), 1: (3,), 2: (3,)}
    assert kept(sessions, ref) == (3, {"not_found": 3, "timeout": 3})


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_retry_gives_what_was_rejected_for_now_to_the_chunk_of_its_page_that_runs_again(
    sessions: Sessions, state: str
) -> None:
    """Also when that chunk has brought nothing yet: what it leaves over takes the place of what was left before it."""
    ref = job_with(sessions, 1)
    with sessions.begin() as session:
        jobs.lock(session, ref)
        payload = ledger.chunks_of(sessions, ref)[0].payload
        jobs.add_chunks(session, ref, [payload | {"only": [5, 8]}])
    run(
        sessions,
        ref,
        "UPDATE pixcrawler.chunks SET state = '{state}' WHERE crawl_job_id = {job} AND seq = 1",
        state=state,
    )
    run(sessions, ref, _COMPLETED)
    if state == "failed":
        run(sessions, ref, "UPDATE crawl_jobs SET failed_chunks = 1 WHERE id = {job}")
    with sessions.begin() as session:
        jobs.retry(session, ref)
        crawls.reopened(session, ref)
    first, again = ledger.chunks_of(sessions, ref)
    assert (again.state, again.payload["only"], again.result) == ("queued", [3, 5, 8], None)
    assert (first.result or {})["reasons"] == {"timeout": 1}


def test_sums_are_not_used_after_a_retry_by_a_version_that_knows_none(sessions: Sessions) -> None:
    ref = job_with(sessions)
    sum_up(sessions, ref)
    with sessions.begin() as session:
        session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == ref.id).values(round=0))
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET result = jsonb_set(result, '{reasons}', '{\"blocked\": 1}')"
        f" WHERE crawl_job_id = {ref.id}",
    )
    assert reasons(sessions, ref) == {"blocked": 3}
    sum_up(sessions, ref)
    assert kept(sessions, ref) == (3, {"blocked": 3})


@pytest.mark.parametrize("history", ["[]", "{}", '{"before": 3, "round": 1, "reasons": {"timeout": 1}}', '"x"', "null"])
def test_sums_that_cannot_be_read_are_made_again(sessions: Sessions, history: str) -> None:
    ref = job_with(sessions)
    with sessions.begin() as session:
        session.connection().exec_driver_sql("UPDATE pixcrawler.crawl_plans SET history = %s::jsonb", (history,))
    assert sum_up(sessions, ref).of("", "cat", "urls").stored == 3
    assert kept(sessions, ref) == (3, reasons(sessions, ref))


def test_chunks_that_were_deleted_count_once(sessions: Sessions) -> None:
    ref = job_with(sessions)
    sum_up(sessions, ref)
    another_round(sessions, ref)
    ledger.execute(
        sessions, f"UPDATE pixcrawler.chunks SET result = result - 'retriable' WHERE crawl_job_id = {ref.id}"
    )
    run(sessions, ref, _COMPLETED)
    before = reasons(sessions, ref)
    with sessions.begin() as session:
        assert retention.delete_chunks(session, ref.id, timedelta(0), list_source=planner.URLS) == 4
    assert reasons(sessions, ref) == before == {"not_found": 10, "timeout": 10}
    ledger.execute(sessions, f"DELETE FROM crawl_jobs WHERE id = {ref.id}")

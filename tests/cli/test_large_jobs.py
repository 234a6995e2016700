"""What is read of a job with many chunks: as much as of one with few."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import ledger
import psycopg
import pytest
from calls import call
from factories import start_job

from pixcrawler_worker.db import crawl_history
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions

#: Chunks that are in the kept sums.
_ENDED = 20_000
_PLAN = "INSERT INTO pixcrawler.crawl_plans (crawl_job_id, round) VALUES ({job}, 1)"
#: Every thousandth one failed.
_CHUNKS = """
    INSERT INTO pixcrawler.chunks (crawl_job_id, seq, payload, max_attempts, task_id, state, result, error)
    SELECT {job}, n, jsonb_build_object('source', 'urls', 'query', '', 'label', 'cat', 'page', n, 'page_size', 100,
            'quota', 100), 5, gen_random_uuid(), CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'completed' END,
        jsonb_build_object('offered', 90, 'stored', 80, 'left', jsonb_build_array(), 'more', true,
            'reasons', jsonb_build_object('not_found', 9, 'timeout', n % 7)),
        CASE WHEN n % 1000 = 0 THEN 'it was too large' END
    FROM generate_series({first}, {last}) n;
    UPDATE crawl_jobs SET total_chunks = {last} + 1, failed_chunks = {last} / 1000 + 1,
        completed_chunks = {last} - {last} / 1000 WHERE id = {job}
"""
_CANDIDATES = """
    INSERT INTO pixcrawler.crawl_candidates (crawl_job_id, url_hash, retriable, reason)
    SELECT {job}, sha256(n::text::bytea), n % 1000 = 0, CASE WHEN n % 10 = 0 THEN 'timeout' END
    FROM generate_series(1, 20000) n
"""
_READ = """
    SELECT coalesce(sum(seq_scan), 0)::int, coalesce(sum(seq_tup_read), 0)::int,
        coalesce(sum(idx_tup_fetch), 0)::int
    FROM pg_stat_user_tables WHERE relname IN ('chunks', 'crawl_candidates')
"""


@dataclass(frozen=True)
class Reads:
    """What all sessions together have read of the two large tables."""

    scans: int
    scanned: int
    fetched: int


def reads(url: str) -> Reads:
    """Return the numbers once they do not change any more: sessions report them with a delay."""
    before, until = None, time.monotonic() + 30
    while time.monotonic() < until:
        with psycopg.connect(url, autocommit=True) as connection:
            found = Reads(*connection.execute(_READ.encode()).fetchone() or (0, 0, 0))
        if found == before:
            return found
        before = found
        time.sleep(1.5)
    raise AssertionError("something else reads the tables")


@pytest.fixture
def job(sessions: Sessions, database_url: str) -> JobRef:
    """A job with many ended chunks in its sums, and a few that ended after them."""
    ledger.execute(sessions, "DELETE FROM profiles")
    ref = start_job(sessions, chunks=0)
    for statement in (_PLAN, *_CHUNKS.format(job="{job}", first=0, last=_ENDED - 1).split(";"), _CANDIDATES):
        ledger.execute(sessions, statement.format(job=ref.id))
    with sessions.begin() as session:
        jobs.lock(session, ref)
        crawl_history.sum_up(session, ref.id, round_=1)
    for statement in _CHUNKS.format(job=ref.id, first=_ENDED, last=_ENDED + 9).split(";"):
        ledger.execute(sessions, statement)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return ref


def test_showing_a_job_scans_neither_its_chunks_nor_its_candidates(
    env: Mapping[str, str], database_url: str, job: JobRef
) -> None:
    before = reads(database_url)
    shown = json.loads(call(env, "jobs", "show", "--json", str(job.id)).stdout)
    after = reads(database_url)
    total = _ENDED + 10
    assert shown["reasons"] == {"not_found": 9 * total, "timeout": sum(n % 7 for n in range(total))}
    assert shown["chunks"] == {"completed": total - 21, "failed": 21}
    assert shown["errors"] == {"it was too large": 21}
    assert shown["retriable"] == 20
    assert (after.scans, after.scanned) == (before.scans, before.scanned)
    # The chunks that ended after the last round, those that failed, and what a retry would try again.
    assert 10 <= after.fetched - before.fetched <= 100


def test_the_next_round_reads_the_chunks_of_the_last_one(sessions: Sessions, database_url: str, job: JobRef) -> None:
    before = reads(database_url)
    with sessions.begin() as session:
        jobs.lock(session, job)
        history = crawl_history.sum_up(session, job.id, round_=1)
    after = reads(database_url)
    assert history.of("", "cat", "urls").next_page == _ENDED + 10
    assert (after.scans, after.scanned) == (before.scans, before.scanned)
    assert 10 <= after.fetched - before.fetched <= 100

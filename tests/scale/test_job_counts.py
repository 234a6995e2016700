"""What reading the numbers for metrics costs in a database with two million chunks."""

import time

import factories
import ledger
import psycopg
import pytest
from factories import TABLES
from sqlalchemy import Engine

from pixcrawler_worker.db import job_counts
from pixcrawler_worker.db.session import Sessions

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]

_CHUNKS = """
    INSERT INTO pixcrawler.chunks (crawl_job_id, seq, payload, max_attempts, task_id, state, result)
    SELECT {job}, n, jsonb_build_object('query', md5(n::text)), 5, gen_random_uuid(), '{state}',
        CASE '{state}' WHEN 'completed' THEN jsonb_build_object('reasons', md5(n::text)) END
    FROM generate_series(1, 1000000) n
"""


def test_the_numbers_of_two_million_chunks_and_a_hundred_thousand_jobs_are_read_in_time(
    engine: Engine, database_url: str, sessions: Sessions
) -> None:
    queued, completed = (factories.start_job(sessions, chunks=0).id for _ in range(2))
    ledger.execute(sessions, "SET LOCAL statement_timeout = 0; " + _CHUNKS.format(job=queued, state="queued"))
    ledger.execute(sessions, "SET LOCAL statement_timeout = 0; " + _CHUNKS.format(job=completed, state="completed"))
    ledger.execute(
        sessions,
        "INSERT INTO crawl_jobs (project_id, name, keywords, status) SELECT project_id, 'x', '[]',"
        " CASE WHEN n % 10 = 0 THEN 'pending' ELSE 'completed' END"
        " FROM crawl_jobs, generate_series(1, 100000) n WHERE crawl_jobs.id = " + str(queued),
    )
    for vacuumed in (False, True):
        if vacuumed:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        began = time.monotonic()
        found = job_counts.read(engine, TABLES)
        seconds = time.monotonic() - began
        assert seconds < 5
    assert found.left_out == set()
    assert found.chunks["crawl", "queued"] == 1_000_000
    assert found.jobs["crawl", "pending"] == 10_000
    assert seconds < 1

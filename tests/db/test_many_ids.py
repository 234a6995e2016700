"""Statements about more rows than a statement has parameters: 65,535 in PostgreSQL's protocol."""

import ledger
from factories import make_job, start_job

from pixcrawler_worker.db import images
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.session import Sessions

MANY = 70_000


def test_the_rows_of_any_number_of_images_are_deleted(sessions: Sessions) -> None:
    make_job(sessions)
    with sessions.begin() as session:
        assert images.delete_images(session, range(1_000_000, 1_000_000 + MANY)) == 0


def test_a_job_with_any_number_of_chunks_is_cancelled(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=1)
    statement = (
        "INSERT INTO pixcrawler.chunks (crawl_job_id, seq, payload, state, task_id, max_attempts)"
        " SELECT :id, number, '{}', 'queued', gen_random_uuid(), 3 FROM generate_series(1, :many) AS number"
    )
    ledger.execute(sessions, statement, id=ref.id, many=MANY)
    with sessions.begin() as session:
        jobs.cancel(session, ref)
    with sessions.begin() as session:
        assert jobs.drop_chunks(session, ref) == MANY + 1

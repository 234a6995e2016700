"""The status of a job in one line."""

import ledger
import pytest
from factories import start_job

from pixcrawler_worker.cli import job_status
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.errors import PermanentError


def view(sessions: Sessions, job_id: int) -> CrawlView:
    with sessions.begin() as session:
        found = job_views.job(session, CrawlView, job_id)
    assert found is not None
    return found


def test_the_error_on_a_missing_job_says_how_to_list_jobs(sessions: Sessions) -> None:
    with pytest.raises(PermanentError, match="there is no crawl job 424242; `pixcrawler jobs list` lists"):
        job_status.require(sessions, CrawlView, 424242)


def test_the_status_of_a_job_is_one_line(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=4, max_images=7)
    assert job_status.line(view(sessions, ref.id)) == f"job {ref.id} running: 0 of 7 images, 0 of 4 chunks"
    ledger.execute(
        sessions,
        "UPDATE crawl_jobs SET status = 'failed', failed_chunks = 4, completed_at = started_at + interval '2.25 s'"
        " WHERE id = :id",
        id=ref.id,
    )
    output = job_status.line(view(sessions, ref.id))
    assert output == f"job {ref.id} failed in 2.2 s: 0 of 7 images, 0 of 4 chunks, 4 failed"

from datetime import datetime

import ledger
from factories import make_job, start_job

from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import JobStatus


def test_a_view_has_the_columns_of_the_row(sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3, name="Kätzchen", keywords=["cat", {"query": "dog"}], max_images=7)
    ledger.finish(sessions, ledger.claim(sessions, ledger.ids_of(sessions, ref)[0]))
    with sessions.begin() as session:
        view = job_views.job(session, CrawlView, ref.id)
    assert view is not None
    assert (view.id, view.name, view.status, view.progress) == (ref.id, "Kätzchen", "running", 33)
    assert (view.keywords, view.max_images) == (["cat", {"query": "dog"}], 7)
    assert (view.total_chunks, view.active_chunks, view.completed_chunks, view.failed_chunks) == (3, 0, 1, 0)
    assert view.started_at is not None
    assert view.completed_at is None


def test_a_view_can_be_written_as_json(sessions: Sessions) -> None:
    ref = start_job(sessions, max_images=7)
    with sessions.begin() as session:
        view = job_views.job(session, CrawlView, ref.id)
    assert view is not None
    shown = view.as_json()
    assert {type(value) for value in shown.values()} <= {int, str, list, type(None)}
    assert datetime.fromisoformat(shown["created_at"]) == view.created_at
    assert view.created_at.tzinfo is not None
    assert (shown["completed_at"], shown["keywords"], shown["max_images"]) == (None, ["cat"], 7)


def test_a_job_has_ended_in_every_status_but_two(sessions: Sessions) -> None:
    ended = {}
    for status in JobStatus:
        job_id = make_job(sessions, status=status)
        with sessions.begin() as session:
            view = job_views.job(session, CrawlView, job_id)
        assert view is not None
        ended[status] = view.ended
    assert [status for status in ended if not ended[status]] == [JobStatus.PENDING, JobStatus.RUNNING]


def test_a_missing_job_is_none(sessions: Sessions) -> None:
    with sessions.begin() as session:
        assert job_views.job(session, CrawlView, 2**30) is None


def test_the_newest_jobs_come_first(sessions: Sessions) -> None:
    ids = [make_job(sessions) for _ in range(4)]
    with sessions.begin() as session:
        assert [view.id for view in job_views.newest(session, CrawlView, limit=3)] == ids[:0:-1]


def test_chunks_are_counted_by_the_states_that_occur(sessions: Sessions) -> None:
    ref, other = start_job(sessions, chunks=4), start_job(sessions, chunks=2)
    ids = ledger.ids_of(sessions, ref)
    ledger.claim(sessions, ids[0])
    ledger.finish(sessions, ledger.claim(sessions, ids[1]))
    with sessions.begin() as session:
        assert chunk_results.states(session, ref) == {"queued": 2, "running": 1, "completed": 1}
        assert chunk_results.states(session, other) == {"queued": 2}
        assert chunk_results.states(session, JobRef(CRAWL_JOBS, 2**30)) == {}

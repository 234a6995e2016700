"""Which jobs the dataset of a job consists of."""

import ledger
import pytest
from factories import make_job, make_project

from pixcrawler_worker.db import extensions
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.errors import PermanentError


def test_a_chain_is_recorded_whole_and_replaced_when_it_is_recorded_again(sessions: Sessions) -> None:
    project = make_project(sessions)
    first, second, third = (make_job(sessions, project_id=project, status="completed") for _ in range(3))
    for job in (first, second, third):
        ledger.execute(sessions, "INSERT INTO pixcrawler.crawl_plans (crawl_job_id) VALUES (:job)", job=job)
    with sessions.begin() as session:
        extensions.record(session, second, first)
        extensions.record(session, third, second)
        assert extensions.bases(session, third) == [second, first]
        assert extensions.chain(session, third) == [first, second, third]
        extensions.record(session, third, None)
        assert extensions.chain(session, third) == [third]
        assert extensions.project_of(session, third) == project
        assert extensions.project_of(session, 1_000_000) is None


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_job_that_has_ended_can_be_extended_however_it_ended(sessions: Sessions, status: str) -> None:
    project = make_project(sessions)
    job = make_job(sessions, project_id=project, status=status)
    with sessions.begin() as session:
        extensions.check(session, job, project_id=project)
        with pytest.raises(PermanentError, match=f"there is no crawl job {job} in project {project + 1}"):
            extensions.check(session, job, project_id=project + 1)

"""Which jobs the dataset of a job consists of."""

import ledger
import pytest
from factories import make_image, make_job, make_project

from pixcrawler_worker.db import extensions, images
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


def test_a_dataset_has_images_when_any_job_of_its_chain_has(sessions: Sessions) -> None:
    project = make_project(sessions)
    first, second = (make_job(sessions, project_id=project, status="completed") for _ in range(2))
    ledger.execute(sessions, "INSERT INTO pixcrawler.crawl_plans (crawl_job_id) VALUES (:job)", job=second)
    with sessions.begin() as session:
        extensions.record(session, second, first)
        assert not extensions.has_images(session, second)
        images.insert_new(session, first, [make_image("of-the-first")])
        assert extensions.has_images(session, second)
        assert extensions.has_images(session, first)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_job_that_has_ended_can_be_extended_however_it_ended(sessions: Sessions, status: str) -> None:
    project = make_project(sessions)
    job = make_job(sessions, project_id=project, status=status)
    with sessions.begin() as session:
        extensions.check(session, job, project_id=project)
        with pytest.raises(PermanentError, match=f"there is no crawl job {job} in project {project + 1}"):
            extensions.check(session, job, project_id=project + 1)

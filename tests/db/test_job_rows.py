from functools import partial

import ledger
import pytest
from factories import make_project
from ledger import at_once
from sqlalchemy import select

from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.models import CrawlJob, Profile, Project
from pixcrawler_worker.db.session import Sessions, transact


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    ledger.execute(sessions, "DELETE FROM profiles")


def create(sessions: Sessions, project_id: int | None = None, name: str = "cats") -> int | None:
    return transact(
        sessions,
        lambda session: job_rows.create_crawl_job(
            session, name=name, keywords=["cat", "dog"], max_images=7, project_id=project_id
        ),
    )


def job(sessions: Sessions, job_id: int | None) -> CrawlJob:
    with sessions.begin() as session:
        return session.get_one(CrawlJob, job_id)


def projects(sessions: Sessions) -> list[tuple[str, str]]:
    with sessions.begin() as session:
        rows = session.execute(select(Project.name, Profile.email).join(Profile, Profile.id == Project.user_id))
        return [(project, email) for project, email in rows]


def test_a_job_is_pending_in_the_project_that_was_named(sessions: Sessions) -> None:
    project_id = make_project(sessions)
    created = job(sessions, create(sessions, project_id))
    assert (created.project_id, created.status, created.progress) == (project_id, "pending", 0)
    assert (created.name, created.keywords, created.max_images) == ("cats", ["cat", "dog"], 7)
    assert (created.total_chunks, created.task_ids) == (0, [])
    assert len(projects(sessions)) == 1


def test_a_missing_project_gets_no_job(sessions: Sessions) -> None:
    assert create(sessions, 2**30) is None
    assert projects(sessions) == []


def test_without_a_project_jobs_share_the_one_of_the_command_line(sessions: Sessions) -> None:
    first, second = (job(sessions, create(sessions)) for _ in range(2))
    assert first.project_id == second.project_id
    assert projects(sessions) == [("Command line", "command-line@pixcrawler.invalid")]


def test_the_first_jobs_of_several_command_lines_do_not_disturb_each_other(sessions: Sessions) -> None:
    created = at_once(*[partial(create, sessions)] * 6)
    assert len(set(created)) == 6
    assert {email for _, email in projects(sessions)} == {"command-line@pixcrawler.invalid"}


def test_a_name_that_is_too_long_is_truncated(sessions: Sessions) -> None:
    assert job(sessions, create(sessions, name="x" * 300)).name == "x" * 100

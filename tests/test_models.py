"""The models that an API imports; `tests/db/test_schema_document.py` compares them with the document."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import schema_document
from factories import make_job
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session

from pixcrawler_worker import models
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.models import ActivityLog, Base, CrawlJob, ExportJob, Image, Profile, Project, ValidationJob


@contextmanager
def statements_of(session: Session) -> Iterator[list[str]]:
    """Record the statements of a session: each one's first word and table."""
    recorded: list[str] = []
    connection = session.connection()

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        match = re.match(r"(\w+)(?:.*?\b(?:FROM|INTO))?\s+(\w+)", statement, re.DOTALL)
        assert match is not None
        recorded.append(" ".join(match.groups()))

    event.listen(connection, "before_cursor_execute", record)
    try:
        yield recorded
    finally:
        event.remove(connection, "before_cursor_execute", record)


def make_rows(sessions: Sessions) -> dict[type[Base], object]:
    """A row of every model, all below one profile; returns the primary keys."""
    job_id = make_job(sessions)
    with sessions.begin() as session:
        job = session.get_one(CrawlJob, job_id)
        owner = job.project.user
        rows = [
            owner,
            job.project,
            job,
            Image(crawl_job=job, original_url="https://example.org/1.jpg", filename="1.jpg"),
            ValidationJob(crawl_job=job, name="check"),
            ExportJob(crawl_job=job, user=owner, name="archive"),
            ActivityLog(user=owner, action="viewed"),
        ]
        session.add_all(rows)
        session.flush()
        return {type(row): row.id for row in rows}  # type: ignore[attr-defined]  # every model has it


def test_the_module_exports_the_documented_models() -> None:
    documented = {table.name for table in schema_document.read(schema_document.PATH.read_text()).tables}
    exported = [getattr(models, name) for name in models.__all__]
    assert {model.__tablename__ for model in exported if model is not Base} == documented


def test_relationships_lead_from_a_profile_to_all_rows_and_back(sessions: Sessions) -> None:
    ids = make_rows(sessions)
    with sessions.begin() as session:
        profile = session.get_one(Profile, ids[Profile])
        (project,) = profile.projects
        (job,) = project.crawl_jobs
        assert [image.crawl_job for image in job.images] == [job]
        assert [validation.crawl_job for validation in job.validation_jobs] == [job]
        assert [(export.crawl_job, export.user) for export in job.export_jobs] == [(job, profile)]
        assert [entry.user for entry in profile.activity_logs] == [profile]


#: Every parent with its collections.
_PARENTS: list[tuple[type[Base], tuple[str, ...]]] = [
    (Profile, ("projects", "activity_logs")),
    (Project, ("crawl_jobs",)),
    (CrawlJob, ("images", "validation_jobs", "export_jobs")),
]


@pytest.mark.parametrize("loaded", [False, True], ids=["not loaded", "loaded"])
@pytest.mark.parametrize(("parent", "collections"), _PARENTS, ids=lambda value: getattr(value, "__name__", ""))
def test_deleting_a_parent_is_one_statement_and_the_database_cascades(
    sessions: Sessions, parent: type[Base], collections: tuple[str, ...], *, loaded: bool
) -> None:
    ids = make_rows(sessions)
    with sessions.begin() as session:
        row = session.get_one(parent, ids[parent])
        if loaded:
            assert all(len(getattr(row, name)) == 1 for name in collections)
        with statements_of(session) as statements:
            session.delete(row)
            session.flush()
        assert statements == [f"DELETE {parent.__tablename__}"]
    models_below = list(ids)[list(ids).index(parent) : -1]
    with sessions.begin() as session:
        assert [session.get(model, ids[model]) for model in models_below] == [None] * len(models_below)
        entry = session.get_one(ActivityLog, ids[ActivityLog])
        assert entry.user_id == (None if parent is Profile else ids[Profile])


@pytest.mark.parametrize("model", [Profile, Project, CrawlJob, ValidationJob, ExportJob])
def test_an_update_returns_the_updated_at_of_the_trigger_without_another_statement(
    sessions: Sessions, model: type[Profile]
) -> None:
    ids = make_rows(sessions)
    with sessions.begin() as session:
        session.execute(update(model).where(model.id == ids[model]).values(updated_at="2001-02-03 04:05:06+00"))
        row = session.get_one(model, ids[model], populate_existing=True)
        assert row.updated_at.year == 2001
        with statements_of(session) as statements:
            row.created_at = row.updated_at
            session.flush()
            updated_at = row.updated_at
        assert statements == [f"UPDATE {model.__tablename__}"]
        assert updated_at.year > 2001
        assert session.scalar(select(model.updated_at).where(model.id == ids[model])) == updated_at


def test_importing_the_models_does_not_import_celery_or_an_http_client() -> None:
    code = "import sys, pixcrawler_worker.models; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"celery", "kombu", "aiohttp", "httpx", "PIL", "redis"}.isdisjoint(ran.stdout.split())

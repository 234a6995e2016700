"""The models that an API imports: relationships as documented, and cascades that stay the database's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from factories import make_job
from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

from pixcrawler_worker import models
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.models import ActivityLog, Base, CrawlJob, ExportJob, Image, Profile, Project, ValidationJob

DOCUMENT = (Path(__file__).parents[1] / "docs/database-schema.md").read_text()
MODELS: tuple[type[Base], ...] = (Profile, Project, CrawlJob, Image, ActivityLog, ValidationJob, ExportJob)
_SECTION = re.compile(r"^### \d+\. (\w+)$(.*?)^---$", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^- (One-to-Many|Many-to-One): (\w+)(?: \((\w+))?", re.MULTILINE)


def documented() -> set[tuple[str, str, str]]:
    """Table, direction and name of every relationship that the document lists."""
    return {
        (table, "ONETOMANY" if kind == "One-to-Many" else "MANYTOONE", name)
        for table, section in _SECTION.findall(DOCUMENT)
        for kind, name, _ in _LINE.findall(section.partition("**Relationships**")[2])
    }


def modeled() -> set[tuple[str, str, str]]:
    return {
        (str(model.__tablename__), relation.direction.name, relation.key)
        for model in MODELS
        for relation in inspect(model).relationships
    }


def test_the_models_have_exactly_the_documented_relationships() -> None:
    assert len(documented()) == 13
    assert modeled() == documented()


@pytest.mark.parametrize(
    ("table", "name", "target"),
    sorted(
        (table, name, target)
        for table, section in _SECTION.findall(DOCUMENT)
        for _, name, target in _LINE.findall(section.partition("**Relationships**")[2])
        if target
    ),
)
def test_a_relationship_leads_to_the_documented_model(table: str, name: str, target: str) -> None:
    (model,) = [model for model in MODELS if model.__tablename__ == table]
    assert inspect(model).relationships[name].mapper.class_ is getattr(models, target)


def test_they_lead_from_an_owner_to_everything_below_and_back(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    with sessions.begin() as session:
        job = session.get_one(CrawlJob, job_id)
        owner = job.project.user
        job.images.append(Image(original_url="https://example.org/1.jpg", filename="1.jpg"))
        job.validation_jobs.append(ValidationJob(name="check"))
        job.export_jobs.append(ExportJob(name="archive", user=owner))
        owner.activity_logs.append(ActivityLog(action="looked"))
    with sessions.begin() as session:
        profile = session.get_one(Profile, owner.id)
        (project,) = profile.projects
        (job,) = project.crawl_jobs
        assert [image.crawl_job for image in job.images] == [job]
        assert [validation.crawl_job for validation in job.validation_jobs] == [job]
        assert [export.user for export in job.export_jobs] == [profile]
        assert [entry.user for entry in profile.activity_logs] == [profile]


@pytest.mark.parametrize("loaded", [False, True], ids=["not loaded", "loaded"])
def test_deleting_a_parent_is_one_statement_and_the_database_cascades(sessions: Sessions, loaded: bool) -> None:  # noqa: FBT001
    job_id = make_job(sessions)
    statements: list[str] = []
    with sessions.begin() as session:
        job = session.get_one(CrawlJob, job_id)
        job.images.append(Image(original_url="https://example.org/1.jpg", filename="1.jpg"))
    with sessions.begin() as session:
        job = session.get_one(CrawlJob, job_id)
        if loaded:
            assert len(job.images) == 1
        _listen(session, statements)
        session.delete(job)
        session.flush()
    assert [statement.split()[0] for statement in statements] == ["DELETE"]
    with sessions.begin() as session:
        assert session.get(CrawlJob, job_id) is None
        assert session.query(Image).filter_by(crawl_job_id=job_id).count() == 0


def _listen(session: Session, statements: list[str]) -> None:
    connection = session.connection()

    @event.listens_for(connection, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)


def test_importing_them_does_not_bring_celery() -> None:
    code = "import sys, pixcrawler_worker.models; print([n for n in ('celery', 'aiohttp') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

"""Rows of jobs that the command line creates; an API inserts its rows itself."""

import uuid
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from pixcrawler_worker.db import exports, validations
from pixcrawler_worker.db.models import CrawlJob, ExportJob, Profile, Project, ValidationJob
from pixcrawler_worker.domain.postgres_types import storable, storable_json

#: Owner of jobs that the command line creates without a project.
_LOCAL_USER = uuid.UUID("00000000-0000-4000-8000-000000000001")
_LOCAL_EMAIL = "command-line@pixcrawler.invalid"
_LOCAL_PROJECT = "Command line"


def create_crawl_job(
    session: Session, *, name: str, keywords: list[str], max_images: int, project_id: int | None
) -> int | None:
    """Insert a pending crawl job and return its id; None when there is no such project.

    Without a project, the job belongs to a project of the command line.
    """
    project = _local_project(session) if project_id is None else session.get(Project, project_id)
    if project is None:
        return None
    job = CrawlJob(project_id=project.id, name=_stored(name), keywords=keywords, max_images=max_images)
    session.add(job)
    session.flush()
    return job.id


def create_validation_job(session: Session, *, crawl_job_id: int, name: str, rules: dict[str, Any]) -> int | None:
    """Insert a pending validation job and return its id; None when there is no such crawl job.

    The job is recorded as requested, so that a sweep starts it when the message is lost.
    """
    if session.get(CrawlJob, crawl_job_id) is None:
        return None
    job = ValidationJob(crawl_job_id=crawl_job_id, name=_stored(name), validation_rules=storable_json(rules))
    session.add(job)
    session.flush()
    validations.record_request(session, job.id)
    return job.id


def create_export_job(
    session: Session, *, crawl_job_id: int, name: str, format_: str, options: dict[str, Any]
) -> int | None:
    """Insert a pending export job for the owner of the crawl job and return its id; None when there is no such job.

    The job is recorded as requested, so that a sweep starts it when the message is lost.
    """
    owner = session.scalar(
        select(Project.user_id).join(CrawlJob, CrawlJob.project_id == Project.id).where(CrawlJob.id == crawl_job_id)
    )
    if owner is None:
        return None
    job = ExportJob(
        crawl_job_id=crawl_job_id,
        user_id=owner,
        name=_stored(name),
        format=format_,
        export_options=storable_json(options),
    )
    session.add(job)
    session.flush()
    exports.request(session, job.id)
    return job.id


def _stored(name: str) -> str:
    # An argument may hold bytes that are not UTF-8.
    return storable(name)[:100]


def _local_project(session: Session) -> Project:
    session.execute(
        postgresql.insert(Profile)
        .values(id=_LOCAL_USER, email=_LOCAL_EMAIL, full_name="Command line")
        .on_conflict_do_nothing()
    )
    owned = select(Project).where(Project.user_id == _LOCAL_USER, Project.name == _LOCAL_PROJECT)
    project = session.scalars(owned.order_by(Project.id).limit(1)).one_or_none()
    if project is None:
        project = Project(name=_LOCAL_PROJECT, user_id=_LOCAL_USER)
        session.add(project)
        session.flush()
    return project

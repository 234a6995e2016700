"""Rows and values with sensible defaults: plain functions."""

import hashlib
import uuid
from collections.abc import Iterable
from typing import Any

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.models import CrawlJob, ExportJob, Profile, Project, ValidationJob
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.crawl_chunks import CrawlChunkResult
from pixcrawler_worker.domain.crawl_history import CrawlHistory
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.storage_keys import url_hash

#: The tables of all kinds of jobs.
TABLES = (CRAWL_JOBS, VALIDATION_JOBS, EXPORT_JOBS)


def make_project(sessions: Sessions) -> int:
    owner = Profile(id=uuid.uuid4(), email=f"{uuid.uuid4()}@example.org")
    with sessions.begin() as session:
        session.add(owner)
        session.flush()
        project = Project(name="images", user_id=owner.id)
        session.add(project)
    return project.id


def make_job(sessions: Sessions, **values: Any) -> int:
    """Insert a pending crawl job, with its own project unless one is given; return its id."""
    project_id = values.get("project_id") or make_project(sessions)
    job = CrawlJob(**{"project_id": project_id, "name": "job", "keywords": ["cat"], "max_images": 100} | values)
    with sessions.begin() as session:
        session.add(job)
    return job.id


def start_job(sessions: Sessions, *, chunks: int = 1, kind: JobTable = CRAWL_JOBS, **values: Any) -> JobRef:
    """Start a job of any kind with queued chunks; a validation or export gets its own crawl job."""
    if kind is CRAWL_JOBS:
        ref = JobRef(kind, make_job(sessions, **values))
    else:
        ref = JobRef(kind, _make_other_job(sessions, kind, **values))
    with sessions.begin() as session:
        jobs.lock(session, ref)
        jobs.begin(session, ref)
        jobs.add_chunks(session, ref, [{"number": number} for number in range(chunks)])
    return ref


def _make_other_job(sessions: Sessions, kind: JobTable, **values: Any) -> int:
    crawl_job_id = make_job(sessions)
    with sessions.begin() as session:
        job: ValidationJob | ExportJob
        if kind is VALIDATION_JOBS:
            job = ValidationJob(**{"crawl_job_id": crawl_job_id, "name": "check"} | values)
        else:
            project = session.get_one(Project, session.get_one(CrawlJob, crawl_job_id).project_id)
            job = ExportJob(**{"crawl_job_id": crawl_job_id, "user_id": project.user_id, "name": "archive"} | values)
        session.add(job)
    return job.id


def make_facts(name: str, **values: Any) -> ImageFacts:
    """Return facts of an image; the name determines its bytes."""
    defaults: dict[str, Any] = {
        "sha256": hashlib.sha256(name.encode()).digest(),
        "format": "jpg",
        "width": 96,
        "height": 64,
        "file_size": 2048,
        "mode": "RGB",
        "frames": 1,
        "phash": 0xFEDC_BA98_7654_3210,
        "dhash": 1,
    }
    return ImageFacts(**defaults | values)


def make_image(name: str, **values: Any) -> NewImage:
    """Return an image to insert; the name determines its URL and bytes."""
    url = f"https://example.org/{name}.jpg"
    defaults: dict[str, Any] = {
        "url": url,
        "url_hash": url_hash(values.get("url", url)),
        "filename": f"{name}.jpg",
        "storage_url": f"memory:///crawl_jobs/1/cat/{name}.jpg",
        "facts": make_facts(name),
        "label": "cat",
        "query": "cat",
        "source": "urls",
        "credit": Credit(),
    }
    return NewImage(**defaults | values)


def make_history(results: Iterable[CrawlChunkResult]) -> CrawlHistory:
    history = CrawlHistory()
    for result in results:
        history.add(result)
    return history

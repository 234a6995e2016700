"""Rows and values with sensible defaults: plain functions."""

import hashlib
import uuid
from typing import Any

from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.models import CrawlJob, Profile, Project
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.facts import Credit, ImageFacts


def make_project(sessions: Sessions) -> int:
    owner = Profile(id=uuid.uuid4(), email=f"{uuid.uuid4()}@example.org")
    with sessions.begin() as session:
        session.add(owner)
        session.flush()
        project = Project(name="pictures", user_id=owner.id)
        session.add(project)
    return project.id


def make_job(sessions: Sessions, **values: Any) -> int:
    """A pending crawl job in a project of its own; returns its id."""
    project_id = make_project(sessions)
    job = CrawlJob(**{"project_id": project_id, "name": "job", "keywords": ["cat"], "max_images": 100} | values)
    with sessions.begin() as session:
        session.add(job)
    return job.id


def make_facts(name: str, **values: Any) -> ImageFacts:
    """Facts of a picture whose bytes are told apart by a name."""
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
    """An image ready for its row, at an address and with bytes told apart by a name."""
    defaults: dict[str, Any] = {
        "url": f"https://example.org/{name}.jpg",
        "filename": f"{name}.jpg",
        "storage_url": f"memory:///crawl_jobs/1/cat/{name}.jpg",
        "facts": make_facts(name),
        "label": "cat",
        "query": "cat",
        "source": "urls",
        "credit": Credit(),
    }
    return NewImage(**defaults | values)

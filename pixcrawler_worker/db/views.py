"""What people look at: jobs with their counts, for the command line, the report and tests."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db.models import Chunk, CrawlJob


@dataclass(frozen=True, slots=True)
class CrawlView:
    """A crawl job's row, as far as people and machines are shown it."""

    id: int
    name: str
    status: str
    progress: int
    keywords: Any
    max_images: int
    total_images: int
    downloaded_images: int
    valid_images: int
    total_chunks: int
    active_chunks: int
    completed_chunks: int
    failed_chunks: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return self.status not in {"pending", "running"}

    def as_json(self) -> dict[str, Any]:
        """Return the view with JSON's types only."""
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(self).items()}


_VIEW = tuple(getattr(CrawlJob, name) for name in CrawlView.__dataclass_fields__)


def crawl_job(session: Session, job_id: int) -> CrawlView | None:
    """Return one crawl job; None when there is none."""
    row = session.execute(select(*_VIEW).where(CrawlJob.id == job_id)).one_or_none()
    return None if row is None else CrawlView(*row)


def crawl_jobs(session: Session, *, limit: int) -> list[CrawlView]:
    """Return the newest crawl jobs, newest first."""
    return [CrawlView(*row) for row in session.execute(select(*_VIEW).order_by(CrawlJob.id.desc()).limit(limit))]


def chunk_states(session: Session, job_id: int) -> dict[str, int]:
    """Return the number of the job's chunks in each state that occurs."""
    query = select(Chunk.state, func.count()).where(Chunk.crawl_job_id == job_id).group_by(Chunk.state)
    return dict(session.execute(query).all())

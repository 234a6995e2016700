"""The append-only log of what happened to jobs, for the people who own them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import String, cast, insert, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from pixcrawler_worker.db.models import ActivityLog, CrawlJob, Project

CRAWL_JOB = "crawl_job"


def record(session: Session, job_id: int, action: str, details: Mapping[str, Any] | None = None) -> None:
    """Add an entry for the owner of a crawl job; nothing when the job is gone.

    Args:
        session: the transaction in which the thing happens, so that the entry stands if and only if it did.
        job_id: the crawl job.
        action: what happened, `crawl_job.started` and the like.
        details: kept in `metadata_`.
    """
    session.execute(
        insert(ActivityLog).from_select(
            ["user_id", "action", "resource_type", "resource_id", "metadata_"],
            select(
                Project.user_id,
                literal(action),
                literal(CRAWL_JOB),
                cast(CrawlJob.id, String),
                literal(dict(details or {}), JSONB),
            )
            .join(Project, Project.id == CrawlJob.project_id)
            .where(CrawlJob.id == job_id),
        )
    )


def latest(session: Session, job_id: int, *, limit: int = 20) -> list[ActivityLog]:
    """Return the newest entries of a crawl job, newest first."""
    return list(
        session.scalars(
            select(ActivityLog)
            .where(ActivityLog.resource_type == CRAWL_JOB, ActivityLog.resource_id == str(job_id))
            .order_by(ActivityLog.id.desc())
            .limit(limit)
        )
    )

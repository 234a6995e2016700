"""Crawl jobs that extend the dataset of another one: which jobs that are, and what they must be like.

The chain is recorded when a job is planned, so that a job in the middle of it may be deleted later.
"""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from pixcrawler_worker.db.models import CrawlJob, Image
from pixcrawler_worker.db.private_models import CrawlPlan
from pixcrawler_worker.domain.lifecycle import ENDED, JobStatus
from pixcrawler_worker.errors import PermanentError


def check(session: Session, base_id: int, *, project_id: int) -> None:
    """Check that jobs of a project can extend the dataset of a job.

    Raises:
        PermanentError: when they cannot, because it is unknown, was deleted, belongs to another project, or runs.
    """
    found = select(CrawlJob.status).where(CrawlJob.id == base_id, CrawlJob.project_id == project_id)
    status = session.scalar(found)
    if status is None:
        # Whether there is one in another project is not for this one to know.
        raise PermanentError(
            f"there is no crawl job {base_id} in project {project_id}, whose dataset could be extended"
        )
    if JobStatus(status) not in ENDED:
        raise PermanentError(f"crawl job {base_id} is {status}: its dataset can be extended when it has ended")


def record(session: Session, job_id: int, base_id: int | None) -> None:
    """Record which jobs a job extends: another one, and those that this one extends. The caller holds the job's lock.

    Raises:
        PermanentError: when it cannot be extended; see `check`.
    """
    found: list[int] = []
    if base_id is not None:
        if base_id == job_id:
            raise PermanentError(f"options.extends: crawl job {job_id} cannot extend itself")
        project_id = project_of(session, job_id)
        assert project_id is not None
        try:
            check(session, base_id, project_id=project_id)
        except PermanentError as error:
            raise PermanentError(f"options.extends: {error}") from error
        found = [base_id, *bases(session, base_id)]
    session.execute(update(CrawlPlan).where(CrawlPlan.crawl_job_id == job_id).values(bases=found))


def chain(session: Session, job_id: int) -> list[int]:
    """Return the jobs whose images make the dataset of a job, the oldest first and the job itself last.

    Those that were deleted, or belong to another project, are left out.
    """
    extended = bases(session, job_id)
    if not extended:
        return [job_id]
    project_id = select(CrawlJob.project_id).where(CrawlJob.id == job_id).scalar_subquery()
    existing = select(CrawlJob.id).where(CrawlJob.id.in_(extended), CrawlJob.project_id == project_id)
    found = set(session.scalars(existing))
    return [*(base for base in reversed(extended) if base in found), job_id]


def has_images(session: Session, job_id: int) -> bool:
    """Return whether the jobs whose images make the dataset of a job have any."""
    found = select(Image.id).where(Image.crawl_job_id.in_(chain(session, job_id)), Image.storage_url.is_not(None))
    return session.scalar(found.limit(1)) is not None


def project_of(session: Session, job_id: int) -> int | None:
    """Return the project of a crawl job; None when there is no such job."""
    return session.scalar(select(CrawlJob.project_id).where(CrawlJob.id == job_id))


def bases(session: Session, job_id: int) -> list[int]:
    """Return the jobs that a job extends, the newest first, as they were recorded: some may have been deleted."""
    found = select(CrawlPlan.bases).where(CrawlPlan.crawl_job_id == job_id)
    return list(session.scalar(found) or [])

"""Validation jobs: their requests and plans, the images that they validate, and the counters that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, join, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.models import CrawlJob, Image, Profile, Project, ValidationJob
from pixcrawler_worker.db.private_models import Chunk, Recount, ValidationPlan, ValidationResultRow
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.domain.messages import QUEUES, Task

_NOW = func.clock_timestamp()


VALIDATION_JOBS = JobTable(
    name="validation",
    model=ValidationJob,
    chunk_key=Chunk.validation_job_id,
    owners=join(Profile, Project).join(CrawlJob).join(ValidationJob, ValidationJob.crawl_job_id == CrawlJob.id),
    plan_key=ValidationPlan.validation_job_id,
    requested_at=ValidationPlan.requested_at,
    chunk_task=Task.VALIDATION_CHUNK,
    queue=QUEUES[Task.VALIDATION_CHUNK],
)


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """A validation job as its row has it, with its crawl job."""

    crawl_job_id: int
    crawl_status: str
    keywords: Any
    rules: Any


@dataclass(frozen=True, slots=True)
class IdRange:
    """Images of one chunk: ids from `first` to `last`, of which `images` are validated."""

    first: int
    last: int
    images: int


def load(session: Session, job_id: int) -> ValidationRequest | None:
    """Return the request of a job; None when there is no such job."""
    row = session.execute(
        select(ValidationJob.crawl_job_id, CrawlJob.status, CrawlJob.keywords, ValidationJob.validation_rules)
        .join(CrawlJob, CrawlJob.id == ValidationJob.crawl_job_id)
        .where(ValidationJob.id == job_id)
    ).one_or_none()
    if row is None:
        return None
    return ValidationRequest(
        crawl_job_id=row.crawl_job_id,
        crawl_status=row.status,
        keywords=row.keywords,
        rules=row.validation_rules,
    )


def record_request(session: Session, job_id: int) -> None:
    """Record that a job was requested, so that it starts even when its message is lost."""
    session.execute(postgresql.insert(ValidationPlan).values(validation_job_id=job_id).on_conflict_do_nothing())


def record_plan(session: Session, job_id: int, *, effective: bool, note: str | None, images: int) -> None:
    """Record the plan of a job. The caller holds its lock.

    Args:
        session: of the transaction.
        job_id: the row in `validation_jobs`.
        effective: whether its results change the crawl job and exports.
        note: for users, on which images are validated.
        images: how many are validated.
    """
    values = {"effective": effective, "note": note}
    planned = postgresql.insert(ValidationPlan).values(validation_job_id=job_id, **values)
    session.execute(planned.on_conflict_do_update(index_elements=["validation_job_id"], set_=values))
    session.execute(update(ValidationJob).where(ValidationJob.id == job_id).values(total_images=images))


def note(session: Session, job_id: int) -> str | None:
    """Return the note for users in the plan of a job."""
    return session.scalar(select(ValidationPlan.note).where(ValidationPlan.validation_job_id == job_id))


def sample_threshold(session: Session, crawl_job_id: int, size: int) -> int | None:
    """Return the largest id hash in a sample of `size` images; None when there are not more images than that."""
    return session.scalar(
        select(_id_hash()).where(Image.crawl_job_id == crawl_job_id).order_by(_id_hash()).offset(size - 1).limit(1)
    )


def ranges(session: Session, crawl_job_id: int, *, size: int, threshold: int | None) -> list[IdRange]:
    """Return the images of a crawl job in ranges of ids.

    Args:
        session: of the transaction.
        crawl_job_id: whose images.
        size: images per range, at most.
        threshold: of the sample, as `sample_threshold` returns it; None for all images.
    """
    number = (func.row_number().over(order_by=Image.id) - 1) // size
    numbered = select(Image.id, number.label("number")).where(*selected(crawl_job_id, threshold)).subquery()
    query = (
        select(func.min(numbered.c.id), func.max(numbered.c.id), func.count())
        .group_by(numbered.c.number)
        .order_by(numbered.c.number)
    )
    return [IdRange(first, last, count) for first, last, count in session.execute(query)]


def selected(crawl_job_id: int, threshold: int | None) -> list[ColumnElement[bool]]:
    """Return the conditions for images of a crawl job, and of a sample unless `threshold` is None."""
    of_job = Image.crawl_job_id == crawl_job_id
    return [of_job] if threshold is None else [of_job, _id_hash() <= threshold]


def _id_hash() -> ColumnElement[int]:
    # Depends on the id alone, so that every sample of one size has the same images.
    return func.hashint8extended(Image.id, 0)


def set_counters(session: Session, job_id: int) -> Mapping[str, int]:
    """Set the counters of a job to what its results say, and return them. The caller holds its lock."""
    valid = func.count().filter(ValidationResultRow.valid)
    row = session.execute(
        select(func.count(), valid)
        .select_from(ValidationResultRow)
        .join(Image, Image.id == ValidationResultRow.image_id)
        .where(ValidationResultRow.validation_job_id == job_id)
    ).one()
    total, good = row
    counts = {"total_images": total, "validated_images": good, "invalid_images": total - good}
    session.execute(update(ValidationJob).where(ValidationJob.id == job_id).values(counts))
    return counts


def effective_validation(session: Session, crawl_job_id: int) -> int | None:
    """Return the validation whose results count, if any: the newest that completed and is not `report_only`."""
    return session.scalar(
        select(ValidationJob.id)
        .join(ValidationPlan, ValidationPlan.validation_job_id == ValidationJob.id)
        .where(
            ValidationJob.crawl_job_id == crawl_job_id,
            ValidationJob.status == JobStatus.COMPLETED,
            ValidationPlan.effective,
        )
        .order_by(ValidationJob.completed_at.desc(), ValidationJob.id.desc())
        .limit(1)
    )


def valid_images(session: Session, crawl_job_id: int) -> int:
    """Return how many images of a crawl job its effective validation did not find invalid, at most `max_images`.

    Images that replaced invalid ones are above that limit when those count again. The trigger of migration 0006 counts
    likewise. The caller holds the job's lock: what marked the job for this count is done with it.
    """
    # First: what a mark that is committed later stands for may not be seen by this count.
    session.execute(delete(Recount).where(Recount.crawl_job_id == crawl_job_id))
    limit = session.scalar(select(CrawlJob.max_images).where(CrawlJob.id == crawl_job_id)) or 0
    return min(limit, _not_invalid(session, crawl_job_id))


def _not_invalid(session: Session, crawl_job_id: int) -> int:
    rows = session.scalar(select(func.count()).where(Image.crawl_job_id == crawl_job_id)) or 0
    validation_id = effective_validation(session, crawl_job_id)
    if validation_id is None:
        return rows
    invalid = session.scalar(
        select(func.count())
        .select_from(ValidationResultRow)
        .join(Image, Image.id == ValidationResultRow.image_id)
        .where(ValidationResultRow.validation_job_id == validation_id, ~ValidationResultRow.valid)
    )
    return rows - (invalid or 0)


def update_valid_images(session: Session, crawl_job_id: int) -> int:
    """Set `valid_images` of a crawl job by its effective validation, and return it. The caller holds its lock."""
    count = valid_images(session, crawl_job_id)
    session.execute(update(CrawlJob).where(CrawlJob.id == crawl_job_id).values(valid_images=count, updated_at=_NOW))
    return count

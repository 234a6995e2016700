"""Validation jobs: what they are started with, which images they judge, and what follows when one has completed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, join, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.models import (
    Chunk,
    CrawlJob,
    Image,
    Profile,
    Project,
    ValidationJob,
    ValidationPlan,
    VerdictRow,
)
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
class Range:
    """Images of one chunk: ids from `first` to `last`, of which `images` are to be judged."""

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


def request(session: Session, job_id: int) -> None:
    """Note that a job was asked for, so that it starts even when its message gets lost."""
    session.execute(upsert(ValidationPlan).values(validation_job_id=job_id).on_conflict_do_nothing())


def plan(session: Session, job_id: int, *, effective: bool, note: str | None, images: int) -> None:
    """Note how a job is started. The caller holds its lock."""
    values = {"effective": effective, "note": note}
    planned = upsert(ValidationPlan).values(validation_job_id=job_id, **values)
    session.execute(planned.on_conflict_do_update(index_elements=["validation_job_id"], set_=values))
    session.execute(update(ValidationJob).where(ValidationJob.id == job_id).values(total_images=images))


def note(session: Session, job_id: int) -> str | None:
    """Return what people should know of a job beside its numbers."""
    return session.scalar(select(ValidationPlan.note).where(ValidationPlan.validation_job_id == job_id))


def sample_threshold(session: Session, crawl_job_id: int, size: int) -> int | None:
    """Return the value below or at which the hashes of `size` images lie; None when there are no more than that."""
    return session.scalar(
        select(_sampled()).where(Image.crawl_job_id == crawl_job_id).order_by(_sampled()).offset(size - 1).limit(1)
    )


def ranges(session: Session, crawl_job_id: int, *, size: int, threshold: int | None) -> list[Range]:
    """Return the job's images in ranges of at most `size`, of those below a sample's threshold where there is one."""
    number = (func.row_number().over(order_by=Image.id) - 1) // size
    numbered = select(Image.id, number.label("number")).where(*chosen(crawl_job_id, threshold)).subquery()
    query = (
        select(func.min(numbered.c.id), func.max(numbered.c.id), func.count())
        .group_by(numbered.c.number)
        .order_by(numbered.c.number)
    )
    return [Range(first, last, count) for first, last, count in session.execute(query)]


def chosen(crawl_job_id: int, threshold: int | None) -> list[ColumnElement[bool]]:
    """Return the conditions that an image is one of a crawl job, and of a sample where there is one."""
    ours = Image.crawl_job_id == crawl_job_id
    return [ours] if threshold is None else [ours, _sampled() <= threshold]


def _sampled() -> ColumnElement[int]:
    # The same images whenever, and by whomever, the sample is taken.
    return func.hashint8extended(Image.id, 0)


def settle(session: Session, job_id: int) -> Mapping[str, int]:
    """Set a job's counters to what its verdicts say, and return them. The caller holds its lock."""
    valid = func.count().filter(VerdictRow.valid)
    row = session.execute(
        select(func.count(), valid)
        .select_from(VerdictRow)
        .join(Image, Image.id == VerdictRow.image_id)
        .where(VerdictRow.validation_job_id == job_id)
    ).one()
    total, good = row
    counts = {"total_images": total, "validated_images": good, "invalid_images": total - good}
    session.execute(update(ValidationJob).where(ValidationJob.id == job_id).values(counts))
    return counts


def standing(session: Session, crawl_job_id: int) -> int | None:
    """Return the validation whose verdicts count: the newest one that completed and is no mere report."""
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
    """Return how many of a crawl job's images no standing validation judged invalid."""
    rows = session.scalar(select(func.count()).where(Image.crawl_job_id == crawl_job_id)) or 0
    judge = standing(session, crawl_job_id)
    if judge is None:
        return rows
    invalid = session.scalar(
        select(func.count())
        .select_from(VerdictRow)
        .join(Image, Image.id == VerdictRow.image_id)
        .where(VerdictRow.validation_job_id == judge, ~VerdictRow.valid)
    )
    return rows - (invalid or 0)


def apply(session: Session, crawl_job_id: int) -> int:
    """Set `valid_images` of a crawl job to what holds now, and return it. The caller holds the crawl job's lock."""
    count = valid_images(session, crawl_job_id)
    session.execute(update(CrawlJob).where(CrawlJob.id == crawl_job_id).values(valid_images=count, updated_at=_NOW))
    return count

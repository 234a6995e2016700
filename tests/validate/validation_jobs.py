"""Validation jobs that run to their end in this process."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import factories
from doubles import query

from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.models import ValidationJob
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.kind import VALIDATION


def make_validation(runtime: Runtime, crawl_job_id: int, rules: object = None) -> JobRef:
    """A pending validation job."""
    job = ValidationJob(crawl_job_id=crawl_job_id, name="check", validation_rules={} if rules is None else rules)
    with runtime.sessions.begin() as session:
        session.add(job)
    return JobRef(VALIDATION_JOBS, job.id)


def ended_crawl(runtime: Runtime, *, status: str = "completed", **values: Any) -> int:
    """A crawl job that has ended, with no images yet."""
    return factories.make_job(runtime.sessions, status=status, max_images=1000, **values)


def drive(runtime: Runtime, messages: Iterable[ChunkMessage]) -> None:
    """Run the chunks of messages, and of the messages that follow from them."""
    waiting = deque(messages)
    while waiting:
        waiting.extend(executor.run(runtime, VALIDATION, waiting.popleft().chunk_id))


def validate(runtime: Runtime, crawl_job_id: int, rules: object = None) -> JobRef:
    """A validation job, run to its end."""
    ref = make_validation(runtime, crawl_job_id, rules)
    drive(runtime, submission.start(runtime, VALIDATION, ref.id))
    return ref


def row(runtime: Runtime, ref: JobRef) -> ValidationJob:
    with runtime.sessions.begin() as session:
        return session.get_one(ValidationJob, ref.id)


def counted(runtime: Runtime, ref: JobRef) -> tuple[str, int, int, int, int]:
    """Status, progress, and images: all, valid, invalid."""
    job = row(runtime, ref)
    return job.status, job.progress, job.total_images, job.validated_images, job.invalid_images


def findings(runtime: Runtime, ref: JobRef) -> dict[str, dict[str, list[Any]]]:
    """What was found in each image, by its file's name and the check: severity, value, threshold."""
    rows = query(
        runtime,
        "SELECT i.filename, v.findings FROM pixcrawler.verdicts v JOIN images i ON i.id = v.image_id"
        " WHERE v.validation_job_id = :id ORDER BY i.id",
        id=ref.id,
    )
    return {name: {found[0]: found[1:] for found in listed} for name, listed in rows}


def results(runtime: Runtime, ref: JobRef) -> list[tuple[Any, ...]]:
    """Return all results of a job, ordered by image."""
    return query(
        runtime,
        "SELECT image_id, valid, findings, sha256, phash, metrics, keeper_id FROM pixcrawler.verdicts"
        " WHERE validation_job_id = :id ORDER BY image_id",
        id=ref.id,
    )


def valid_images(runtime: Runtime, crawl_job_id: int) -> int:
    ((count,),) = query(runtime, "SELECT valid_images FROM crawl_jobs WHERE id = :id", id=crawl_job_id)
    return int(count)

"""All that is known of the images of a dataset, those of a crawl job and of the jobs that it extends, for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db import extensions, validations
from pixcrawler_worker.db.image_records import ImageRecord, more_of, record_of, select_images
from pixcrawler_worker.db.models import Image, ValidationJob
from pixcrawler_worker.db.private_models import ImageFact, ValidationResultRow
from pixcrawler_worker.domain.checks import Finding, Severity
from pixcrawler_worker.domain.lifecycle import JobStatus

#: Check, severity, value and threshold.
_PARTS_OF_FINDING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowsedImage:
    """An image of a dataset with its validation result.

    Attributes:
        crawl_job_id: the job that stored it.
        record: the image, with the facts and the credit that its crawl recorded.
        caption: of the URL list.
        columns: other columns of the URL list, by name.
        measured_sha256: digest that the validation took; None when it took none.
        valid: the result of the validation; None for an image that it has no result for.
        findings: of the validation.
        metrics: what crawl and validation have measured, by name; the values are any JSON.
        keeper_id: the image that the validation keeps in place of this one, a duplicate of it.
    """

    crawl_job_id: int
    record: ImageRecord
    caption: str | None
    columns: Mapping[str, Any]
    measured_sha256: bytes | None
    valid: bool | None
    findings: Sequence[Finding]
    metrics: Mapping[str, Any]
    keeper_id: int | None


def shown_validation(session: Session, crawl_job_id: int) -> int | None:
    """Return the validation whose results are shown: the one that counts, or else the newest that completed."""
    effective = validations.effective_validation(session, crawl_job_id)
    if effective is not None:
        return effective
    newest = (
        select(ValidationJob.id)
        .where(ValidationJob.crawl_job_id == crawl_job_id, ValidationJob.status == JobStatus.COMPLETED)
        .order_by(ValidationJob.completed_at.desc(), ValidationJob.id.desc())
    )
    return session.scalar(newest.limit(1))


def of_dataset(session: Session, crawl_job_id: int) -> list[BrowsedImage]:
    """Return all images of a crawl job and of those that it extends, ordered by label and id."""
    jobs = extensions.chain(session, crawl_job_id)
    found = [image for job_id in jobs for image in _of_crawl(session, job_id)]
    return sorted(found, key=lambda image: (image.record.label or "", image.record.id))


def _of_crawl(session: Session, crawl_job_id: int) -> list[BrowsedImage]:
    result = ValidationResultRow
    query = (
        select_images(
            ImageFact.caption,
            ImageFact.columns,
            ImageFact.metrics,
            result.sha256,
            result.valid,
            result.findings,
            result.metrics,
            result.keeper_id,
        )
        .outerjoin(
            result,
            and_(
                result.validation_job_id == (shown_validation(session, crawl_job_id) or 0), result.image_id == Image.id
            ),
        )
        .where(Image.crawl_job_id == crawl_job_id)
    )
    return [_browsed(crawl_job_id, record_of(row), *more_of(row)) for row in session.execute(query)]


def storage_url(session: Session, crawl_job_id: int, image_id: int) -> str | None:
    """Return the storage URL of an image of a dataset; None when there is no such image, or it has none."""
    jobs = extensions.chain(session, crawl_job_id)
    query = select(Image.storage_url).where(Image.crawl_job_id.in_(jobs), Image.id == image_id)
    return session.scalar(query)


def _browsed(  # noqa: PLR0913, PLR0917 - one argument per column
    crawl_job_id: int,
    record: ImageRecord,
    caption: str | None,
    columns: object,
    recorded: object,
    sha256: bytes | None,
    valid: bool | None,  # noqa: FBT001 - a column
    findings: object,
    measured: object,
    keeper_id: int | None,
) -> BrowsedImage:
    return BrowsedImage(
        crawl_job_id=crawl_job_id,
        record=record,
        caption=caption,
        columns=columns if isinstance(columns, dict) else {},
        measured_sha256=sha256,
        valid=valid,
        findings=list(_findings(findings)),
        metrics={
            **(recorded if isinstance(recorded, dict) else {}),
            **(measured if isinstance(measured, dict) else {}),
        },
        keeper_id=keeper_id,
    )


def _findings(stored: object) -> list[Finding]:
    found = []
    for one in stored if isinstance(stored, list) else []:
        # What another version has written with more parts is shown without them.
        if isinstance(one, list) and len(one) >= _PARTS_OF_FINDING and one[1] in set(Severity):
            check, severity, value, threshold = one[:_PARTS_OF_FINDING]
            found.append(Finding(str(check), Severity(severity), value, threshold))
    return found

"""Export jobs: their requests, their plans, their entries, and the URLs and expiry of their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, TypeGuard

from sqlalchemy import ARRAY, Integer, any_, delete, func, join, literal, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB, array
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import SQLCoreOperations

from pixcrawler_worker.db.image_records import ImageRecord, more_of, record_of, select_images
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.models import CrawlJob, ExportJob, Image, Profile, Project
from pixcrawler_worker.db.private_models import Chunk, ExportItem, ExportPlan, ImageFact, ValidationResultRow
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.domain.list_columns import ListColumns
from pixcrawler_worker.domain.messages import QUEUES, Task
from pixcrawler_worker.domain.postgres_types import MAX_INT4

_NOW = func.clock_timestamp()
#: How long files are kept after they expire, so that downloads can finish.
_GRACE = timedelta(hours=1)
#: Longest time for which the files of an export are kept: that of the option `url_ttl_s`, with room.
_MAX_TTL = timedelta(days=400)
#: Format of times in tables, in UTC.
_TIME = 'YYYY-MM-DD"T"HH24:MI:SS"Z"'


EXPORT_JOBS = JobTable(
    name="export",
    model=ExportJob,
    chunk_key=Chunk.export_job_id,
    owners=join(Profile, Project).join(CrawlJob).join(ExportJob, ExportJob.crawl_job_id == CrawlJob.id),
    plan_key=ExportPlan.export_job_id,
    requested_at=ExportPlan.requested_at,
    chunk_task=Task.EXPORT_PART,
    queue=QUEUES[Task.EXPORT_PART],
)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What an export job requests, with facts of its crawl job."""

    crawl_job_id: int
    name: str
    format: str
    options: Any
    keywords: Any
    crawl_ended_at: datetime


@dataclass(frozen=True, slots=True)
class ExportEntry:
    """An image of an export, with its position there.

    Attributes:
        image: the image.
        seq: its position, from 0.
        split: position of its split in the plan.
        digest: digest that its file is named by.
        copy: number among the images with the same digest, from 0.
        sha256: digest of its file, as crawl or validation recorded it; None when neither did.
        phash: 64-bit perceptual hash as a signed number, likewise.
        orientation: EXIF's, as the validation measured it; None when it did not.
        crawled_at: when the image was stored, as `2026-01-02T03:04:05Z`.
        findings: of the validation, as its results have them.
        caption: of the image, from its URL list; None for none.
        columns: the values of the list's other columns, in JSON, by name; None for none.
    """

    image: ImageRecord
    seq: int
    split: int
    digest: bytes
    copy: int
    sha256: bytes | None
    phash: int | None
    orientation: int | None
    crawled_at: str | None
    findings: Any
    caption: str | None = None
    columns: Any = None


_ENTRY_COLUMNS: Mapping[str, SQLCoreOperations[Any]] = {
    "seq": ExportItem.seq,
    "split": ExportItem.split,
    "digest": ExportItem.digest,
    "copy": ExportItem.copy,
    "sha256": func.coalesce(ImageFact.sha256, ValidationResultRow.sha256),
    "phash": func.coalesce(ImageFact.phash, ValidationResultRow.phash),
    "orientation": ValidationResultRow.metrics["orientation"].as_integer(),
    "crawled_at": func.to_char(func.timezone("UTC", ImageFact.crawled_at), _TIME),
    "findings": ValidationResultRow.findings,
    "caption": ImageFact.caption,
    "columns": ImageFact.columns,
}
#: An export that an older version planned has the images of one crawl job.
_VALIDATIONS = func.coalesce(ExportPlan.validation_job_ids, array([ExportPlan.validation_job_id]))
# In the order of the fields, as `image_records` selects.
_ENTRY = [_ENTRY_COLUMNS[field.name] for field in fields(ExportEntry) if field.name != "image"]


def load(session: Session, job_id: int) -> ExportRequest | None:
    """Return the request of a job; None when there is no such job."""
    row = session.execute(
        select(
            ExportJob.crawl_job_id,
            ExportJob.name,
            ExportJob.format,
            ExportJob.export_options,
            CrawlJob.keywords,
            func.coalesce(CrawlJob.completed_at, CrawlJob.created_at).label("crawl_ended_at"),
        )
        .join(CrawlJob, CrawlJob.id == ExportJob.crawl_job_id)
        .where(ExportJob.id == job_id)
    ).one_or_none()
    if row is None:
        return None
    return ExportRequest(
        crawl_job_id=row.crawl_job_id,
        name=row.name,
        format=row.format,
        options=row.export_options,
        keywords=row.keywords,
        crawl_ended_at=row.crawl_ended_at,
    )


def request(session: Session, job_id: int) -> None:
    """Record that a job was requested, so that it starts even when its message is lost."""
    session.execute(postgresql.insert(ExportPlan).values(export_job_id=job_id).on_conflict_do_nothing())


def record_plan(  # noqa: PLR0913 - one argument per column
    session: Session,
    job_id: int,
    *,
    validation_id: int | None,
    validation_ids: Sequence[int],
    images: int,
    default_label: str,
    columns: ListColumns | None = None,
) -> None:
    """Record the plan of a job whose images are selected. The caller holds the job's lock.

    Args:
        session: the transaction that plans the job.
        job_id: the export job.
        validation_id: the effective validation of its crawl job; None when it has none.
        validation_ids: this one, and those of the crawl jobs that the crawl job extends.
        images: number of selected images.
        default_label: class of images without a label.
        columns: of URL lists that its images have; None where none has any.
    """
    values = {
        "validation_job_id": validation_id,
        "validation_job_ids": list(validation_ids),
        "labels": _labels(session, job_id, default_label=default_label),
        "columns": None if columns is None else columns.to_json(),
    }
    planned = postgresql.insert(ExportPlan).values(export_job_id=job_id, **values)
    session.execute(planned.on_conflict_do_update(index_elements=["export_job_id"], set_=values))
    session.execute(update(ExportJob).where(ExportJob.id == job_id).values(total_images=images))


def labels(session: Session, job_id: int) -> list[str]:
    """Return the classes of a planned export, sorted."""
    return session.scalar(select(ExportPlan.labels).where(ExportPlan.export_job_id == job_id)) or []


def list_columns(session: Session, job_id: int) -> ListColumns:
    """Return the columns of URL lists that a planned export has.

    Raises:
        PermanentError: when another program has written something else there.
    """
    found = session.scalar(select(ExportPlan.columns).where(ExportPlan.export_job_id == job_id))
    return ListColumns() if found is None else ListColumns.from_json(found)


def _labels(session: Session, job_id: int, *, default_label: str) -> list[str]:
    found = session.scalars(
        select(func.coalesce(func.nullif(ImageFact.label, ""), literal(default_label)))
        .select_from(ExportItem)
        .outerjoin(ImageFact, ImageFact.image_id == ExportItem.image_id)
        .where(ExportItem.export_job_id == job_id)
        .distinct()
    )
    return sorted(found)


def entries(session: Session, job_id: int, *, first: int, last: int, sample: int | None = None) -> list[ExportEntry]:
    """Return the images of an export between two positions, in their order, without those whose rows are deleted.

    Args:
        session: any transaction.
        job_id: the export job.
        first: position of the first image.
        last: position of the last image.
        sample: limit of images, which are sampled evenly; None for all.
    """
    positions = (ExportItem.export_job_id == job_id, ExportItem.seq.between(first, last))
    step = 1
    if sample is not None:
        count = session.scalar(select(func.count()).where(*positions)) or 0
        step = max(1, -(-count // sample))
    query = (
        select_images(*_ENTRY)
        .join(ExportItem, ExportItem.image_id == Image.id)
        .join(ExportPlan, ExportPlan.export_job_id == ExportItem.export_job_id)
        .outerjoin(
            ValidationResultRow,
            (ValidationResultRow.validation_job_id == any_(_VALIDATIONS)) & (ValidationResultRow.image_id == Image.id),
        )
        .where(*positions, (ExportItem.seq - first) % step == 0)
        .order_by(ExportItem.seq)
    )
    return [ExportEntry(record_of(row), *more_of(row)) for row in session.execute(query)]


def publish(  # noqa: PLR0913 - one argument per column
    session: Session,
    job_id: int,
    *,
    url: str,
    size: int,
    images: int,
    result: Mapping[str, Any],
    ttl: timedelta,
    url_ttl: timedelta,
) -> None:
    """Record the URL and the totals of an export, and delete its entries. The caller holds the job's lock.

    Args:
        session: the transaction that completes the job.
        job_id: the export job.
        url: URL of the archive, or of the manifest of several.
        size: bytes of all archives.
        images: number of exported images.
        result: the value of `export_options.result`.
        ttl: how long the files are kept.
        url_ttl: how long the URL is valid.
    """
    session.execute(
        update(ExportJob)
        .where(ExportJob.id == job_id)
        .values(
            download_url=url,
            file_size=size if size <= MAX_INT4 else None,
            exported_images=images,
            export_options=ExportJob.export_options.op("||")(literal({"result": dict(result)}, JSONB)),
            expires_at=_NOW + ttl,
        )
    )
    session.execute(update(ExportPlan).where(ExportPlan.export_job_id == job_id).values(signed_until=_NOW + url_ttl))
    session.execute(delete(ExportItem).where(ExportItem.export_job_id == job_id))


def expired(session: Session, *, limit: int) -> list[int]:
    """Return completed exports that have expired and still have a URL."""
    query = select(ExportJob.id).where(
        ExportJob.status == JobStatus.COMPLETED, ExportJob.expires_at < _NOW, ExportJob.download_url.is_not(None)
    )
    return list(session.scalars(query.order_by(ExportJob.id).limit(limit)))


def remove_url(session: Session, job_id: int) -> None:
    """Remove the URL of an expired export, whose files are deleted next. The row stays."""
    session.execute(update(ExportJob).where(ExportJob.id == job_id).values(download_url=None, updated_at=_NOW))


@dataclass(frozen=True, slots=True)
class ExpiringUrl:
    """An export whose presigned URL expires before its files do.

    Attributes:
        job_id: the export job.
        result: the value of `export_options.result`.
        ttl: how long its files are kept from now on.
    """

    job_id: int
    result: dict[str, Any]
    ttl: timedelta


def expiring_urls(session: Session, *, within: timedelta, limit: int) -> list[ExpiringUrl]:
    """Return exports whose presigned URLs expire soon although their files are kept longer."""
    query = (
        select(
            ExportJob.id,
            ExportJob.export_options["result"].label("result"),
            # A time of infinity has no distance to another.
            (func.least(ExportJob.expires_at, _NOW + _MAX_TTL) - _NOW).label("ttl"),
        )
        .join(ExportPlan, ExportPlan.export_job_id == ExportJob.id)
        .where(
            ExportJob.status == JobStatus.COMPLETED,
            ExportJob.download_url.is_not(None),
            ExportPlan.signed_until < _NOW + within,
            ExportJob.expires_at > ExportPlan.signed_until,
        )
    )
    rows = session.execute(query.order_by(ExportJob.id).limit(limit))
    return [ExpiringUrl(job_id=row.id, result=row.result, ttl=row.ttl) for row in rows]


def replace_url(session: Session, job_id: int, *, url: str, url_ttl: timedelta) -> None:
    """Replace the URL of an export that still has one."""
    changed = session.scalar(
        update(ExportJob)
        .where(ExportJob.id == job_id, ExportJob.download_url.is_not(None))
        .values(download_url=url, updated_at=_NOW)
        .returning(ExportJob.id)
    )
    if changed is not None:
        session.execute(
            update(ExportPlan).where(ExportPlan.export_job_id == job_id).values(signed_until=_NOW + url_ttl)
        )


def begin_cleaning(session: Session, job_id: int) -> bool:
    """Note that the files of an export are deleted from now on; return whether none of them is needed.

    The caller holds the job's lock and has seen that it has ended. A retry writes noted files again.
    """
    if files(session, [job_id]).get(job_id, frozenset()) is None:
        return False
    failed = select(ExportJob.id).where(ExportJob.id == job_id, ExportJob.status != JobStatus.COMPLETED)
    session.execute(
        update(ExportPlan)
        .where(ExportPlan.export_job_id.in_(failed))
        .values(cleaned_at=_NOW)
        .execution_options(synchronize_session=False)
    )
    return True


def take_cleaned_at(session: Session, job_id: int) -> datetime | None:
    """Return when the deletion of the files of a failed export began, and forget it; None when they still exist."""
    cleaned_at = session.scalar(select(ExportPlan.cleaned_at).where(ExportPlan.export_job_id == job_id))
    if cleaned_at is not None:
        session.execute(update(ExportPlan).where(ExportPlan.export_job_id == job_id).values(cleaned_at=None))
    return cleaned_at


def reset_counters(session: Session, job_id: int) -> None:
    """Set the counters of finished archives to 0. The caller holds the job's lock."""
    session.execute(update(ExportJob).where(ExportJob.id == job_id).values(exported_images=0))


def files(session: Session, job_ids: Sequence[int]) -> dict[int, frozenset[str] | None]:
    """Return the names of the files to keep for these export jobs; None for all, where the job has not ended.

    Jobs that failed, expired or were deleted are left out, because none of their files are kept. Files of an expired
    export are kept for another hour, so that downloads can finish.
    """
    # As one parameter, since a query has up to 65,535 of them, and a storage may have the folders of more exports.
    ids = literal(list(job_ids), ARRAY(Integer))
    kept = ExportJob.download_url.is_not(None) | (ExportJob.expires_at > _NOW - _GRACE)
    query = select(ExportJob.id, ExportJob.status, ExportJob.export_options["result"]["files"]).where(
        ExportJob.id == any_(ids),
        ExportJob.status.in_([JobStatus.PENDING, JobStatus.RUNNING])
        | ((ExportJob.status == JobStatus.COMPLETED) & kept),
    )
    return {
        # What is not a list of names was written by hand: its files are kept.
        job_id: frozenset(names) if status == JobStatus.COMPLETED and _are_names(names) else None
        for job_id, status, names in session.execute(query)
    }


def _are_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)

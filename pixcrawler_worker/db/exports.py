"""Export jobs: what they are started with, which images they choose, and what they leave in their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, join, literal, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.models import (
    Chunk,
    CrawlJob,
    ExportItem,
    ExportJob,
    ExportPlan,
    Image,
    ImageFact,
    Profile,
    Project,
    ValidationResultRow,
)
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.domain.messages import QUEUES, Task

_NOW = func.clock_timestamp()
#: Choosing a million images takes longer than a statement may elsewhere.
_CHOOSING = timedelta(minutes=5)
_LARGEST_INT4 = 2**31 - 1
#: How long files outlive their link, for those who are downloading them.
_GRACE = timedelta(hours=1)
#: How tables tell a time, in UTC.
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
    """An export job as its row has it, with its crawl job."""

    crawl_job_id: int
    name: str
    format: str
    options: Any
    keywords: Any
    crawl_ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which images an export takes, and what is known about them before they are read.

    Attributes:
        judge: the validation whose verdicts count; None when there is none.
        only_valid: leave out what it judged invalid.
        exclude_flags: leave out what these checks found.
        labels: classes to take; None for all.
        licenses: identifiers to take, None for all.
        min_width: pixels.
        min_height: pixels.
        limit: most images; None for all.
        label: of images that nobody labeled.
        seed: of the splits.
        bounds: upper bounds of the splits' positions (`domain/splits.py`); one for a dataset that is not split.
        by_group: never divide near duplicates.
        stratified: keep the ratios within each class.
        turns: whether a JPEG may have to be turned, which may make it a little larger.
        copied: formats that are copied byte for byte.
        longest: pixels of the longer side that converted images have at most; None for no bound.
        lossy: whether what is converted becomes a format with losses, of which noise at quality 90 takes less than
            three bytes per pixel, and photographs rarely more than twice what they took; others take four.
        unknown_bytes: what a file takes at most whose size nobody recorded.
    """

    judge: int | None
    only_valid: bool
    exclude_flags: Sequence[str]
    labels: Sequence[str] | None
    licenses: Sequence[str] | None
    min_width: int
    min_height: int
    limit: int | None
    label: str
    seed: int
    bounds: Sequence[int]
    by_group: bool
    stratified: bool
    turns: bool
    copied: Sequence[str]
    longest: int | None
    lossy: bool
    unknown_bytes: int


@dataclass(frozen=True, slots=True)
class Item:
    """An image of an export, as its part reads it."""

    seq: int
    split: int
    digest: bytes
    copy: int
    storage_url: str | None
    format: str | None
    sha256: bytes | None
    orientation: int | None
    label: str | None
    width: int | None
    height: int | None
    file_size: int | None
    phash: int | None
    source_url: str
    page_url: str | None
    title: str | None
    author: str | None
    license: str | None
    license_url: str | None
    attribution: str | None
    source: str | None
    query: str | None
    crawled_at: str | None
    findings: Any


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
    """Note that a job was asked for, so that it starts even when its message gets lost."""
    session.execute(upsert(ExportPlan).values(export_job_id=job_id).on_conflict_do_nothing())


def plan(session: Session, job_id: int, *, judge: int | None, images: int, unlabelled: str) -> None:
    """Note how a job is started, once its images are chosen. The caller holds its lock."""
    values = {"validation_job_id": judge, "labels": _labels(session, job_id, unlabelled=unlabelled)}
    planned = upsert(ExportPlan).values(export_job_id=job_id, **values)
    session.execute(planned.on_conflict_do_update(index_elements=["export_job_id"], set_=values))
    session.execute(update(ExportJob).where(ExportJob.id == job_id).values(total_images=images))


def labels(session: Session, job_id: int) -> list[str]:
    """Return the classes of a planned export, sorted."""
    return session.scalar(select(ExportPlan.labels).where(ExportPlan.export_job_id == job_id)) or []


def licenses(session: Session, crawl_job_id: int) -> list[str]:
    """Return the licenses that a crawl job's images are under."""
    found = select(ImageFact.license).where(ImageFact.crawl_job_id == crawl_job_id, ImageFact.license.is_not(None))
    return [name for name in session.scalars(found.distinct()) if name is not None]


# Every window and order goes by what the images are, never by their ids or the order of their rows, so that the same
# images make the same dataset. Groups are made of all images of the crawl: what is chosen moves nothing.
_CHOOSE = """
INSERT INTO pixcrawler.export_items (export_job_id, seq, image_id, split, digest, copy, cost, upto)
WITH known AS (
    SELECT i.id, i.original_url, coalesce(f.sha256, v.sha256, sha256(convert_to(i.original_url, 'UTF8'))) AS digest,
        coalesce(f.label, :label) AS label, f.license, coalesce(v.keeper_id, i.id) AS family,
        coalesce(v.valid, true) AS valid, coalesce(v.findings, '[]'::jsonb) AS findings,
        coalesce(v.width, i.width) AS width, coalesce(v.height, i.height) AS height, i.format,
        coalesce(v.file_size, i.file_size, :unknown_bytes)::bigint AS file_size,
        coalesce((v.metrics->>'orientation')::int, 0) AS orientation,
        octet_length(concat(i.original_url, f.page_url, f.title, f.author, f.license_url, f.attribution, f.query,
            f.label)) AS letters
    FROM images AS i
    LEFT JOIN pixcrawler.image_facts AS f ON f.image_id = i.id
    LEFT JOIN pixcrawler.verdicts AS v ON v.validation_job_id = :judge AND v.image_id = i.id
    WHERE i.crawl_job_id = :job AND i.storage_url IS NOT NULL
), grouped AS (
    SELECT *, CASE WHEN :by_group
        THEN first_value(digest) OVER (PARTITION BY family ORDER BY digest) ELSE digest END AS leader,
        first_value(label) OVER (PARTITION BY family ORDER BY digest, label) AS leading_label,
        row_number() OVER (PARTITION BY digest ORDER BY original_url, label, id) - 1 AS copy
    FROM known
), hashed AS (
    SELECT *, sha256(convert_to(:seed || ':' || encode(leader, 'hex'), 'UTF8')) AS hash FROM grouped
), ranked AS (
    SELECT *, dense_rank() OVER (PARTITION BY leading_label ORDER BY hash) AS place FROM hashed
), placed AS (
    SELECT *, CASE WHEN :stratified
        THEN floor((place - 0.5) * 18446744073709551616 / max(place) OVER (PARTITION BY leading_label))
        ELSE ('x' || encode(substr(hash, 1, 4), 'hex'))::bit(32)::bigint::numeric * 4294967296
            + ('x' || encode(substr(hash, 5, 4), 'hex'))::bit(32)::bigint END AS position
    FROM ranked
), chosen AS (
    SELECT * FROM placed
    WHERE (valid OR NOT :only_valid)
        AND NOT EXISTS (SELECT FROM jsonb_array_elements(findings) AS one WHERE one->>0 = ANY(:exclude_flags))
        AND (CAST(:labels AS text[]) IS NULL OR label = ANY(CAST(:labels AS text[])))
        AND (CAST(:licenses AS text[]) IS NULL OR license = ANY(CAST(:licenses AS text[])))
        AND (:min_width = 0 OR width >= :min_width) AND (:min_height = 0 OR height >= :min_height)
    ORDER BY digest, copy LIMIT :limit
), sorted AS (
    SELECT *,
        least(width::bigint * height, CAST(:longest AS bigint) ^ 2, CAST(:unknown_bytes AS bigint) * 8)::bigint
            AS pixels,
        (SELECT count(*) FROM unnest(CAST(:bounds AS numeric[])) AS bound WHERE bound <= position) AS split
    FROM chosen
), costed AS (
    SELECT *, 3 * letters + 2000 + CASE
        WHEN format = ANY(:copied) AND NOT (:turns AND format = 'jpg' AND orientation <> 1) THEN file_size
        WHEN format = ANY(:copied) THEN file_size + file_size / 8
        WHEN :lossy THEN least(pixels * 3, file_size * 2) + 65536
        ELSE pixels * 4 + 65536 END AS cost
    FROM sorted
)
SELECT :export, row_number() OVER place - 1, id, split, digest, copy, cost, sum(cost) OVER place
FROM costed WINDOW place AS (ORDER BY split, digest, copy ROWS UNBOUNDED PRECEDING)
"""


def choose(session: Session, job_id: int, crawl_job_id: int, choice: Choice) -> int:
    """Write down which images an export has, in the order in which they will lie in it; return how many they are."""
    session.execute(select(func.set_config("statement_timeout", f"{int(_CHOOSING.total_seconds())}s", True)))
    session.execute(delete(ExportItem).where(ExportItem.export_job_id == job_id))
    session.execute(
        text(_CHOOSE),
        {
            "export": job_id,
            "job": crawl_job_id,
            "judge": choice.judge,
            "only_valid": choice.only_valid,
            "exclude_flags": list(choice.exclude_flags),
            "labels": None if choice.labels is None else list(choice.labels),
            "licenses": None if choice.licenses is None else list(choice.licenses),
            "min_width": choice.min_width,
            "min_height": choice.min_height,
            "limit": choice.limit,
            "label": choice.label,
            "seed": str(choice.seed),
            # The last split takes what rounding leaves over.
            "bounds": [str(bound) for bound in choice.bounds[:-1]],
            "by_group": choice.by_group,
            "stratified": choice.stratified,
            "turns": choice.turns,
            "copied": list(choice.copied),
            "longest": choice.longest,
            "lossy": choice.lossy,
            "unknown_bytes": choice.unknown_bytes,
        },
    )
    return session.scalar(select(func.count()).where(ExportItem.export_job_id == job_id)) or 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Images of one archive: their places in the export, and the split of the first."""

    first: int
    last: int
    split: int


def cut(  # noqa: PLR0913 - an archive has as many limits
    session: Session, job_id: int, first: int, *, most_bytes: int, most_images: int, one_split: bool
) -> Cut | None:
    """Return the images that follow in an export from one on, as many as an archive may have; None behind the last.

    Args:
        session: any transaction.
        job_id: the export job.
        first: place of the first of them.
        most_bytes: that they may take; a single image may take more.
        most_images: of the archive.
        one_split: end where another split begins.
    """
    begin = session.execute(
        select(ExportItem.split, ExportItem.upto, ExportItem.cost).where(
            ExportItem.export_job_id == job_id, ExportItem.seq == first
        )
    ).one_or_none()
    if begin is None:
        return None
    within = ExportItem.upto <= begin.upto - begin.cost + most_bytes
    near = ExportItem.seq.between(first, first + most_images - 1)
    last = select(func.max(ExportItem.seq)).where(ExportItem.export_job_id == job_id, near, within)
    if one_split:
        last = last.where(ExportItem.split == begin.split)
    return Cut(first, max(session.scalar(last) or first, first), begin.split)


def _labels(session: Session, job_id: int, *, unlabelled: str) -> list[str]:
    found = session.scalars(
        select(func.coalesce(ImageFact.label, literal(unlabelled)))
        .select_from(ExportItem)
        .outerjoin(ImageFact, ImageFact.image_id == ExportItem.image_id)
        .where(ExportItem.export_job_id == job_id)
        .distinct()
    )
    return sorted(found)


def items(session: Session, job_id: int, *, first: int, last: int, most: int | None = None) -> list[Item]:
    """Return the images at these places of an export, in their order; those whose rows are gone are left out.

    Args:
        session: any transaction.
        job_id: the export job.
        first: place of the first image.
        last: place of the last one.
        most: images that are taken evenly instead of all.
    """
    places = (ExportItem.export_job_id == job_id, ExportItem.seq.between(first, last))
    step = 1
    if most is not None:
        count = session.scalar(select(func.count()).where(*places)) or 0
        step = max(1, -(-count // most))
    query = (
        select(
            ExportItem.seq,
            ExportItem.split,
            ExportItem.digest,
            ExportItem.copy,
            Image.storage_url,
            Image.format,
            func.coalesce(ImageFact.sha256, ValidationResultRow.sha256),
            ValidationResultRow.metrics["orientation"].as_integer(),
            ImageFact.label,
            Image.width,
            Image.height,
            Image.file_size,
            func.coalesce(ImageFact.phash, ValidationResultRow.phash),
            Image.original_url,
            ImageFact.page_url,
            ImageFact.title,
            ImageFact.author,
            ImageFact.license,
            ImageFact.license_url,
            ImageFact.attribution,
            ImageFact.source,
            ImageFact.query,
            func.to_char(func.timezone("UTC", ImageFact.crawled_at), _TIME),
            ValidationResultRow.findings,
        )
        .select_from(ExportItem)
        .join(ExportPlan, ExportPlan.export_job_id == ExportItem.export_job_id)
        .join(Image, Image.id == ExportItem.image_id)
        .outerjoin(ImageFact, ImageFact.image_id == Image.id)
        .outerjoin(
            ValidationResultRow,
            (ValidationResultRow.validation_job_id == ExportPlan.validation_job_id)
            & (ValidationResultRow.image_id == Image.id),
        )
        .where(*places, (ExportItem.seq - first) % step == 0)
        .order_by(ExportItem.seq)
    )
    return [Item(*tuple(row)) for row in session.execute(query)]


def publish(  # noqa: PLR0913 - a row has as many columns
    session: Session,
    job_id: int,
    *,
    url: str,
    size: int,
    images: int,
    result: Mapping[str, Any],
    lives: timedelta,
    signed: timedelta,
) -> None:
    """Write down where an export's files are, and forget which images were chosen. The caller holds the job's lock.

    Args:
        session: the transaction that completes the job.
        job_id: the export job.
        url: of the archive, or of the manifest where there are several.
        size: of all archives, in bytes.
        images: images in them.
        result: exact totals and more, for `export_options.result`.
        lives: until the files are deleted.
        signed: until the link stops working.
    """
    session.execute(
        update(ExportJob)
        .where(ExportJob.id == job_id)
        .values(
            download_url=url,
            file_size=size if size <= _LARGEST_INT4 else None,
            exported_images=images,
            export_options=ExportJob.export_options.op("||")(literal({"result": dict(result)}, JSONB)),
            expires_at=_NOW + lives,
        )
    )
    session.execute(update(ExportPlan).where(ExportPlan.export_job_id == job_id).values(signed_until=_NOW + signed))
    session.execute(delete(ExportItem).where(ExportItem.export_job_id == job_id))


def expired(session: Session, *, limit: int) -> list[int]:
    """Return completed exports whose files have outlived their time and are still linked."""
    query = select(ExportJob.id).where(
        ExportJob.status == JobStatus.COMPLETED, ExportJob.expires_at < _NOW, ExportJob.download_url.is_not(None)
    )
    return list(session.scalars(query.order_by(ExportJob.id).limit(limit)))


def unlink(session: Session, job_id: int) -> None:
    """Forget where an export's files are, which are about to go. The row stays."""
    session.execute(update(ExportJob).where(ExportJob.id == job_id).values(download_url=None, updated_at=_NOW))


@dataclass(frozen=True, slots=True)
class Fading:
    """An export whose link stops working before its files go, what it wrote down, and how long they are still kept."""

    job_id: int
    result: dict[str, Any]
    lives: timedelta


def fading(session: Session, *, within: timedelta, limit: int) -> list[Fading]:
    """Return exports whose links stop working soon although their files live on."""
    query = (
        select(ExportJob.id, ExportJob.export_options["result"], ExportJob.expires_at - _NOW)
        .join(ExportPlan, ExportPlan.export_job_id == ExportJob.id)
        .where(
            ExportJob.status == JobStatus.COMPLETED,
            ExportJob.download_url.is_not(None),
            ExportPlan.signed_until < _NOW + within,
            ExportJob.expires_at > ExportPlan.signed_until,
        )
    )
    return [Fading(*tuple(row)) for row in session.execute(query.order_by(ExportJob.id).limit(limit))]


def relink(session: Session, job_id: int, *, url: str, signed: timedelta) -> None:
    """Write a fresh link into a row that still has one."""
    changed = session.scalar(
        update(ExportJob)
        .where(ExportJob.id == job_id, ExportJob.download_url.is_not(None))
        .values(download_url=url, updated_at=_NOW)
        .returning(ExportJob.id)
    )
    if changed is not None:
        session.execute(update(ExportPlan).where(ExportPlan.export_job_id == job_id).values(signed_until=_NOW + signed))


def files(session: Session, job_ids: Sequence[int]) -> dict[int, frozenset[str] | None]:
    """Return which files these export jobs may have, by name: None for any, where the job is not over.

    Jobs that are gone, have failed or expired are left out: they may have none. Whoever began to fetch the files of an
    export before its link went has an hour to end that.
    """
    lives = ExportJob.download_url.is_not(None) | (ExportJob.expires_at > _NOW - _GRACE)
    query = select(ExportJob.id, ExportJob.status, ExportJob.export_options["result"]["files"]).where(
        ExportJob.id.in_(job_ids),
        ExportJob.status.in_([JobStatus.PENDING, JobStatus.RUNNING])
        | ((ExportJob.status == JobStatus.COMPLETED) & lives),
    )
    return {
        job_id: frozenset(names or ()) if status == JobStatus.COMPLETED else None
        for job_id, status, names in session.execute(query)
    }

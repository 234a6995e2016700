"""Images to validate, and their validation results: read and written in bulk."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg.types.json import Jsonb
from sqlalchemy import BigInteger, any_, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pixcrawler_worker.db.each_row import write_each
from pixcrawler_worker.db.image_records import ImageRecord, record_of, select_images
from pixcrawler_worker.db.images import MEASURED_HASH_VERSION, METRICS_VERSION, metrics_of, signed
from pixcrawler_worker.db.models import Image
from pixcrawler_worker.db.private_models import ImageFact, ValidationResultRow
from pixcrawler_worker.db.session import describe, is_passing
from pixcrawler_worker.db.validations import selected
from pixcrawler_worker.domain.checks import Finding, Metrics, Severity, internal_error
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.postgres_types import MAX_INT4, storable_json
from pixcrawler_worker.domain.storage_keys import url_hash

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """The result of validating one image, what was measured, and the scores of classifiers by their names."""

    image_id: int
    valid: bool
    findings: Sequence[Finding]
    sha256: bytes | None
    facts: ImageFacts | None
    metrics: Metrics | None
    scores: Mapping[str, float] = field(default_factory=dict)


def images_to_validate(
    session: Session, crawl_job_id: int, *, first: int, last: int, threshold: int | None = None
) -> list[ImageRecord]:
    """Return the images of a range of ids, ordered by id.

    Args:
        session: of the transaction.
        crawl_job_id: whose images.
        first: id of the first image.
        last: id of the last image.
        threshold: of the sample, as `validations.sample_threshold` returns it; None for all images.
    """
    query = select_images().where(*selected(crawl_job_id, threshold), Image.id.between(first, last))
    return [record_of(row) for row in session.execute(query.order_by(Image.id))]


def recorded_metrics(session: Session, records: Sequence[ImageRecord]) -> dict[int, Metrics]:
    """Return what crawls have measured of images, by their ids.

    There is none of an image that no crawl, or an older version of this program has measured, and of one whose row says
    something else than what was measured.

    Args:
        session: of the transaction.
        records: the images.
    """
    # By the primary key, however many images the job has, and whatever the planner knows of the table.
    ids = literal([record.id for record in records], ARRAY(BigInteger))
    query = select(ImageFact.image_id, ImageFact.metrics).where(
        ImageFact.image_id == any_(ids),
        ImageFact.metrics_version == METRICS_VERSION,
        ImageFact.hash_version == MEASURED_HASH_VERSION,
    )
    recorded = {row.image_id: row.metrics for row in session.execute(query)}
    found = ((record.id, metrics_of(recorded.get(record.id), record)) for record in records)
    return {image_id: metrics for image_id, metrics in found if metrics is not None}


_COPY = """
COPY pixcrawler.verdicts (
    validation_job_id, image_id, valid, findings, sha256, phash, dhash, width, height, file_size, metrics
) FROM STDIN (FORMAT BINARY)
"""
_TYPES = ("bool", "jsonb", "bytea", "int8", "int8", "int4", "int4", "int4", "jsonb")
# A binary COPY needs the type that a column has: that of ids of images may be a bigint (deploy/ids-to-bigint.sql).
_TYPE_OF_IDS = """
SELECT format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = 'pixcrawler.verdicts'::regclass AND attname = 'image_id'
"""
_NO_FINDINGS = Jsonb([])
_METRICS = Metrics.__slots__
#: The types of metrics that queries read as numbers.
_NUMBERS = {
    **dict.fromkeys(("brightness_p5", "brightness_p99", "entropy", "std", "sharpness"), (int, float)),
    **dict.fromkeys(("channel_delta", "orientation"), (int,)),
}


def insert(session: Session, job_id: int, results: Iterable[ValidationResult]) -> None:
    """Write results with one COPY. A job has one result per image, because each image is in one chunk."""
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    type_of_ids = str(session.connection().exec_driver_sql(_TYPE_OF_IDS).scalar_one())
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(("int4", type_of_ids, *_TYPES))
        for result in results:
            copy.write_row(_row(job_id, result))


def insert_each(session: Session, job_id: int, results: Sequence[ValidationResult]) -> list[ValidationResult]:
    """Insert results as `insert` does, and those that the database rejects without what was measured and found.

    Returns:
        The results as they are now: one with the finding `internal_error` in place of a rejected one.

    Raises:
        DBAPIError, psycopg.Error: when no result can be inserted.
    """
    written = list(results)
    errors = _write_each(session, results, lambda part: insert(session, job_id, part))
    for position, line in errors.items():
        image_id = results[position].image_id
        log.error("validation result rejected by the database", image=image_id, reason=line)
        written[position] = _without_measurements(image_id, line)
    insert(session, job_id, [written[position] for position in errors])
    return written


def _write_each(session: Session, rows: Sequence[T], write: Callable[[Sequence[T]], None]) -> dict[int, str]:
    """Write rows as `write_each` does, and return the errors of those that the database rejects, by position.

    Raises:
        DBAPIError, psycopg.Error: when the error is not about the rows, because it passes.
    """

    def write_between(first: int, last: int) -> None:
        with session.begin_nested():
            write(rows[first:last])

    def is_about_a_row(error: Exception) -> bool:
        return not (isinstance(error, DBAPIError | psycopg.Error) and is_passing(error))

    errors = write_each(len(rows), write_between, is_about_a_row=is_about_a_row)
    return {position: describe(error) for position, error in errors.items()}


def _without_measurements(image_id: int, line: str) -> ValidationResult:
    return ValidationResult(
        image_id=image_id, valid=True, findings=[internal_error(line)], sha256=None, facts=None, metrics=None
    )


def _row(job_id: int, result: ValidationResult) -> tuple[object, ...]:
    facts = result.facts
    metrics = None if result.metrics is None else _metrics_json(result.metrics, result.scores)
    findings = findings_json(result.findings) if result.findings else _NO_FINDINGS
    if facts is None:
        return job_id, result.image_id, result.valid, findings, result.sha256, *[None] * 5, metrics
    if min(facts.width, facts.height) <= 0:
        raise ValueError(f"an image cannot have {facts.width}x{facts.height} pixels")
    return (
        job_id,
        result.image_id,
        result.valid,
        findings,
        facts.sha256,
        signed(facts.phash),
        signed(facts.dhash),
        facts.width,
        facts.height,
        min(facts.file_size, MAX_INT4),
        metrics,
    )


def _metrics_json(metrics: Metrics, scores: Mapping[str, float]) -> Jsonb:
    """Return metrics as queries read them, with scores where there are any.

    Raises:
        ValueError: when they are not the numbers that queries read.
    """
    values = {name: getattr(metrics, name) for name in _METRICS}
    for name, type_ in _NUMBERS.items():
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, type_) or not abs(value) <= MAX_INT4:
            raise ValueError(f"{name} is not a number that is measured")
    if scores:
        values["scores"] = dict(scores)
    return Jsonb({name: storable_json(value) for name, value in values.items()})


def findings_json(findings: Iterable[Finding]) -> Jsonb:
    """Return findings without what PostgreSQL cannot store: texts may quote untrusted bytes."""
    return Jsonb([[f.check, f.severity, storable_json(f.value), storable_json(f.threshold)] for f in findings])


def record_facts(
    session: Session,
    crawl_job_id: int,
    measured: Sequence[tuple[ImageRecord, ImageFacts]],
    *,
    hash_version: int,
    label: str,
) -> None:
    """Record what was measured of images whose rows another program wrote; values that are known already stay.

    What the database rejects of an image is not recorded.

    Raises:
        DBAPIError: when the error is not about a row.
    """

    def record(part: Sequence[tuple[ImageRecord, ImageFacts]]) -> None:
        _record_facts(session, crawl_job_id, part, hash_version=hash_version, label=label)

    for position, line in _write_each(session, measured, record).items():
        log.error("facts rejected by the database", image=measured[position][0].id, reason=line)


def _record_facts(
    session: Session,
    crawl_job_id: int,
    measured: Sequence[tuple[ImageRecord, ImageFacts]],
    *,
    hash_version: int,
    label: str,
) -> None:
    session.execute(
        text(
            """
            INSERT INTO pixcrawler.image_facts (
                image_id, crawl_job_id, sha256, url_hash, phash, dhash, hash_version, mode, frames, label, query, source
            )
            SELECT id, :job, :sha256, :url_hash, :phash, :dhash, :version, :mode, :frames, :label, :label, ''
            FROM images WHERE id = :image_id FOR KEY SHARE
            ON CONFLICT DO NOTHING
            """
        ),
        [
            {
                "image_id": image.id,
                "job": crawl_job_id,
                "sha256": facts.sha256,
                "url_hash": url_hash(image.original_url),
                "phash": signed(facts.phash),
                "dhash": signed(facts.dhash),
                "version": hash_version,
                "mode": facts.mode,
                "frames": facts.frames,
                "label": label,
            }
            for image, facts in measured
        ],
    )
    session.execute(
        text(
            """
            UPDATE images SET width = coalesce(width, :width), height = coalesce(height, :height),
                file_size = coalesce(file_size, :file_size), format = coalesce(format, :format)
            WHERE id = :id AND num_nulls(width, height, file_size, format) > 0
            """
        ),
        [
            {
                "id": image.id,
                "width": facts.width,
                "height": facts.height,
                "file_size": facts.file_size,
                "format": facts.format,
            }
            for image, facts in measured
        ],
    )


@dataclass(frozen=True, slots=True)
class ValidatedImage:
    """An image with its validation result, as a report shows it."""

    id: int
    filename: str
    storage_url: str | None
    label: str
    valid: bool
    findings: tuple[Finding, ...]
    width: int | None
    height: int | None
    metrics: Mapping[str, Any]
    keeper_id: int | None
    original_url: str
    page_url: str | None


def validated_images(session: Session, job_id: int) -> list[ValidatedImage]:
    """Return the images with a result of the job that still exist, ordered by id."""
    rows = session.execute(
        select(
            Image.id,
            Image.filename,
            Image.storage_url,
            ImageFact.label,
            ValidationResultRow.valid,
            ValidationResultRow.findings,
            ValidationResultRow.width,
            ValidationResultRow.height,
            ValidationResultRow.metrics,
            ValidationResultRow.keeper_id,
            Image.original_url,
            ImageFact.page_url,
        )
        .select_from(ValidationResultRow)
        .join(Image, Image.id == ValidationResultRow.image_id)
        .outerjoin(ImageFact, ImageFact.image_id == Image.id)
        .where(ValidationResultRow.validation_job_id == job_id)
        .order_by(Image.id)
    )
    return [
        ValidatedImage(
            id=row.id,
            filename=row.filename,
            storage_url=row.storage_url,
            label=row.label or "",
            valid=row.valid,
            findings=tuple(Finding(check, Severity(how), value, bound) for check, how, value, bound in row.findings),
            width=row.width,
            height=row.height,
            metrics=row.metrics or {},
            keeper_id=row.keeper_id,
            original_url=row.original_url,
            page_url=row.page_url,
        )
        for row in rows
    ]

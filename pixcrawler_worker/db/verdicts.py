"""Images to judge, and the verdicts on them: read and written in bulk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import Connection as PsycopgConnection
from psycopg.types.json import Jsonb
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from pixcrawler_worker.db.images import signed
from pixcrawler_worker.db.models import Image, ImageFact, VerdictRow
from pixcrawler_worker.db.validations import chosen
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.planning import url_hash
from pixcrawler_worker.domain.verdicts import Finding, Metrics, Severity

_UNSIGNED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Listed:
    """An image to judge, as its rows have it.

    Attributes:
        facts: what the crawl recorded; None when somebody else wrote the row.
    """

    id: int
    filename: str
    storage_url: str | None
    original_url: str
    credit: Credit
    facts: ImageFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a validation says of an image, and what it measured."""

    image_id: int
    valid: bool
    findings: Sequence[Finding]
    sha256: bytes | None
    facts: ImageFacts | None
    metrics: Metrics | None


def listed(session: Session, crawl_job_id: int, *, first: int, last: int, threshold: int | None = None) -> list[Listed]:
    """Return the images of a range with what is known of them, by their ids."""
    query = select(
        Image.id,
        Image.filename,
        Image.storage_url,
        Image.original_url,
        Image.width,
        Image.height,
        Image.file_size,
        Image.format,
        ImageFact.sha256,
        ImageFact.phash,
        ImageFact.dhash,
        ImageFact.mode,
        ImageFact.frames,
        ImageFact.page_url,
        ImageFact.title,
        ImageFact.author,
        ImageFact.license,
        ImageFact.license_url,
        ImageFact.attribution,
    ).outerjoin(ImageFact, ImageFact.image_id == Image.id)
    query = query.where(*chosen(crawl_job_id, threshold), Image.id.between(first, last)).order_by(Image.id)
    return [_listed(*tuple(row)) for row in session.execute(query)]


def _listed(  # noqa: PLR0913, PLR0917 - a row of the query above, column by column
    image_id: int,
    filename: str,
    storage_url: str | None,
    original_url: str,
    width: int | None,
    height: int | None,
    file_size: int | None,
    format_: str | None,
    sha256: bytes | None,
    phash: int,
    dhash: int,
    mode: str,
    frames: int,
    *credit: str | None,
) -> Listed:
    facts = None
    if sha256 is not None and width and height and file_size is not None and format_:
        facts = ImageFacts(
            sha256=sha256,
            format=format_,
            width=width,
            height=height,
            file_size=file_size,
            mode=mode,
            frames=frames,
            phash=phash & _UNSIGNED,
            dhash=dhash & _UNSIGNED,
        )
    page_url, title, author, license_, license_url, attribution = credit
    known = Credit(
        page_url=page_url,
        title=title,
        author=author,
        license=license_,
        license_url=license_url,
        attribution=attribution,
    )
    return Listed(image_id, filename, storage_url, original_url, known, facts)


_COPY = """
COPY pixcrawler.verdicts (
    validation_job_id, image_id, valid, findings, sha256, phash, dhash, width, height, file_size, metrics
) FROM STDIN (FORMAT BINARY)
"""
_TYPES = ("int4", "int4", "bool", "jsonb", "bytea", "int8", "int8", "int4", "int4", "int4", "jsonb")
_LARGEST_INT4 = 2**31 - 1
_NOTHING = Jsonb([])
_METRICS = Metrics.__slots__


def insert(session: Session, job_id: int, judged: Iterable[Verdict]) -> None:
    """Write verdicts: one COPY, however many. Each image has one of a job, whatever happens: it has one chunk."""
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, PsycopgConnection)
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for verdict in judged:
            copy.write_row(_row(job_id, verdict))


def _row(job_id: int, verdict: Verdict) -> tuple[object, ...]:
    facts = verdict.facts
    metrics = None if verdict.metrics is None else Jsonb({name: getattr(verdict.metrics, name) for name in _METRICS})
    findings = _written(verdict.findings) if verdict.findings else _NOTHING
    if facts is None:
        return job_id, verdict.image_id, verdict.valid, findings, verdict.sha256, *[None] * 5, metrics
    return (
        job_id,
        verdict.image_id,
        verdict.valid,
        findings,
        facts.sha256,
        signed(facts.phash),
        signed(facts.dhash),
        facts.width,
        facts.height,
        min(facts.file_size, _LARGEST_INT4),
        metrics,
    )


def _written(findings: Iterable[Finding]) -> Jsonb:
    return Jsonb([[f.check, f.severity, _storable(f.value), _storable(f.threshold)] for f in findings])


def _storable(value: object) -> object:
    """Return a value without what PostgreSQL cannot store: it may quote what a stranger wrote."""
    return value.replace("\x00", "").encode("utf-8", "replace").decode() if isinstance(value, str) else value


#: A row of `compared`, as PostgreSQL's binary COPY has it: a count of fields, and each field behind its length.
_COMPARED = np.dtype(
    [
        ("fields", ">i2"),
        *(
            part
            for name, type_ in (
                ("image_id", ">i4"),
                ("sha256", "V32"),
                ("phash", ">i8"),
                ("dhash", ">i8"),
                ("pixels", ">i8"),
                ("file_size", ">i4"),
                ("plain", "i1"),
                ("valid", "i1"),
            )
            for part in ((f"_{name}", ">i4"), (name, type_))
        ),
    ]
)
_COPY_HEADER, _COPY_TRAILER = 19, 2
_COMPARE = """
COPY (
    SELECT v.image_id, v.sha256, v.phash, v.dhash, v.width::int8 * v.height, v.file_size,
        coalesce((v.metrics->>'entropy')::float8 < {entropy} OR (v.metrics->>'std')::float8 < {std}, false),
        v.valid
    FROM pixcrawler.verdicts v
    WHERE v.validation_job_id = {job} AND v.phash IS NOT NULL
    ORDER BY v.image_id
) TO STDOUT (FORMAT BINARY)
"""


def compared(session: Session, job_id: int, *, entropy_below: float, std_below: float) -> NDArray[np.void]:
    """Return what is compared of all images that a job could open, as a structured array, by their ids.

    Fields: `image_id`, `sha256`, `phash`, `dhash` (as signed 64-bit numbers), `pixels`, `file_size`, `plain`: 1 for a
    picture that shows too little for its hash to tell anything, and `valid`: 1 when nothing was held against it so far.
    A million take a hundred megabytes.
    """
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, PsycopgConnection)
    query = _COMPARE.format(job=int(job_id), entropy=float(entropy_below), std=float(std_below))
    received = bytearray()
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for block in copy:
            received += block
    return np.frombuffer(received, dtype=_COMPARED, offset=_COPY_HEADER, count=_rows(received))


def _rows(received: bytearray) -> int:
    count, rest = divmod(len(received) - _COPY_HEADER - _COPY_TRAILER, _COMPARED.itemsize)
    assert rest == 0, "PostgreSQL sends rows of one size"
    return count


@dataclass(frozen=True, slots=True)
class Amendment:
    """What comparing the images of a job adds to the verdict on one of them."""

    image_id: int
    findings: Sequence[Finding]
    damned: bool
    keeper_id: int | None


def amend(session: Session, job_id: int, amendments: Sequence[Amendment]) -> int:
    """Add to verdicts what a comparison found; return how many valid images became invalid by that."""
    if not amendments:
        return 0
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, PsycopgConnection)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE amendments (image_id int4, findings jsonb, damned bool, keeper_id int4) ON COMMIT DROP"
        )
        with cursor.copy("COPY amendments FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(("int4", "jsonb", "bool", "int4"))
            for one in amendments:
                copy.write_row((one.image_id, _written(one.findings), one.damned, one.keeper_id))
    fallen = session.scalar(
        text(
            """
            WITH amended AS (
                UPDATE pixcrawler.verdicts AS v
                SET findings = v.findings || a.findings, valid = v.valid AND NOT a.damned, keeper_id = a.keeper_id
                FROM amendments AS a, pixcrawler.verdicts AS before
                WHERE v.validation_job_id = :job AND v.image_id = a.image_id
                    AND before.validation_job_id = :job AND before.image_id = a.image_id
                RETURNING before.valid AND a.damned AS fell
            )
            SELECT count(*) FROM amended WHERE fell
            """
        ),
        {"job": job_id},
    )
    return fallen or 0


def record_facts(
    session: Session, crawl_job_id: int, measured: Sequence[tuple[Listed, ImageFacts]], *, hash_version: int, label: str
) -> None:
    """Record what was measured of images whose rows somebody else wrote; what is known already stays."""
    if not measured:
        return
    session.execute(
        text(
            """
            INSERT INTO pixcrawler.image_facts (
                image_id, crawl_job_id, sha256, url_hash, phash, dhash, hash_version, mode, frames, label, query, source
            )
            VALUES (:image_id, :job, :sha256, :url_hash, :phash, :dhash, :version, :mode, :frames, :label, :label, '')
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
class Judged:
    """An image with what a validation says of it, as a report shows it."""

    id: int
    filename: str
    storage_url: str | None
    label: str
    valid: bool
    findings: tuple[Finding, ...]
    width: int | None
    height: int | None
    metrics: Mapping[str, float]
    keeper_id: int | None


def judged(session: Session, job_id: int) -> list[Judged]:
    """Return everything that a job says of images that are still there, by their ids."""
    rows = session.execute(
        select(
            Image.id,
            Image.filename,
            Image.storage_url,
            ImageFact.label,
            VerdictRow.valid,
            VerdictRow.findings,
            VerdictRow.width,
            VerdictRow.height,
            VerdictRow.metrics,
            VerdictRow.keeper_id,
        )
        .select_from(VerdictRow)
        .join(Image, Image.id == VerdictRow.image_id)
        .outerjoin(ImageFact, ImageFact.image_id == Image.id)
        .where(VerdictRow.validation_job_id == job_id)
        .order_by(Image.id)
    )
    return [
        Judged(
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
        )
        for row in rows
    ]

"""Images of a validation that are compared with each other, and what comparing them adds to its results."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from pixcrawler_worker.db import extensions
from pixcrawler_worker.db.validation_results import findings_json
from pixcrawler_worker.db.validations import effective_validation
from pixcrawler_worker.domain.checks import Finding

#: A row of `comparable_images` in PostgreSQL's binary COPY format: the number of fields, then each with its length.
_COMPARABLE = np.dtype(
    [
        ("fields", ">i2"),
        *(
            part
            for name, type_ in (
                ("image_id", ">i8"),
                ("sha256", "V32"),
                ("phash", ">i8"),
                ("dhash", ">i8"),
                ("pixels", ">i8"),
                ("file_size", ">i4"),
                ("plain", "i1"),
                ("valid", "i1"),
                ("extended", "i1"),
            )
            for part in ((f"_{name}", ">i4"), (name, type_))
        ),
    ]
)
_COPY_HEADER, _COPY_TRAILER = 19, 2
_COMPARE = """
COPY (
    SELECT v.image_id::int8, v.sha256, v.phash, v.dhash, v.width::int8 * v.height, v.file_size,
        coalesce((v.metrics->>'entropy')::float8 < {entropy} OR (v.metrics->>'std')::float8 < {std}, false),
        v.valid, false
    FROM pixcrawler.verdicts v
    WHERE v.validation_job_id = {job} AND octet_length(v.sha256) = 32
        AND num_nulls(v.phash, v.dhash, v.width, v.height, v.file_size) = 0
    UNION ALL
    SELECT i.id::int8, f.sha256, f.phash, f.dhash, i.width::int8 * i.height, i.file_size,
        coalesce((f.metrics->>'entropy')::float8 < {entropy} OR (f.metrics->>'std')::float8 < {std}, false),
        true, true
    FROM images i JOIN pixcrawler.image_facts f ON f.image_id = i.id
    WHERE i.crawl_job_id = ANY('{bases}') AND octet_length(f.sha256) = 32
        AND num_nulls(i.width, i.height, i.file_size) = 0
        AND NOT EXISTS (
            SELECT FROM pixcrawler.verdicts v
            WHERE v.validation_job_id = ANY('{validations}') AND v.image_id = i.id AND NOT v.valid
        )
    ORDER BY 1
) TO STDOUT (FORMAT BINARY)
"""


def comparable_images(
    session: Session, job_id: int, crawl_job_id: int, *, entropy_below: float, std_below: float
) -> NDArray[np.void]:
    """Return what is compared of all images that the job could decode, as a structured array ordered by id.

    Fields: `image_id`, `sha256`, `phash`, `dhash` (as signed 64-bit numbers), `pixels`, `file_size`, `plain`: 1 for an
    image with too little information for its hashes to be compared, `valid`: 1 for an image that is valid so far, and
    `extended`: 1 for a valid image of a crawl job that the crawl job extends, as that crawl has measured it. A million
    images take 100 MB.

    Args:
        session: of the transaction.
        job_id: the row in `validation_jobs`.
        crawl_job_id: its crawl job.
        entropy_below: images with less entropy, in bits, are plain.
        std_below: images with a smaller standard deviation of gray levels are plain.
    """
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    *bases, _ = extensions.chain(session, crawl_job_id)
    used = [effective_validation(session, base) for base in bases]
    query = _COMPARE.format(
        job=int(job_id),
        entropy=float(entropy_below),
        std=float(std_below),
        bases=_int_array(bases),
        validations=_int_array([one for one in used if one is not None]),
    )
    received = bytearray()
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for block in copy:
            received += block
    return np.frombuffer(received, dtype=_COMPARABLE, offset=_COPY_HEADER, count=_rows(received))


def _int_array(numbers: Sequence[int]) -> str:
    return f"{{{','.join(str(int(number)) for number in numbers)}}}"


def _rows(received: bytearray) -> int:
    count, rest = divmod(len(received) - _COPY_HEADER - _COPY_TRAILER, _COMPARABLE.itemsize)
    assert rest == 0, "PostgreSQL sends rows of one size"
    return count


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """What comparing all images of a job adds to the validation result of one of them.

    Attributes:
        image_id: of the image.
        findings: of the checks that compare.
        valid: whether these findings leave the image valid.
        keeper_id: the image that is kept in place of this one, a duplicate of it.
    """

    image_id: int
    findings: Sequence[Finding]
    valid: bool
    keeper_id: int | None


def add_comparisons(session: Session, job_id: int, compared: Sequence[ComparisonResult]) -> int:
    """Add the results of a comparison to validation results; return how many images became invalid."""
    if not compared:
        return 0
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE compared (image_id int8, findings jsonb, valid bool, keeper_id int8) ON COMMIT DROP"
        )
        with cursor.copy("COPY compared FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(("int8", "jsonb", "bool", "int8"))
            for one in compared:
                copy.write_row((one.image_id, findings_json(one.findings), one.valid, one.keeper_id))
    invalidated = session.scalar(
        text(
            """
            WITH updated AS (
                UPDATE pixcrawler.verdicts AS v
                SET findings = v.findings || c.findings, valid = v.valid AND c.valid, keeper_id = c.keeper_id
                FROM compared AS c, pixcrawler.verdicts AS before
                WHERE v.validation_job_id = :job AND v.image_id = c.image_id
                    AND before.validation_job_id = :job AND before.image_id = c.image_id
                RETURNING before.valid AND NOT c.valid AS invalidated
            )
            SELECT count(*) FROM updated WHERE invalidated
            """
        ),
        {"job": job_id},
    )
    return invalidated or 0


def remove_comparisons(
    session: Session, job_id: int, *, checks: Collection[str], invalidating: Collection[str]
) -> None:
    """Remove what a comparison has added to validation results, and count the images of the job again.

    Args:
        session: of a transaction that holds the job's lock.
        job_id: the row in `validation_jobs`.
        checks: names of the checks that compare.
        invalidating: severities of findings that make an image invalid.
    """
    session.execute(
        text(
            """
            UPDATE pixcrawler.verdicts AS v
            SET findings = others.findings, valid = others.valid, keeper_id = NULL
            FROM (
                SELECT image_id, coalesce(jsonb_agg(f.finding ORDER BY f.position)
                        FILTER (WHERE f.finding->>0 <> ALL (:checks)), '[]') AS findings,
                    coalesce(bool_and(f.finding->>1 <> ALL (:invalidating))
                        FILTER (WHERE f.finding->>0 <> ALL (:checks)), true) AS valid
                FROM pixcrawler.verdicts, jsonb_array_elements(findings) WITH ORDINALITY AS f (finding, position)
                WHERE validation_job_id = :job
                GROUP BY image_id
            ) AS others
            WHERE v.validation_job_id = :job AND v.image_id = others.image_id
                AND jsonb_array_length(v.findings) > jsonb_array_length(others.findings)
            """
        ),
        {"job": job_id, "checks": sorted(checks), "invalidating": sorted(invalidating)},
    )
    session.execute(
        text(
            """
            UPDATE validation_jobs SET validated_images = counted.valid, invalid_images = counted.invalid
            FROM (
                SELECT count(*) FILTER (WHERE valid) AS valid, count(*) FILTER (WHERE NOT valid) AS invalid
                FROM pixcrawler.verdicts WHERE validation_job_id = :job
            ) AS counted
            WHERE id = :job
            """
        ),
        {"job": job_id},
    )

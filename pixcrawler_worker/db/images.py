"""Rows of images and their facts: inserting in bulk, candidates, files, deleting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import delete, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pixcrawler_worker.db.each_row import write_each
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.models import Image
from pixcrawler_worker.db.session import describe, is_about_a_row
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.postgres_types import storable
from pixcrawler_worker.errors import PermanentError

#: Which pipeline made `phash` and `dhash`, of images that were inspected and of those that were measured: hashes of
#: different versions may differ by a bit.
HASH_VERSION, MEASURED_HASH_VERSION = 1, 2
#: Which pipeline measured: metrics of another version are not used.
METRICS_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """An image whose file is in storage and whose row is still to be written.

    Attributes:
        metrics: of its file, whose facts come from the same pass then; None when it was only inspected.
    """

    url: str
    url_hash: bytes
    filename: str
    storage_url: str
    facts: ImageFacts
    label: str
    query: str
    source: str
    credit: Credit
    metrics: Metrics | None = None


_COLUMNS = (
    ("position", "int4"),
    ("url_hash", "bytea"),
    ("sha256", "bytea"),
    ("original_url", "text"),
    ("filename", "text"),
    ("storage_url", "text"),
    ("width", "int4"),
    ("height", "int4"),
    ("file_size", "int4"),
    ("format", "text"),
    ("phash", "int8"),
    ("dhash", "int8"),
    ("mode", "text"),
    ("frames", "int4"),
    ("label", "text"),
    ("query", "text"),
    ("source", "text"),
    ("page_url", "text"),
    ("title", "text"),
    ("author", "text"),
    ("license", "text"),
    ("license_url", "text"),
    ("attribution", "text"),
    ("hash_version", "int2"),
    ("metrics_version", "int2"),
    ("metrics", "jsonb"),
)

_CREATE = sql.SQL("CREATE TEMP TABLE incoming ({columns}) ON COMMIT DROP").format(
    columns=sql.SQL(", ").join(sql.SQL(f"{name} {type_}") for name, type_ in _COLUMNS)
)
_COPY = sql.SQL("COPY incoming FROM STDIN (FORMAT BINARY)")

# The foreign key of the facts is checked when the whole statement is done, so the unique indexes can decide first
# which images are new. The order of the inserts is always the same: two chunks with the same images
# wait for each other in one direction only.
_INSERT = """
WITH fresh AS (
    INSERT INTO pixcrawler.image_facts (
        image_id, crawl_job_id, sha256, url_hash, phash, dhash, hash_version, mode, frames, label, query, source,
        page_url, title, author, license, license_url, attribution, metrics_version, metrics)
    SELECT nextval('images_id_seq'), %(job)s, sha256, url_hash, phash, dhash, hash_version, mode, frames, label, query,
        source, page_url, title, author, license, license_url, attribution, metrics_version, metrics
    FROM (SELECT * FROM incoming ORDER BY sha256) AS incoming
    ON CONFLICT DO NOTHING
    RETURNING image_id, sha256
), written AS (
    INSERT INTO images (
        id, crawl_job_id, original_url, filename, storage_url, width, height, file_size, format)
    SELECT image_id, %(job)s, original_url, filename, storage_url, width, height, file_size, format
    FROM fresh JOIN incoming USING (sha256)
)
SELECT position FROM fresh JOIN incoming USING (sha256) ORDER BY position
"""


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of images.

    Attributes:
        positions: of those that were new.
        errors: by the positions of those that the database rejected.
    """

    positions: Sequence[int]
    errors: Mapping[int, str]


def insert_each(session: Session, job_id: int, found: Sequence[NewImage]) -> Inserted:
    """Insert the images as `insert_new` does, without those that the database rejects.

    They are inserted together. After an error each half is tried, then the halves of a half, each in a savepoint.

    Raises:
        DBAPIError, psycopg.Error: when the error is not about a row, or every image is rejected: no image is to blame.
    """
    positions: list[int] = []

    def insert(first: int, last: int) -> None:
        new = insert_new(session, job_id, found[first:last])
        if last - first < len(found):
            session.connection().exec_driver_sql("DROP TABLE incoming")
        positions.extend(first + position for position in new)

    errors = write_each(session, len(found), insert, is_about_a_row=_is_about_a_row)
    if found and len(errors) == len(found):
        raise errors[0]
    return Inserted(positions, {position: describe(error) for position, error in errors.items()})


def _is_about_a_row(error: Exception) -> bool:
    return isinstance(error, DBAPIError | psycopg.Error) and is_about_a_row(error)


def insert_new(session: Session, job_id: int, found: Sequence[NewImage]) -> list[int]:
    """Insert the images that the job does not have by URL or by bytes; return their positions in `found`.

    COPY into a temporary table and one INSERT: three statements, however many images. No two of `found` may have the
    same bytes.

    Raises:
        PermanentError: when the sequence of the ids has come to its end: an operator has to act.
    """
    if not found:
        return []
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    with connection.cursor() as cursor:
        cursor.execute(_CREATE)
        with cursor.copy(_COPY) as copy:
            copy.set_types([type_ for _, type_ in _COLUMNS])
            for position, image in enumerate(found):
                copy.write_row(_row(position, image))
        try:
            cursor.execute(_INSERT, {"job": job_id})
        except psycopg.errors.SequenceGeneratorLimitExceeded as error:
            raise PermanentError(
                f"the ids of images are used up: {describe(error)}; see `pixcrawler db report` and docs/operations.md"
            ) from error
        return [position for (position,) in cursor.fetchall()]


def _row(position: int, image: NewImage) -> tuple[object, ...]:
    facts, credit = image.facts, image.credit
    return (
        position,
        image.url_hash,
        facts.sha256,
        _text(image.url),
        image.filename,
        image.storage_url,
        facts.width,
        facts.height,
        facts.file_size,
        facts.format,
        signed(facts.phash),
        signed(facts.dhash),
        facts.mode,
        facts.frames,
        image.label,
        image.query,
        image.source,
        _text(credit.page_url),
        _text(credit.title),
        _text(credit.author),
        _text(credit.license),
        _text(credit.license_url),
        _text(credit.attribution),
        HASH_VERSION if image.metrics is None else MEASURED_HASH_VERSION,
        None if image.metrics is None else METRICS_VERSION,
        None if image.metrics is None else Jsonb(recorded_metrics(facts, image.metrics)),
    )


def recorded_metrics(facts: ImageFacts, metrics: Metrics) -> dict[str, object]:
    """Return what is recorded of an image that was measured.

    Besides the metrics, what rows of `images` have of the same pass: another program may write these.
    """
    return {name: getattr(metrics, name) for name in _METRICS} | {name: getattr(facts, name) for name in _MEASURED}


def metrics_of(recorded: object, image: ImageRecord) -> Metrics | None:
    """Return the metrics in what `recorded_metrics` has returned; None when its image is no longer what it was.

    Args:
        recorded: of the row.
        image: the row of the image. Another program may have written both.
    """
    if not isinstance(recorded, dict) or recorded.keys() != {*_METRICS, *_MEASURED}:
        return None
    if any(type(recorded[name]) not in types for name, types in _TYPES.items()):
        return None
    if any(recorded[name] != getattr(image, name) for name in _MEASURED):
        return None
    return Metrics(**{name: recorded[name] for name in _METRICS})


#: Names of metrics that are recorded, and of facts that are recorded with them. What a strict decoder says is not: a
#: crawl has none.
_METRICS = tuple(name for name in Metrics.__slots__ if name != "strict_error")
_MEASURED = ("format", "width", "height")
#: Types of recorded metrics. JSON has no difference between 1 and 1.0.
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("brightness_p5", "brightness_p99", "entropy", "std", "sharpness"), (float, int)),
    **dict.fromkeys(("channel_delta", "orientation"), (int,)),
    **dict.fromkeys(("transparent", "gps"), (bool,)),
}


def signed(bits: int) -> int:
    """Return 64 bits as the signed number that PostgreSQL's int8 stores."""
    return bits - (1 << 64) if bits >> 63 else bits


def _text(value: str | None) -> str | None:
    """Return a text without characters that PostgreSQL cannot store."""
    return None if value is None else storable(value)


def files(session: Session, job_id: int) -> frozenset[str]:
    """Return the storage URLs in the rows of the job."""
    named = select(Image.storage_url).where(Image.crawl_job_id == job_id, Image.storage_url.is_not(None))
    return frozenset(url for url in session.scalars(named) if url is not None)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The file of an image: the row's id, and where and how large the file is."""

    id: int
    storage_url: str
    file_size: int | None


def stored_files(session: Session, job_id: int) -> list[StoredFile]:
    """Return the files in the rows of the job, ordered by id."""
    query = select(Image.id, Image.storage_url, Image.file_size).where(
        Image.crawl_job_id == job_id, Image.storage_url.is_not(None)
    )
    return [
        StoredFile(id=row.id, storage_url=row.storage_url, file_size=row.file_size)
        for row in session.execute(query.order_by(Image.id))
    ]


def delete_images(session: Session, image_ids: Sequence[int]) -> int:
    """Delete rows of images with their facts; return how many existed."""
    gone = session.scalars(delete(Image).where(Image.id.in_(image_ids)).returning(Image.id))
    return len(gone.all())

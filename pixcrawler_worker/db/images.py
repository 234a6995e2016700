"""Rows of images and their facts: inserting in bulk, candidates, files, deleting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import ARRAY, BigInteger, any_, delete, literal, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pixcrawler_worker.db.each_row import write_each
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.models import Image
from pixcrawler_worker.db.session import describe, driver, execute_text, is_about_a_row
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import Credit, ImageFacts
from pixcrawler_worker.domain.postgres_types import storable, storable_json
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
        caption: of the URL list; None for none.
        columns: the values of the list's other columns, in JSON, by name; None for none.
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
    caption: str | None = None
    columns: Mapping[str, object] | None = None


#: Columns of both tables with their types, as rows are written.
_IMAGES = {
    "id": "int8",
    "crawl_job_id": "int4",
    "original_url": "text",
    "filename": "text",
    "storage_url": "text",
    "width": "int4",
    "height": "int4",
    "file_size": "int4",
    "format": "text",
}
_FACTS = {
    "image_id": "int8",
    "crawl_job_id": "int4",
    "sha256": "bytea",
    "url_hash": "bytea",
    "phash": "int8",
    "dhash": "int8",
    "mode": "text",
    "frames": "int4",
    "label": "text",
    "query": "text",
    "source": "text",
    "page_url": "text",
    "title": "text",
    "author": "text",
    "license": "text",
    "license_url": "text",
    "attribution": "text",
    "hash_version": "int2",
    "metrics_version": "int2",
    "metrics": "jsonb",
    "caption": "text",
    "columns": "jsonb",
}
# Planned each time: prepared while the table was empty and vacuumed, it would read all that is inserted since.
_RESERVE = """
SELECT ARRAY(SELECT sha256 FROM pixcrawler.image_facts WHERE crawl_job_id = %(job)s AND sha256 = ANY(%(sha256)b)),
    ARRAY(SELECT nextval('images_id_seq') FROM generate_series(1, %(count)s))
"""
# As text: `deploy/ids-to-bigint.sql` may have changed the types of ids, which a binary COPY has to name.
_COPY_IMAGES = f"COPY images ({', '.join(_IMAGES)}) FROM STDIN"
_COPY_FACTS = f"COPY pixcrawler.image_facts ({', '.join(_FACTS)}) FROM STDIN"
# The facts go first, whose unique indexes decide which images are new.
_INSERT_FACTS = sql.SQL(
    """
WITH fresh AS (
    INSERT INTO pixcrawler.image_facts ({facts}) SELECT {facts} FROM unnest({fact_values}) AS incoming ({facts})
    ON CONFLICT DO NOTHING
    RETURNING image_id
), written AS (
    INSERT INTO images ({images})
    SELECT {images} FROM unnest({image_values}) AS incoming ({images}) JOIN fresh ON fresh.image_id = incoming.id
)
SELECT image_id FROM fresh
"""
).format(
    facts=sql.SQL(", ").join(map(sql.SQL, _FACTS)),
    images=sql.SQL(", ").join(map(sql.SQL, _IMAGES)),
    fact_values=sql.SQL(", ").join(sql.SQL(f"%(fact_{name})s::{type_}[]") for name, type_ in _FACTS.items()),
    image_values=sql.SQL(", ").join(sql.SQL(f"%(image_{name})s::{type_}[]") for name, type_ in _IMAGES.items()),
)


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

    They are inserted together. After an error each half is tried, then the halves of a half.

    Raises:
        DBAPIError, psycopg.Error: when the error is not about a row, or every image is rejected: no image is to blame.
    """
    positions: list[int] = []

    def insert_between(first: int, last: int) -> None:
        positions.extend(first + position for position in insert_new(session, job_id, found[first:last]))

    errors = write_each(len(found), insert_between, is_about_a_row=_is_about_a_row)
    if found and len(errors) == len(found):
        raise errors[0]
    return Inserted(sorted(positions), {position: describe(error) for position, error in errors.items()})


def _is_about_a_row(error: Exception) -> bool:
    # Of an id that is taken: the next ones may be free.
    if isinstance(error, psycopg.errors.UniqueViolation):
        return False
    return isinstance(error, DBAPIError | psycopg.Error) and is_about_a_row(error)


def insert_new(session: Session, job_id: int, found: Sequence[NewImage]) -> list[int]:
    """Insert the images that the job does not have by URL or by bytes; return their positions in `found`.

    One statement reserves ids and finds the bytes that the job has, a COPY into each table does the rest. If a unique
    index rejects that, because another transaction has inserted the same bytes at this moment or a URL was there, all
    is inserted again by a statement in which the indexes decide. No two of `found` may have the same bytes.

    Raises:
        PermanentError: when the sequence of the ids has come to its end: an operator has to act.
        DBAPIError, psycopg.Error: and nothing is inserted.
    """
    if not found:
        return []
    try:
        with session.begin_nested():
            return _copy(session, job_id, found)
    except psycopg.errors.UniqueViolation:
        with session.begin_nested():
            return _insert_unless_known(session, job_id, found)


def _copy(session: Session, job_id: int, found: Sequence[NewImage]) -> list[int]:
    """Insert images whose bytes the job does not have; return their positions.

    Raises:
        UniqueViolation: when it has the URL of one, or gets such an image at this moment. Roll back.
    """
    known, by_id = _reserve(session, job_id, found)
    new = {id_: position for id_, position in by_id.items() if found[position].facts.sha256 not in known}
    with driver(session).cursor() as cursor:
        with cursor.copy(_COPY_IMAGES) as copy:
            for id_, position in new.items():
                copy.write_row(_image_row(id_, job_id, found[position]))
        with cursor.copy(_COPY_FACTS) as copy:
            for id_, position in new.items():
                copy.write_row(_fact_row(id_, job_id, found[position]))
    return sorted(new.values())


def _insert_unless_known(session: Session, job_id: int, found: Sequence[NewImage]) -> list[int]:
    """Insert those images that conflict with no others, by the unique indexes; return their positions."""
    _, by_id = _reserve(session, job_id, found)
    image_columns = zip(*(_image_row(id_, job_id, found[at]) for id_, at in by_id.items()), strict=True)
    fact_columns = zip(*(_fact_row(id_, job_id, found[at]) for id_, at in by_id.items()), strict=True)
    values = {f"image_{name}": list(column) for name, column in zip(_IMAGES, image_columns, strict=True)}
    values |= {f"fact_{name}": list(column) for name, column in zip(_FACTS, fact_columns, strict=True)}
    return sorted(by_id[id_] for (id_,) in driver(session).execute(_INSERT_FACTS, values).fetchall())


def _reserve(session: Session, job_id: int, found: Sequence[NewImage]) -> tuple[frozenset[bytes], dict[int, int]]:
    """Return the bytes that the job has, by their hashes, and new ids with the positions of their images.

    The order of the inserts is always the same: two chunks with the same images wait for each other in one direction
    only.
    """
    order = sorted(range(len(found)), key=lambda position: found[position].facts.sha256)
    values = {"job": job_id, "sha256": [image.facts.sha256 for image in found], "count": len(found)}
    try:
        row = execute_text(session, _RESERVE, values).fetchone()
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.SequenceGeneratorLimitExceeded):
            raise PermanentError(
                f"the ids of images are used up: {describe(error)}; see `pixcrawler db report` and docs/operations.md"
            ) from error
        raise
    assert row is not None
    known, ids = row
    return frozenset(known), dict(zip(ids, order, strict=True))


def _image_row(id_: int, job_id: int, image: NewImage) -> tuple[object, ...]:
    facts = image.facts
    return (
        id_,
        job_id,
        _text(image.url),
        image.filename,
        image.storage_url,
        facts.width,
        facts.height,
        facts.file_size,
        facts.format,
    )


def _fact_row(id_: int, job_id: int, image: NewImage) -> tuple[object, ...]:
    facts, credit = image.facts, image.credit
    return (
        id_,
        job_id,
        facts.sha256,
        image.url_hash,
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
        _text(image.caption),
        None if image.columns is None else Jsonb(storable_json(image.columns)),
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
    # As one parameter: a statement has up to 65,535 of them.
    ids = literal(list(image_ids), ARRAY(BigInteger))
    gone = session.scalars(delete(Image).where(Image.id == any_(ids)).returning(Image.id))
    return len(gone.all())

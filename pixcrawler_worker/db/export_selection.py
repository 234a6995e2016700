"""Selecting the images of an export, in their order, and dividing them among archives."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from pixcrawler_worker.db.models import Image
from pixcrawler_worker.db.private_models import ExportItem, ImageFact
from pixcrawler_worker.domain.list_columns import MAX_COLUMNS, MAX_NUMBER, ColumnFacts, ListColumns

#: Selecting a million images takes longer than the usual timeout of a statement.
_SELECT_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which images an export selects, how it splits them, and how large their files can be.

    Attributes:
        crawl_job_ids: whose images are selected: those of a dataset that was extended, the oldest first.
        validation_ids: the effective validation of each; None when it has none.
        only_valid: leave out images that it found invalid.
        exclude_flags: leave out images that these checks flagged.
        labels: selected classes; None for all.
        licenses: selected licenses, by identifier; None for all.
        min_width: pixels.
        min_height: pixels.
        exclude_images: leave out images with these digests. One whose bytes nothing has measured is named by the
            digest of its URL, also after a validation has measured it.
        limit: maximum number of images; None for all.
        default_label: class of images without a label.
        seed: seed of the splits.
        bounds: upper bounds of the splits' positions (`domain/splits.py`); one for a dataset that is not split.
        by_group: keep near duplicates in one split.
        stratified: keep the ratios within each class.
        may_rotate: whether a JPEG with an orientation is rotated, which may make it a little larger.
        copied: formats whose files are copied unchanged.
        max_side: limit of the longer side of converted images, in pixels; None for no limit.
        enlarged_to: side that smaller images get, too, in pixels: the longer one, without `max_side` the shorter; None
            where they stay small.
        canvas: side of the square that images are centered on, in pixels; 0 for none. In lossy formats, what is around
            an image takes less than a bit per pixel.
        lossy: whether images are converted to a lossy format. There, noise at quality 90 takes less than three bytes
            per pixel, and photographs rarely more than twice their former size; lossless formats take four per pixel.
        unknown_bytes: upper bound of the size of a file whose size is not recorded, in bytes.
        overhead: bytes of an image besides its file and its texts.
    """

    crawl_job_ids: Sequence[int]
    validation_ids: Sequence[int | None]
    only_valid: bool
    exclude_flags: Sequence[str]
    labels: Sequence[str] | None
    licenses: Sequence[str] | None
    min_width: int
    min_height: int
    exclude_images: Sequence[bytes]
    limit: int | None
    default_label: str
    seed: int
    bounds: Sequence[int]
    by_group: bool
    stratified: bool
    may_rotate: bool
    copied: Sequence[str]
    max_side: int | None
    enlarged_to: int | None
    canvas: int
    lossy: bool
    unknown_bytes: int
    overhead: int


def licenses(session: Session, crawl_job_ids: Sequence[int]) -> list[str]:
    """Return the licenses of the images of crawl jobs."""
    of_jobs = select(ImageFact.license).join(Image, Image.id == ImageFact.image_id)
    found = of_jobs.where(Image.crawl_job_id.in_(crawl_job_ids), ImageFact.license.is_not(None))
    return [name for name in session.scalars(found.distinct()) if name is not None]


# Windows and orders depend on the content of the images, not on their ids or the order of their rows, so that the same
# images make the same dataset. Groups have all images of the crawl, so that a different selection moves no image.
# Of a dataset that was extended, each generation is a crawl job. The oldest images of a group name it, so that images
# that are added move no others into another split.
_IMAGES = """
    SELECT i.id, i.original_url, coalesce(f.sha256, v.sha256, sha256(convert_to(i.original_url, 'UTF8'))) AS digest,
        coalesce(nullif(f.label, ''), :default_label) AS label, f.license, {family},
        coalesce(v.valid, true) AS valid, coalesce(v.findings, '[]'::jsonb) AS findings,
        coalesce(v.width, i.width) AS width, coalesce(v.height, i.height) AS height, i.format,
        coalesce(v.file_size, i.file_size, :unknown_bytes)::bigint AS file_size,
        coalesce((v.metrics->>'orientation')::int, 0) AS orientation,
        octet_length(concat(i.original_url, f.page_url, f.title, f.author, f.license_url, f.attribution, f.query,
            f.label, f.caption, f.columns)) + CASE WHEN f.caption IS NULL THEN 0 ELSE 350 END AS letters
    FROM images AS i
    LEFT JOIN pixcrawler.image_facts AS f ON f.image_id = i.id
    LEFT JOIN pixcrawler.verdicts AS v ON v.validation_job_id = {validation} AND v.image_id = i.id
    WHERE i.crawl_job_id = {jobs} AND i.storage_url IS NOT NULL
"""
_OF_ONE = "known AS ({images})".format(
    images=_IMAGES.format(
        family="coalesce(v.keeper_id, i.id) AS family, 1 AS generation",
        validation="(CAST(:validation_ids AS int[]))[1]",
        jobs="(CAST(:jobs AS int[]))[1]",
    )
)
_GENERATION = "array_position(CAST(:jobs AS int[]), i.crawl_job_id)"
# The image that is kept in place of another one may be of an earlier generation, where it may have a group already. One
# that was deleted since still names the group of those that it was kept for.
_OF_SEVERAL = """found AS ({images}), roots (id, root) AS (
    SELECT found.id, coalesce(found.keeper_id, found.id)
    FROM found LEFT JOIN found AS kept ON kept.id = found.keeper_id AND kept.id <> found.id WHERE kept.id IS NULL
    UNION ALL
    SELECT found.id, roots.root FROM found JOIN roots ON roots.id = found.keeper_id WHERE found.keeper_id <> found.id
), oldest AS (
    SELECT found.*, coalesce(roots.root, found.keeper_id, found.id) AS family,
        min(generation) OVER (PARTITION BY digest) AS first_generation
    FROM found LEFT JOIN roots ON roots.id = found.id
), known AS (
    SELECT * FROM oldest WHERE generation = first_generation
)""".format(  # noqa: S608 - constants
    images=_IMAGES.format(
        family=f"v.keeper_id, {_GENERATION} AS generation",
        validation=f"""ANY(CAST(:validation_ids AS int[]))
        AND v.validation_job_id = (CAST(:validation_ids AS int[]))[{_GENERATION}]""",
        jobs="ANY(CAST(:jobs AS int[]))",
    )
)
_INSERT = """
INSERT INTO pixcrawler.export_items (export_job_id, seq, image_id, split, digest, copy, cost, upto)
WITH RECURSIVE excluded AS (
    SELECT unnest(CAST(:exclude_images AS bytea[])) AS digest
), {known}, keys AS (
    SELECT key FROM images AS i JOIN pixcrawler.image_facts AS f ON f.image_id = i.id
        CROSS JOIN jsonb_object_keys(CASE WHEN jsonb_typeof(f.columns) = 'object' THEN f.columns ELSE '{}' END) AS key
    WHERE i.crawl_job_id = ANY(CAST(:jobs AS int[])) AND f.columns IS NOT NULL
    GROUP BY key ORDER BY octet_length(key) DESC LIMIT :max_columns
), grouped AS (
    SELECT *, CASE WHEN :by_group
        THEN first_value(digest) OVER (PARTITION BY family ORDER BY generation, digest) ELSE digest END AS leader,
        row_number() OVER (PARTITION BY digest ORDER BY original_url, label, id) - 1 AS copy
    FROM known
), hashed AS (
    SELECT *, sha256(convert_to(:seed || ':' || encode(leader, 'hex'), 'UTF8')) AS hash,
        first_value(label) OVER (PARTITION BY leader ORDER BY generation, digest, label) AS leading_label
    FROM grouped
), ranked AS (
    SELECT *, dense_rank() OVER (PARTITION BY leading_label ORDER BY hash) AS place FROM hashed
), placed AS (
    SELECT *, CASE WHEN :stratified
        THEN floor((place - 0.5) * 18446744073709551616 / max(place) OVER (PARTITION BY leading_label))
        ELSE ('x' || encode(substr(hash, 1, 4), 'hex'))::bit(32)::bigint::numeric * 4294967296
            + ('x' || encode(substr(hash, 5, 4), 'hex'))::bit(32)::bigint END AS position
    FROM ranked
), selected AS (
    SELECT * FROM placed
    WHERE (valid OR NOT :only_valid)
        AND NOT EXISTS (SELECT FROM jsonb_array_elements(findings) AS one WHERE one->>0 = ANY(:exclude_flags))
        AND (CAST(:labels AS text[]) IS NULL OR label = ANY(CAST(:labels AS text[])))
        AND (CAST(:licenses AS text[]) IS NULL OR license = ANY(CAST(:licenses AS text[])))
        AND (:min_width = 0 OR width >= :min_width) AND (:min_height = 0 OR height >= :min_height)
        AND NOT EXISTS (SELECT FROM excluded WHERE excluded.digest = placed.digest)
        AND NOT EXISTS (
            SELECT FROM excluded
            WHERE excluded.digest = CASE WHEN :excludes THEN sha256(convert_to(original_url, 'UTF8')) END)
    ORDER BY digest, copy LIMIT :limit
), sorted AS (
    SELECT *,
        greatest(0, least(CASE
            WHEN CAST(:enlarged_to AS int) IS NULL THEN width::numeric * height
            WHEN CAST(:max_side AS int) IS NULL THEN
                CAST(:enlarged_to AS numeric) ^ 2 * greatest(width, height) / greatest(1, least(width, height))
            END, CAST(:max_side AS numeric) ^ 2, CAST(:unknown_bytes AS numeric) * 8))::bigint AS pixels,
        (SELECT count(*) FROM unnest(CAST(:bounds AS numeric[])) AS bound WHERE bound <= position) AS split
    FROM selected
), costed AS (
    SELECT *, 3 * (letters + (SELECT coalesce(sum(octet_length(key) + 8), 0) FROM keys)) + :overhead + greatest(0, CASE
        WHEN format = ANY(:copied) AND NOT (:may_rotate AND format = 'jpg' AND orientation <> 1) THEN file_size
        WHEN format = ANY(:copied) THEN file_size + file_size / 8
        WHEN :lossy AND CAST(:enlarged_to AS int) IS NOT NULL THEN pixels * 3 + 65536
        WHEN :lossy THEN least(pixels * 3, file_size * 2) + CAST(:canvas AS bigint) ^ 2 / 32 + 65536
        ELSE greatest(pixels, CAST(:canvas AS bigint) ^ 2) * 4 + 65536 END)::bigint AS cost
    FROM sorted
)
SELECT :export, row_number() OVER place - 1, id, split, digest, copy, cost, sum(cost) OVER place
FROM costed WINDOW place AS (ORDER BY split, digest, copy ROWS UNBOUNDED PRECEDING)
"""


#: Columns of URL lists that the images of an export have, the most frequent first. A number is an integer by its
#: digits, as readers of JSON take it.
_COLUMNS = """
SELECT key, count(*) AS values, bool_and(number IS NOT NULL AND abs(number) <= CAST(:max_number AS numeric)) AS numbers,
    coalesce(bool_and(scale(number) = 0 AND number BETWEEN -9223372036854775808 AND 9223372036854775807), false)
        AS integers,
    bool_and(type = 'boolean') AS booleans
FROM (
    SELECT one.key, jsonb_typeof(one.value) AS type,
        CASE WHEN jsonb_typeof(one.value) = 'number' THEN one.value::numeric END AS number
    FROM pixcrawler.export_items AS item JOIN pixcrawler.image_facts AS f ON f.image_id = item.image_id
        CROSS JOIN jsonb_each(CASE WHEN jsonb_typeof(f.columns) = 'object' THEN f.columns ELSE '{}' END) AS one
    WHERE item.export_job_id = :export AND f.columns IS NOT NULL
) AS found
WHERE type <> 'null' GROUP BY key ORDER BY count(*) DESC, key COLLATE "C" LIMIT :limit
"""
_CAPTIONS = """
SELECT coalesce(bool_or(f.caption <> ''), false), coalesce(bool_or(f.columns IS NOT NULL), false),
    coalesce(max(octet_length(concat(f.caption, f.columns))), 0)
FROM pixcrawler.export_items AS item JOIN pixcrawler.image_facts AS f ON f.image_id = item.image_id
WHERE item.export_job_id = :export AND (f.caption IS NOT NULL OR f.columns IS NOT NULL)
"""


def list_columns(session: Session, job_id: int, *, images: int) -> ListColumns | None:
    """Return the columns of URL lists that the entries of an export have; None when they have none.

    Args:
        session: the transaction that has inserted the entries.
        job_id: the export job.
        images: number of its entries.
    """
    values = {"export": job_id, "limit": MAX_COLUMNS + 1, "max_number": MAX_NUMBER}
    has_captions, has_columns, row_bytes = session.execute(text(_CAPTIONS), values).one()
    if not (has_captions or has_columns):
        return None
    facts = [
        ColumnFacts(key=row.key, values=row[1], numbers=row.numbers, integers=row.integers, booleans=row.booleans)
        for row in (session.execute(text(_COLUMNS), values) if has_columns else ())
    ]
    return ListColumns.of(facts, images=images, has_captions=has_captions, row_bytes=row_bytes)


def insert_entries(session: Session, job_id: int, selection: Selection) -> int:
    """Select the images of an export and insert their entries; return their number. Earlier entries are deleted."""
    known = _OF_ONE if len(selection.crawl_job_ids) == 1 else _OF_SEVERAL
    session.execute(select(func.set_config("statement_timeout", f"{int(_SELECT_TIMEOUT.total_seconds())}s", True)))
    session.execute(delete(ExportItem).where(ExportItem.export_job_id == job_id))
    session.execute(
        text(_INSERT.replace("{known}", known)),
        {
            "export": job_id,
            "jobs": list(selection.crawl_job_ids),
            "validation_ids": list(selection.validation_ids),
            "only_valid": selection.only_valid,
            "exclude_flags": list(selection.exclude_flags),
            "labels": None if selection.labels is None else list(selection.labels),
            "licenses": None if selection.licenses is None else list(selection.licenses),
            "min_width": selection.min_width,
            "min_height": selection.min_height,
            "exclude_images": list(selection.exclude_images),
            "excludes": bool(selection.exclude_images),
            "limit": selection.limit,
            "default_label": selection.default_label,
            "seed": str(selection.seed),
            # The last split has no upper bound, so that no image is lost by rounding.
            "bounds": [str(bound) for bound in selection.bounds[:-1]],
            "by_group": selection.by_group,
            "stratified": selection.stratified,
            "may_rotate": selection.may_rotate,
            "copied": list(selection.copied),
            "max_side": selection.max_side,
            "enlarged_to": selection.enlarged_to,
            "canvas": selection.canvas,
            "lossy": selection.lossy,
            "unknown_bytes": selection.unknown_bytes,
            "overhead": selection.overhead,
            "max_columns": MAX_COLUMNS,
        },
    )
    return session.scalar(select(func.count()).where(ExportItem.export_job_id == job_id)) or 0


@dataclass(frozen=True, slots=True)
class ExportPart:
    """Images of one archive: their first and last position in the export, and the split of the first."""

    first: int
    last: int
    split: int


def next_part(  # noqa: PLR0913 - one argument per limit of an archive
    session: Session, job_id: int, first: int, *, max_bytes: int, max_images: int, one_split: bool
) -> ExportPart | None:
    """Return the images of the archive that begins at a position; None after the last image.

    Args:
        session: any transaction.
        job_id: the export job.
        first: position of its first image.
        max_bytes: limit of its size; an archive with a single image may exceed it.
        max_images: limit of its images.
        one_split: end before an image of another split.
    """
    begin = session.execute(
        select(ExportItem.split, ExportItem.upto, ExportItem.cost).where(
            ExportItem.export_job_id == job_id, ExportItem.seq == first
        )
    ).one_or_none()
    if begin is None:
        return None
    within = ExportItem.upto <= begin.upto - begin.cost + max_bytes
    near = ExportItem.seq.between(first, first + max_images - 1)
    last = select(func.max(ExportItem.seq)).where(ExportItem.export_job_id == job_id, near, within)
    if one_split:
        last = last.where(ExportItem.split == begin.split)
    return ExportPart(first, max(session.scalar(last) or first, first), begin.split)

"""The data of a page: all that is known of the images of a job, as JSON for its script."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from pixcrawler_worker.browse import groups, thumbnails
from pixcrawler_worker.browse.thumbnails import Cell
from pixcrawler_worker.db import browsed_images, job_views
from pixcrawler_worker.db.browsed_images import BrowsedImage
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.image_records import UNSIGNED
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import exclusions
from pixcrawler_worker.domain.checks import Finding, Severity
from pixcrawler_worker.domain.safe_text import safe, safe_url
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.html_report import size, web_link
from pixcrawler_worker.inspection.sheets import COLUMNS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import wording

#: Characters of a text that a page has: a caption may have a hundred thousand.
_MAX_TEXT = 2_000
#: The largest number that a page has; NaN is not up to it.
_MAX_NUMBER = 1e15
#: Columns of a URL list that a page has of an image.
_MAX_COLUMNS = 50

#: Numbers of images by which they are filtered and sorted, and their names. Scores of classifiers are added.
_MEASURES: Mapping[str, str] = {
    "width": "width",
    "height": "height",
    "megapixels": "megapixels",
    "aspect": "aspect ratio",
    "kilobytes": "kB",
    "sharpness": "sharpness",
    "brightness_p5": "brightness (5th percentile)",
    "brightness_p99": "brightness (99th percentile)",
    "entropy": "entropy",
    "std": "contrast",
}
#: Those of them that a page shows of an image otherwise.
_SIZES = frozenset({"width", "height", "megapixels", "aspect", "kilobytes"})
#: Measurements that say nothing by which images are sorted; `width` and `height` are those of the rows.
_NO_MEASURES = frozenset({"channel_delta", "orientation", "format", "width", "height"})
#: Order of the parts of an image in the JSON of a page.
_FIELDS = (
    "id", "sha256", "label", "source", "license", "valid", "group", "rank", "title", "caption", "author", "attribution",
    "query", "name", "width", "height", "links", "findings", "numbers", "facts", "columns", "tile",
)  # fmt: skip


@dataclass(slots=True)
class Browsed:
    """A job with its images.

    Attributes:
        job: the crawl job.
        images: of the job and those that it extends, by label and age.
    """

    job: CrawlView
    images: Sequence[BrowsedImage]


@dataclass(slots=True)
class Thumbnails:
    """The thumbnails in a page.

    Attributes:
        tiles: sheet and cell of each image that has one, by id.
        reasons: why others have none, by id.
        sizes: thumbnails on each sheet.
    """

    tiles: dict[int, tuple[int, Cell]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)


def read(runtime: Runtime, job_id: int) -> Browsed:
    """Return a crawl job with its images.

    Raises:
        PermanentError: when there is no such job, or it has no images.
        TransientError: when the database does not respond.
    """

    def both(session: Session) -> Browsed | None:
        job = job_views.job(session, CrawlView, job_id)
        return None if job is None else Browsed(job, browsed_images.of_dataset(session, job_id))

    found = transact(runtime.sessions, both)
    if found is None:
        raise UnknownJobError(CRAWL_JOBS.name, job_id)
    if not found.images:
        raise PermanentError(f"job {job_id} has no images: there is nothing to show")
    return found


def to_json(found: Browsed, made: Thumbnails | None) -> str:
    """Return the data of a page as JSON in which no `<` is, so that it may be inside of a script element.

    Args:
        found: the job.
        made: the thumbnails in the page; None when a server has them.
    """
    tables = _Tables()
    scores = _scores(found.images)
    alike = groups.near_duplicates(found.images)
    places = {at: (number, rank) for number, group in enumerate(alike) for rank, at in enumerate(group)}
    rows = [_row(image, tables, scores, places.get(at), made) for at, image in enumerate(found.images)]
    data = {
        "fields": _FIELDS,
        "job": {
            "id": found.job.id,
            "name": safe(found.job.name, max_length=_MAX_TEXT) or f"job {found.job.id}",
            "created": found.job.created_at.astimezone(UTC).isoformat(),
        },
        "serve": made is None,
        "list": {
            "version": exclusions.VERSION,
            "key": exclusions.KEY,
            "file": f"exclusions-job-{found.job.id}.json",
        },
        "sheet": {"side": thumbnails.SIDE, "columns": COLUMNS, "sizes": [] if made is None else made.sizes},
        "labels": list(tables.labels),
        "sources": list(tables.sources),
        "licenses": list(tables.licenses),
        "checks": [
            {"name": name, "heading": wording.heading(name), "severity": severity}
            for name, severity in tables.checks.items()
        ],
        "numbers": [
            {"key": key, "name": name, "shown": key in _SIZES} for key, name in {**_MEASURES, **scores}.items()
        ],
        "images": rows,
    }
    # Characters that a script or HTML would read otherwise are written as escapes, which JSON has for all of them.
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@dataclass(slots=True)
class _Tables:
    """Texts that many images share, with their positions; and the checks with their highest severity."""

    labels: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    licenses: dict[str, int] = field(default_factory=dict)
    checks: dict[str, Severity] = field(default_factory=dict)


def _place(table: dict[str, int], text: str | None) -> int:
    return table.setdefault(_text(text), len(table))


def _row(
    image: BrowsedImage,
    tables: _Tables,
    scores: Mapping[str, str],
    place: tuple[int, int] | None,
    made: Thumbnails | None,
) -> list[Any]:
    record = image.record
    values: dict[str, Any] = {
        "id": record.id,
        "sha256": _digest(image).hex(),
        "label": _place(tables.labels, record.label),
        "source": _place(tables.sources, record.source),
        "license": _place(tables.licenses, record.license),
        "valid": image.valid,
        "group": None if place is None else place[0],
        "rank": 0 if place is None else place[1],
        "title": _text(record.title),
        "caption": _text(image.caption),
        "author": _text(record.author),
        "attribution": _text(record.attribution),
        "query": _text(record.query),
        "name": _text(record.filename),
        "width": record.width,
        "height": record.height,
        "links": [(name, url) for name, url in _links(image) if url],
        "findings": [_finding(one, tables) for one in image.findings],
        "numbers": _numbers(image, scores),
        "facts": [(name, value) for name, value in _facts(image) if value],
        "columns": _columns(image.columns),
        "tile": None if made is None else _tile(record.id, made),
    }
    return [values[name] for name in _FIELDS]


def _digest(image: BrowsedImage) -> bytes:
    """Return what names the image in an export: of one that nothing has measured, the digest of its URL."""
    return (
        image.record.sha256
        or image.measured_sha256
        or hashlib.sha256(image.record.original_url.encode(errors="surrogatepass")).digest()
    )


def _tile(image_id: int, made: Thumbnails) -> list[int] | str:
    if image_id in made.tiles:
        sheet, cell = made.tiles[image_id]
        return [sheet, *cell]
    return made.reasons.get(image_id) or "no thumbnail"


def _text(text: str | None) -> str:
    return safe(text or "", max_length=_MAX_TEXT).strip()


def _links(image: BrowsedImage) -> Iterable[tuple[str, str | None]]:
    record = image.record
    for name, url in (
        ("source page", record.page_url),
        ("original image", record.original_url),
        ("license", record.license_url),
    ):
        yield name, web_link(safe_url(url)) if url else None


def _facts(image: BrowsedImage) -> Iterable[tuple[str, str]]:
    record = image.record
    yield "Crawl job", str(image.crawl_job_id)
    yield "File size", size(record.file_size) if record.file_size is not None and record.file_size >= 0 else ""
    yield "Format", _text(record.format)
    yield "Color mode", _text(record.mode)
    yield "Frames", f"{record.frames:,}" if (record.frames or 1) > 1 else ""
    yield "pHash", "" if record.phash is None else f"{record.phash & UNSIGNED:016x}"
    yield "GPS location", "in the file" if image.metrics.get("gps") is True else ""
    yield "Orientation", f"EXIF {turned}" if (turned := image.metrics.get("orientation", 1)) != 1 else ""
    yield "Source page", safe_url(record.page_url or "")
    yield "Original URL", safe_url(record.original_url)


def _columns(columns: Mapping[str, Any]) -> dict[str, str] | None:
    shown = list(columns.items())[:_MAX_COLUMNS]
    return {
        _text(str(name)): _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
        for name, value in shown
        if value is not None
    } or None


def _finding(finding: Finding, tables: _Tables) -> tuple[int, str]:
    severities = list(Severity)
    before = tables.checks.get(finding.check, finding.severity)
    tables.checks[finding.check] = min(before, finding.severity, key=severities.index)
    return list(tables.checks).index(finding.check), _text(wording.describe(finding))


def _scores(images: Iterable[BrowsedImage]) -> dict[str, str]:
    """Return the names of scores that any of the images has besides the usual measures, by their keys."""
    found = {key for image in images for key in _measured(image)} - set(_MEASURES)
    return {key: safe(key.replace("_", " "), max_length=_MAX_TEXT) for key in sorted(found)}


def _measured(image: BrowsedImage) -> dict[str, float]:
    """Return the numbers that crawl, validation and classifiers have recorded of an image."""
    found = {key: value for key, value in _flat(image.metrics) if key not in _NO_MEASURES}
    for finding in image.findings:
        # A classifier has a check of its name, whose value is a score.
        if finding.check not in wording.MEANINGS and _is_number(finding.value):
            found.setdefault(finding.check, float(finding.value or 0))
    return found


def _flat(metrics: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((str(inner), float(one)) for inner, one in value.items() if _is_number(one))
        elif _is_number(value):
            yield key, float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MAX_NUMBER <= value <= _MAX_NUMBER


def _numbers(image: BrowsedImage, scores: Mapping[str, str]) -> list[float | None]:
    record, measured = image.record, _measured(image)
    values: dict[str, float | None] = {key: _rounded(value) for key, value in measured.items()}
    width, height = record.width or 0, record.height or 0
    if width > 0 and height > 0:
        values |= {
            "width": width,
            "height": height,
            "megapixels": _rounded(width * height / 1e6),
            "aspect": _rounded(width / height),
        }
    if record.file_size is not None:
        values["kilobytes"] = _rounded(record.file_size / 1000)
    return [values.get(key) for key in (*_MEASURES, *scores)]


def _rounded(value: float) -> float:
    """Return a number with the digits that a page shows and compares."""
    return float(f"{value:.6g}")

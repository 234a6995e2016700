"""HTML report on a crawl job: its images, their labels, sizes and licenses, and the rejected candidates."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from pathlib import Path

from pixcrawler_worker import html_report
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import image_records, job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.runtime import Runtime

#: Images per label on the contact sheet, spread evenly over all images of the label.
_SHEET_SIZE = 12
#: Upper bounds of the size classes in megapixels.
_SIZE_CLASSES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

#: Rejection reasons, in words.
_MEANINGS: Mapping[str, str] = {
    "bad_url": "invalid URL",
    "forbidden_address": "IP address in a private network",
    "forbidden_port": "port that is not allowed",
    "insecure_redirect": "redirect from https to http",
    "unresolved": "unknown host name",
    "connect_failed": "no connection to the host",
    "tls_failed": "invalid TLS certificate",
    "timeout": "no response in time",
    "reset": "connection reset by the host",
    "truncated": "response shorter than announced",
    "too_many_redirects": "too many redirects",
    "bad_response": "invalid HTTP response",
    "not_found": "image not found",
    "forbidden": "access denied by the host",
    "rate_limited": "rate limit of the host exceeded",
    "host_unavailable": "host down",
    "server_error": "server error",
    "http_status": "other HTTP error",
    "too_many_bytes": "file too large",
    "empty": "empty response",
    "opted_out": "owner opts out of indexes or AI training",
    "tdm_reserved": "owner reserves text and data mining",
    "robots_disallowed": "disallowed by robots.txt",
    "robots_unreachable": "robots.txt could not be read",
    "not_an_image": "not an image",
    "unsupported_format": "image format not supported",
    "placeholder": "placeholder of the host for a missing image",
    "format_not_wanted": "format not requested",
    "too_many_pixels": "too many pixels",
    "too_complex": "file structure too complex",
    "too_small": "image too small",
    "corrupt": "corrupt image",
    "decoder_died": "decoder crashed",
    "invalid_entry": "entry of the source without a URL",
    "license_not_wanted": "license not accepted",
    "duplicate_url": "duplicate URL",
    "duplicate_bytes": "duplicate file",
    "surplus": "more images than requested",
    "internal_error": "error of the worker, see its log",
}


@dataclass(frozen=True, slots=True)
class _Content:
    """The data of the report."""

    job: CrawlView
    stored: Sequence[ImageRecord]
    reasons: Mapping[str, int]
    thumbnails: Mapping[int, bytes]


def write_crawl_report(runtime: Runtime, job_id: int, path: Path) -> Path:
    """Write the HTML report on a crawl job and return its path. Images are embedded.

    Raises:
        PermanentError: when there is no such job, or the file cannot be written.
        TransientError: when database or storage do not respond.
    """
    job = transact(runtime.sessions, lambda session: job_views.job(session, CrawlView, job_id))
    if job is None:
        raise UnknownJobError(CRAWL_JOBS.name, job_id)
    stored = transact(runtime.sessions, lambda session: image_records.of_crawl(session, job_id))
    reasons = transact(runtime.sessions, lambda session: planner.reasons(session, job_id))
    sheet = [image for shown in _sheets(stored).values() for image in shown]
    thumbnails = runtime.run(
        html_report.thumbnails(runtime, ((image.id, image.storage_url) for image in sheet if image.storage_url))
    )
    return html_report.save(path, job.name, _parts(_Content(job, stored, reasons, thumbnails)))


def _sheets(stored: Sequence[ImageRecord]) -> dict[str, list[ImageRecord]]:
    """Return the images of the contact sheet by label."""
    by_label: dict[str, list[ImageRecord]] = {}
    for image in stored:
        by_label.setdefault(image.label or "", []).append(image)
    return {label: found[:: -(-len(found) // _SHEET_SIZE)] for label, found in by_label.items()}


def _parts(found: _Content) -> Iterator[str]:
    job = found.job
    title = escape(job.name)
    yield f'<h1>{title}</h1><div class="soft">crawl job {job.id}, {escape(job.status)}{_when(job)}</div>'
    yield _tiles(found)
    yield '<div class="columns">'
    yield html_report.bars("Labels", Counter(image.label or "" for image in found.stored).most_common())
    yield html_report.bars("Formats", Counter(image.format or "unknown" for image in found.stored).most_common())
    yield html_report.bars("Sizes", _sizes(found.stored))
    yield html_report.bars("Licenses", _licenses(found.stored))
    yield "</div>"
    yield _rejected(found.reasons)
    yield "<h2>Contact sheet</h2>"
    for label, shown in _sheets(found.stored).items():
        yield _sheet(label, shown, found)


def _when(job: CrawlView) -> str:
    return f", {job.completed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if job.completed_at else ""


def _tiles(found: _Content) -> str:
    job = found.job
    size = sum(image.file_size or 0 for image in found.stored)
    tiles = (
        (f"{job.valid_images:,}", f"of {job.max_images:,} images"),
        (f"{len({image.label for image in found.stored}):,}", "labels"),
        (f"{size / 1e6:,.1f} MB", "of images"),
        (f"{job.total_images:,}", "candidates found"),
        (f"{sum(found.reasons.values()):,}", "rejected"),
    )
    return html_report.tiles(tiles)


def _sizes(stored: Sequence[ImageRecord]) -> list[tuple[str, int]]:
    """Return the size classes from the smallest to the largest that occurs, with their counts."""
    bounds = [*_SIZE_CLASSES, float("inf")]
    counts = Counter(
        next(i for i, bound in enumerate(bounds) if (image.width or 0) * (image.height or 0) / 1e6 <= bound)
        for image in stored
    )
    if not counts:
        return []
    names = [f"up to {bound:g} MP" for bound in _SIZE_CLASSES] + [f"above {_SIZE_CLASSES[-1]:g} MP"]
    return [(names[i], counts[i]) for i in range(min(counts), max(counts) + 1)]


def _licenses(stored: Sequence[ImageRecord]) -> list[tuple[str, int]]:
    return Counter(image.license or "unknown" for image in stored).most_common()


def _rejected(reasons: Mapping[str, int]) -> str:
    if not reasons:
        return "<h2>Rejected candidates</h2><p>No candidates were rejected.</p>"
    named = [(f"{_MEANINGS.get(reason, reason)} ({reason})", count) for reason, count in reasons.items()]
    return html_report.bars("Rejected candidates", named, kind="bad")


def _sheet(label: str, shown: Sequence[ImageRecord], found: _Content) -> str:
    total = sum(image.label == label for image in found.stored)
    figures = "".join(_figure(image, found.thumbnails.get(image.id)) for image in shown)
    count = f"{len(shown)} of {total:,}" if len(shown) < total else f"{total:,}"
    return f'<h3>{escape(label)} <small>{count}</small></h3><div class="sheet">{figures}</div>'


def _figure(image: ImageRecord, thumbnail: bytes | None) -> str:
    caption = f"{image.width}x{image.height} {image.format}"
    hint = " - ".join(filter(None, (image.title, image.author, image.filename)))
    return html_report.figure(thumbnail, caption, alt=image.title or image.label or "", hint=hint)

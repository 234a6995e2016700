"""A page about a crawl job: what came, how it looks, what was refused, and why."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from pathlib import Path

from pixcrawler_worker import html_report
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import images, job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.images import Stored
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.runtime import Runtime

#: Pictures of each label on the contact sheet, taken evenly over all it has.
_SHEET = 12
#: Upper ends of the size classes, in megapixels.
_SIZES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

#: What a reason means, for people.
_MEANINGS: Mapping[str, str] = {
    "bad_url": "not an address that can be fetched",
    "forbidden_address": "leads into a private network",
    "unresolved": "the host's name is unknown",
    "connect_failed": "the host takes no connections",
    "tls_failed": "the host's certificate is not valid",
    "timeout": "took too long",
    "reset": "the host hung up",
    "truncated": "ended before its announced length",
    "too_many_redirects": "redirected in circles",
    "bad_response": "not a proper HTTP answer",
    "not_found": "the picture is gone",
    "forbidden": "the host refuses us",
    "rate_limited": "the host asked for a pause",
    "server_error": "the host is broken",
    "http_status": "another HTTP error",
    "too_many_bytes": "larger than allowed",
    "empty": "an empty answer",
    "not_an_image": "something else than a picture",
    "format_not_wanted": "a format that was not asked for",
    "too_many_pixels": "more pixels than allowed",
    "too_small": "smaller than asked for",
    "corrupt": "a damaged picture",
    "decoder_died": "crashed its decoder",
    "license_not_wanted": "a license that was not asked for",
    "duplicate_url": "the same address again",
    "duplicate_bytes": "the same picture again",
    "surplus": "more than the job may have",
}


@dataclass(frozen=True, slots=True)
class _Findings:
    """What the page is made of."""

    job: CrawlView
    stored: Sequence[Stored]
    reasons: Mapping[str, int]
    thumbnails: Mapping[int, bytes]


def write(runtime: Runtime, job_id: int, path: Path) -> Path:
    """Write the page of a crawl job and return its path. It holds everything it shows, pictures included.

    Raises:
        PermanentError: when there is no such job, or the file cannot be written.
        TransientError: when database or storage do not answer.
    """
    job = transact(runtime.sessions, lambda session: job_views.job(session, CrawlView, job_id))
    if job is None:
        raise UnknownJobError(CRAWL_JOBS.name, job_id)
    stored = transact(runtime.sessions, lambda session: images.stored(session, job_id))
    reasons = transact(runtime.sessions, lambda session: planner.reasons(session, job_id))
    sheet = [image for shown in _sheets(stored).values() for image in shown]
    thumbnails = runtime.run(html_report.thumbnails(runtime, ((image.id, image.storage_url) for image in sheet)))
    return html_report.save(path, job.name, _parts(_Findings(job, stored, reasons, thumbnails)))


def _sheets(stored: Sequence[Stored]) -> dict[str, list[Stored]]:
    """Return the pictures to show of each label."""
    by_label: dict[str, list[Stored]] = {}
    for image in stored:
        by_label.setdefault(image.label, []).append(image)
    return {label: found[:: -(-len(found) // _SHEET)] for label, found in by_label.items()}


def _parts(found: _Findings) -> Iterator[str]:
    job = found.job
    title = escape(job.name)
    yield f'<h1>{title}</h1><div class="soft">crawl job {job.id}, {escape(job.status)}{_when(job)}</div>'
    yield _tiles(found)
    yield '<div class="columns">'
    yield html_report.bars("Labels", Counter(image.label for image in found.stored).most_common())
    yield html_report.bars("Formats", Counter(image.format for image in found.stored).most_common())
    yield html_report.bars("Sizes", _sizes(found.stored))
    yield html_report.bars("Licenses", _licenses(found.stored))
    yield "</div>"
    yield _refusals(found.reasons)
    yield "<h2>Contact sheet</h2>"
    for label, shown in _sheets(found.stored).items():
        yield _sheet(label, shown, found)


def _when(job: CrawlView) -> str:
    return f", {job.completed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if job.completed_at else ""


def _tiles(found: _Findings) -> str:
    job = found.job
    size = sum(image.file_size for image in found.stored)
    tiles = (
        (f"{job.valid_images:,}", f"images of {job.max_images:,} wanted"),
        (f"{len({image.label for image in found.stored}):,}", "labels"),
        (f"{size / 1e6:,.1f} MB", "of pictures"),
        (f"{job.total_images:,}", "candidates found"),
        (f"{sum(found.reasons.values()):,}", "refused"),
    )
    return html_report.tiles(tiles)


def _sizes(stored: Sequence[Stored]) -> list[tuple[str, int]]:
    """Return size classes in megapixels with their counts, from the smallest that occurs to the largest."""
    bounds = [*_SIZES, float("inf")]
    counts = Counter(
        next(i for i, bound in enumerate(bounds) if image.width * image.height / 1e6 <= bound) for image in stored
    )
    if not counts:
        return []
    names = [f"up to {bound:g} MP" for bound in _SIZES] + [f"above {_SIZES[-1]:g} MP"]
    return [(names[i], counts[i]) for i in range(min(counts), max(counts) + 1)]


def _licenses(stored: Sequence[Stored]) -> list[tuple[str, int]]:
    return Counter(image.license or "unknown" for image in stored).most_common()


def _refusals(reasons: Mapping[str, int]) -> str:
    if not reasons:
        return "<h2>Refused</h2><p>Nothing was refused.</p>"
    named = [(f"{_MEANINGS.get(reason, reason)} ({reason})", count) for reason, count in reasons.items()]
    return html_report.bars("Refused", named, kind="bad")


def _sheet(label: str, shown: Sequence[Stored], found: _Findings) -> str:
    total = sum(image.label == label for image in found.stored)
    figures = "".join(_figure(image, found.thumbnails.get(image.id)) for image in shown)
    count = f"{len(shown)} of {total:,}" if len(shown) < total else f"{total:,}"
    return f'<h3>{escape(label)} <small>{count}</small></h3><div class="sheet">{figures}</div>'


def _figure(image: Stored, thumbnail: bytes | None) -> str:
    caption = f"{image.width}x{image.height} {image.format}"
    hint = " - ".join(filter(None, (image.title, image.author, image.filename)))
    return html_report.figure(thumbnail, caption, alt=image.title or image.label, hint=hint)

"""HTML report on a crawl job: its images, their labels, sizes and licenses, and the rejected candidates."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from pathlib import Path

from pixcrawler_worker import html_report
from pixcrawler_worker.crawl import accounting
from pixcrawler_worker.crawl.accounting import Accounting
from pixcrawler_worker.db import image_records, job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import explanations
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.html_report import DatasetFiles, Places, Table
from pixcrawler_worker.runtime import Runtime

#: Images per label on the contact sheet, spread evenly over all images of the label.
_SHEET_SIZE = 12
#: Labels with a contact sheet, those with the most images: a list may have a label for every image.
_MAX_SHEETS = 100
#: Upper bounds of the size classes in megapixels.
_SIZE_CLASSES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class _Content:
    """The data of the report."""

    job: CrawlView
    stored: Sequence[ImageRecord]
    captions: int
    labels: Counter[str]
    sheets: Mapping[str, Sequence[ImageRecord]]
    counts: Accounting
    thumbnails: Mapping[int, bytes]
    files: DatasetFiles


def write_crawl_report(runtime: Runtime, job_id: int, path: Path, *, dataset: Path | None = None) -> Path:
    """Write the HTML report on a crawl job and return its path. Images are embedded.

    Args:
        runtime: connects to database, storage and decoder.
        job_id: the row in `crawl_jobs`.
        path: of the report.
        dataset: folder of a dataset with the images of the job, to whose files the report links.

    Raises:
        PermanentError: when there is no such job, or the file cannot be written.
        TransientError: when database or storage do not respond.
    """

    def read(session: Session) -> tuple[CrawlView, Sequence[ImageRecord], int, Accounting] | None:
        job = job_views.job(session, CrawlView, job_id)
        if job is None:
            return None
        # Not in the order of their rows, which depends on which download was faster.
        stored = sorted(image_records.of_crawl(session, job_id), key=_place)
        captions = image_records.count_captions(session, job_id)
        return job, stored, captions, accounting.read(session, job, images=len(stored))

    found = transact(runtime.sessions, read)
    if found is None:
        raise UnknownJobError(CRAWL_JOBS.name, job_id)
    job, stored, captions, counts = found
    labels = Counter(image.label or "" for image in stored)
    sheets = _sheets(stored, labels)
    sheet = [image for shown in sheets.values() for image in shown]
    thumbnails = runtime.run(
        html_report.thumbnails(runtime, ((image.id, image.storage_url) for image in sheet if image.storage_url))
    )
    files = DatasetFiles(dataset, path, [image.original_url for image in sheet])
    content = _Content(job, stored, captions, labels, sheets, counts, thumbnails, files)
    return html_report.save(path, f"Crawl: {job.name}", _parts(content))


def _place(image: ImageRecord) -> tuple[bool, str, str, int]:
    return image.label is None, image.label or "", image.original_url, image.id


def _sheets(stored: Sequence[ImageRecord], labels: Counter[str]) -> dict[str, list[ImageRecord]]:
    """Return the images of the contact sheet by label."""
    largest = {label for label, _ in labels.most_common(_MAX_SHEETS)}
    by_label: dict[str, list[ImageRecord]] = {}
    for image in stored:
        if (label := image.label or "") in largest:
            by_label.setdefault(label, []).append(image)
    return {label: found[:: -(-len(found) // _SHEET_SIZE)] for label, found in by_label.items()}


def _parts(found: _Content) -> Iterator[str]:
    job, counts = found.job, found.counts
    yield f'<h1>{escape(job.name)}</h1><p class="soft">crawl job {job.id}, {escape(job.status)}{_when(job)}</p>'
    yield _tiles(found)
    yield '<div class="columns">'
    for heading, counted, column, unit in (
        ("Images and rejections", counts.outcomes, "What became of the URLs", "URLs"),
        ("Candidates", counts.candidates, "What the sources returned", "number"),
    ):
        yield Table(heading=heading, counts=counted, column=column, unit=unit).html()
    yield "</div>"
    yield _rejected(job, counts.reasons)
    yield '<div class="columns">'
    note = f"{counts.invalid:,} of these images are not counted as valid." if counts.invalid else ""
    for heading, column, counted in (
        ("Labels", "Label", html_report.frequent(found.labels)),
        ("Formats", "Format", html_report.frequent(Counter(image.format or "unknown" for image in found.stored))),
        ("Sizes", "Megapixels (MP)", _sizes(found.stored)),
        ("Licenses", "License", html_report.frequent(Counter(image.license or "unknown" for image in found.stored))),
    ):
        yield Table(heading=heading, counts=counted, column=column, note=note).html()
    yield "</div>"
    if found.stored:
        share = f" <small>{len(found.sheets)} of {len(found.labels):,} labels</small>"
        yield f"<h2>Contact sheet{share if len(found.sheets) < len(found.labels) else ''}</h2>"
    for label, shown in found.sheets.items():
        yield _sheet(label, shown, found)


def _when(job: CrawlView) -> str:
    return f", {job.completed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if job.completed_at else ""


def _tiles(found: _Content) -> str:
    job, counts = found.job, found.counts
    size = sum(image.file_size or 0 for image in found.stored)
    tiles = (
        (f"{counts.found:,}", "candidates found"),
        (f"{counts.valid:,}", f"of {job.max_images:,} images"),
        *([(f"{counts.invalid:,}", "images not counted")] if counts.invalid else []),
        *([(f"{counts.deleted:,}", "images deleted")] if counts.deleted else []),
        (f"{counts.rejected:,}", "rejected"),
        *([(f"{counts.again:,}", "to process again" if counts.again > 0 else "counted twice")] if counts.again else []),
        (f"{len(found.labels):,}", "labels"),
        (html_report.size(size), "of images"),
        *([(f"{found.captions:,}", "with a caption")] if found.captions else []),
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


def _rejected(job: CrawlView, reasons: Mapping[str, int]) -> str:
    if not reasons:
        return "<h2>Rejected candidates</h2><p>No candidates were rejected.</p>"
    return Table(
        heading="Rejected candidates",
        counts=[(f"{explanations.explain(reason).meaning} ({reason})", count) for reason, count in reasons.items()],
        column="Reason",
        unit="number",
        is_bad=True,
        note=f"`pixcrawler jobs failures {job.id}` lists their URLs.",
        advice=[explanations.explain(reason, job=job.argument).remedy for reason in reasons],
    ).html()


def _sheet(label: str, shown: Sequence[ImageRecord], found: _Content) -> str:
    total = found.labels[label]
    figures = "".join(_figure(image, found) for image in shown)
    count = f"{len(shown)} of {total:,}" if len(shown) < total else f"{total:,}"
    return f'<h3>{escape(label) or "(none)"} <small>{count}</small></h3><div class="sheet">{figures}</div>'


def _figure(image: ImageRecord, found: _Content) -> str:
    caption = f"{image.width}x{image.height} {image.format}"
    hint = " - ".join(filter(None, (image.title, image.author, image.license)))
    url = image.original_url
    places = Places(found.files.name(url) or image.filename, found.files.file(url), image.page_url, url)
    thumbnail = found.thumbnails.get(image.id)
    return html_report.figure(thumbnail, caption, alt=image.title or image.label or "", places=places, hint=hint)

"""Use case: a page about a crawl job that opens anywhere: what came, how it looks, what was refused, and why."""

import asyncio
import base64
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from pathlib import Path

from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import images, views
from pixcrawler_worker.db.images import Stored
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.db.views import CrawlView
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime

#: Pictures of each label on the contact sheet, taken evenly over all it has.
_SHEET = 12
#: Pictures that are held at a time: they are opened one after the other, and may be large.
_READS = 8
#: Longer side of a picture on the contact sheet, in pixels; twice what is shown, for sharp screens.
_SIDE = 224
#: Upper ends of the size classes, in megapixels.
_SIZES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d6671; --line: #d9dee4; --page: #fff; --bar: #3b7dd8;
  --card: #f5f7f9; --bad: #c4572e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa4af; --line: #343a41; --page: #15181b;
  --bar: #6aa5f2; --card: #1e2226; --bad: #e88a63; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; overflow-wrap: anywhere; }
h3 small, .soft { color: var(--soft); font-weight: 400; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin-top: 1.25rem; }
.tile { background: var(--card); border-radius: .5rem; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
td { border-top: 1px solid var(--line); padding: .3rem 0; overflow-wrap: anywhere; vertical-align: middle; }
td.n { width: 4.5rem; text-align: right; padding-right: .75rem; font-variant-numeric: tabular-nums; }
td.bar { width: 35%; }
td.bar i { display: block; height: .6rem; border-radius: .2rem; background: var(--bar); }
.bad td.bar i { background: var(--bad); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .5rem; }
.sheet figure { margin: 0; }
.sheet img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .3rem;
  background: var(--card); }
.sheet figcaption { color: var(--soft); font-size: .75rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
"""

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
    "license_not_wanted": "a licence that was not asked for",
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
    job = transact(runtime.sessions, lambda session: views.crawl_job(session, job_id))
    if job is None:
        raise planner.UnknownJobError(job_id)
    stored = transact(runtime.sessions, lambda session: images.stored(session, job_id))
    reasons = transact(runtime.sessions, lambda session: planner.reasons(session, job_id))
    sheet = [image for shown in _sheets(stored).values() for image in shown]
    thumbnails = runtime.run(_thumbnails(runtime, sheet))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_page(_Findings(job, stored, reasons, thumbnails)), encoding="utf-8")
    except OSError as error:
        raise PermanentError(f"{path} cannot be written: {error}") from error
    return path


def _sheets(stored: Sequence[Stored]) -> dict[str, list[Stored]]:
    """Return the pictures to show of each label."""
    by_label: dict[str, list[Stored]] = {}
    for image in stored:
        by_label.setdefault(image.label, []).append(image)
    return {label: found[:: -(-len(found) // _SHEET)] for label, found in by_label.items()}


async def _thumbnails(runtime: Runtime, shown: Iterable[Stored]) -> dict[int, bytes]:
    """Return small JPEGs by image id; a file that is missing or cannot be opened any more has none."""
    turns = asyncio.Semaphore(_READS)
    made: dict[int, bytes] = {}

    async def thumbnail(image: Stored) -> None:
        async with turns:
            with contextlib.suppress(PermanentError):
                body = await runtime.storage.get(runtime.storage.key(image.storage_url))
                made[image.id] = await runtime.decoder.thumbnail(body, side=_SIDE)

    try:
        async with asyncio.TaskGroup() as group:
            for image in shown:
                group.create_task(thumbnail(image))
    except ExceptionGroup as troubles:
        # Reads under way meet the same trouble at the same time: one of them tells it.
        raise troubles.exceptions[0] from None
    return made


def _page(found: _Findings) -> str:
    job = found.job
    title = escape(job.name)
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title} - PixCrawler</title><style>{_STYLE}</style></head><body>",
            f'<h1>{title}</h1><div class="soft">crawl job {job.id}, {escape(job.status)}{_when(job)}</div>',
            _tiles(found),
            '<div class="columns">',
            _bars("Labels", Counter(image.label for image in found.stored).most_common()),
            _bars("Formats", Counter(image.format for image in found.stored).most_common()),
            _bars("Sizes", _sizes(found.stored)),
            _bars("Licences", _licenses(found.stored)),
            "</div>",
            _refusals(found.reasons),
            "<h2>Contact sheet</h2>",
            *(_sheet(label, shown, found) for label, shown in _sheets(found.stored).items()),
            "</body></html>",
        )
    )


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
    boxes = "".join(f'<div class="tile"><b>{number}</b>{text}</div>' for number, text in tiles)
    return f'<div class="tiles">{boxes}</div>'


def _bars(heading: str, counts: Sequence[tuple[str, int]], *, kind: str = "") -> str:
    if not counts:
        return ""
    most = max(count for _, count in counts)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{count:,}</td>'
        f'<td class="bar"><i style="width:{max(1, round(100 * count / most)) if count else 0}%"></i></td></tr>'
        for name, count in counts
    )
    return f'<section class="{kind}"><h2>{heading}</h2><table>{rows}</table></section>'


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
    return _bars("Refused", named, kind="bad")


def _sheet(label: str, shown: Sequence[Stored], found: _Findings) -> str:
    total = sum(image.label == label for image in found.stored)
    figures = "".join(_figure(image, found.thumbnails.get(image.id)) for image in shown)
    count = f"{len(shown)} of {total:,}" if len(shown) < total else f"{total:,}"
    return f'<h3>{escape(label)} <small>{count}</small></h3><div class="sheet">{figures}</div>'


def _figure(image: Stored, thumbnail: bytes | None) -> str:
    caption = f"{image.width}x{image.height} {image.format}"
    if thumbnail is None:
        return f"<figure><figcaption>{escape(caption)}: not in storage any more</figcaption></figure>"
    data = base64.b64encode(thumbnail).decode()
    alt = escape(image.title or image.label, quote=True)
    hint = escape(" - ".join(filter(None, (image.title, image.author, image.filename))), quote=True)
    return (
        f'<figure title="{hint}"><img alt="{alt}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )

"""HTML report on an export: counts and a contact sheet. Thumbnails are embedded."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from pixcrawler_worker import html_report
from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.runtime import Runtime

#: Name of the file. The report on a crawl, often kept in the same folder, is `report.html`.
NAME = "dataset.html"
#: Images on the contact sheet, sampled evenly in the order of their hashes.
SHEET_SIZE = 60
#: Time for the thumbnails of the contact sheet: the archive does not wait longer for them.
_THUMBNAIL_SECONDS = 120.0
#: Rows of a table.
_MAX_ROWS = 30


async def thumbnails(runtime: Runtime, shown: Sequence[ExportEntry]) -> dict[int, bytes]:
    """Return the thumbnails of the contact sheet by their positions in the export."""
    return await html_report.thumbnails(
        runtime,
        ((entry.seq, entry.image.storage_url) for entry in shown if entry.image.storage_url),
        seconds=_THUMBNAIL_SECONDS,
    )


def write(plan: Plan, summary: Summary, shown: Sequence[ExportEntry], thumbnails: Mapping[int, bytes]) -> bytes:
    """Return the HTML report.

    Args:
        plan: plan of the export.
        summary: counts of its images.
        shown: images of the contact sheet.
        thumbnails: their thumbnails, by position in the export.
    """
    return html_report.document(plan.name, _parts(plan, summary, shown, thumbnails)).encode()


def _parts(
    plan: Plan, summary: Summary, shown: Sequence[ExportEntry], thumbnails: Mapping[int, bytes]
) -> Iterator[str]:
    yield f'<h1>{escape(plan.name)}</h1><div class="soft">{_kind(plan)}</div>'
    licensed = summary.images - summary.licenses.get("", 0)
    yield html_report.tiles(
        (
            (f"{summary.images:,}", "images"),
            (f"{len(summary.labels):,}", "classes"),
            (f"{summary.image_bytes / 1e6:,.1f} MB", "of images"),
            (f"{licensed / summary.images:.0%}" if summary.images else "none", "with a known license"),
            (f"{sum(summary.skipped.values()):,}", "left out"),
        )
    )
    yield '<div class="columns">'
    yield html_report.bars("Classes", _frequent(summary.labels))
    if plan.splits:
        yield html_report.bars("Splits", [(split, summary.splits.get(split, 0)) for split in plan.splits])
    yield html_report.bars("Licenses", _frequent(summary.licenses))
    yield html_report.bars("Formats", _frequent(summary.formats))
    yield html_report.bars("Sources", _frequent(summary.sources))
    yield "</div>"
    yield html_report.bars("Left out", _frequent(summary.skipped), kind="bad")
    yield f"<h2>Contact sheet <small>{len(shown):,} of {summary.images:,}</small></h2>" + '<div class="sheet">'
    for entry in shown:
        label = entry.image.label or plan.default_label
        hint = " - ".join(filter(None, (entry.image.title, entry.image.author, entry.image.license)))
        yield html_report.figure(thumbnails.get(entry.seq), label, alt=entry.image.title or label, hint=hint)
    yield "</div>"


def _kind(plan: Plan) -> str:
    return escape(f"{plan.layout_name} as {plan.format}, crawled until {plan.crawl_ended_at:%Y-%m-%d}")


def _frequent(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return the most frequent values with their counts, and the sum of the others."""
    ordered = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
    rest = ordered[_MAX_ROWS:]
    lines = [(name or "unknown", count) for name, count in ordered[:_MAX_ROWS]]
    return [*lines, (f"{len(rest):,} more", sum(count for _, count in rest))] if rest else lines

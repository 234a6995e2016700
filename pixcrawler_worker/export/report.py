"""A page about an export: what is in it, and how that looks. It holds everything it shows, pictures included."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from pixcrawler_worker import html_report
from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.runtime import Runtime

#: Its file. `report.html` is what a crawl's is called, which people keep beside it.
NAME = "dataset.html"
#: Pictures on the contact sheet, taken evenly: in the order of their hashes, that is a fair choice.
SHEET_SIZE = 60
#: Lines of a table.
_LONGEST = 30


async def thumbnails(runtime: Runtime, shown: Sequence[ExportEntry]) -> dict[int, bytes]:
    """Return the pictures of the contact sheet by their places in the export, as `html_report.thumbnails` does."""
    return await html_report.thumbnails(
        runtime, ((entry.seq, entry.image.storage_url) for entry in shown if entry.image.storage_url)
    )


def write(plan: Plan, summary: Summary, shown: Sequence[ExportEntry], thumbnails: Mapping[int, bytes]) -> bytes:
    """Return the page.

    Args:
        plan: what the dataset is.
        summary: what is in it.
        shown: images of the contact sheet.
        thumbnails: how they look.
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
            (f"{summary.image_bytes / 1e6:,.1f} MB", "of pictures"),
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
        label = entry.image.label or plan.unlabelled
        hint = " - ".join(filter(None, (entry.image.title, entry.image.author, entry.image.license)))
        yield html_report.figure(thumbnails.get(entry.seq), label, alt=entry.image.title or label, hint=hint)
    yield "</div>"


def _kind(plan: Plan) -> str:
    return escape(f"{plan.layout_name} as {plan.format}, crawled until {plan.crawled:%Y-%m-%d}")


def _frequent(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return the most frequent with their counts, the others in one line."""
    ordered = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
    rest = ordered[_LONGEST:]
    lines = [(name or "unknown", count) for name, count in ordered[:_LONGEST]]
    return [*lines, (f"{len(rest):,} more", sum(count for _, count in rest))] if rest else lines

"""HTML report on an export: counts and a contact sheet. Thumbnails are embedded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from pixcrawler_worker import html_report
from pixcrawler_worker.db.exports import ExportEntry
from pixcrawler_worker.domain import explanations
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.html_report import Places, Table
from pixcrawler_worker.runtime import Runtime

#: Name of the file. The report on a crawl, often kept in the same folder, is `report.html`.
NAME = "dataset.html"
#: Images on the contact sheet, sampled evenly in the order of their hashes.
SHEET_SIZE = 60
#: Characters of a caption below its image.
_MAX_CAPTION = 200
#: Time for the thumbnails of the contact sheet: the archive does not wait longer for them.
_THUMBNAIL_SECONDS = 120.0
#: Reasons for leaving out an image that only exports have.
_LEFT_OUT: Mapping[str, str] = {
    "missing": "file missing in the storage",
    "changed": "file changed since the crawl",
    "unreadable": "file not readable in the storage",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """The images of a contact sheet.

    Attributes:
        shown: the images.
        thumbnails: JPEG, by position in the export.
        places: where those that were written are, by position.
    """

    shown: Sequence[ExportEntry]
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
    places: Mapping[int, Places] = field(default_factory=dict)

    @property
    def entries(self) -> list[tuple[ExportEntry, Places]]:
        """The images that are in the dataset, with their places."""
        return [(entry, self.places[entry.seq]) for entry in self.shown if entry.seq in self.places]


def place(entry: ExportEntry, name: str, file: str | None) -> Places:
    """Return where an image is found.

    Args:
        entry: the image.
        name: of its file in the dataset.
        file: path of its file from the report; None when it cannot be opened from there.
    """
    return Places(name, file, entry.image.page_url, entry.image.original_url)


async def thumbnails(runtime: Runtime, shown: Sequence[ExportEntry]) -> dict[int, bytes]:
    """Return the thumbnails of the contact sheet by their positions in the export."""
    return await html_report.thumbnails(
        runtime,
        ((entry.seq, entry.image.storage_url) for entry in shown if entry.image.storage_url),
        seconds=_THUMBNAIL_SECONDS,
    )


def write(plan: Plan, summary: Summary, sheet: Sheet) -> bytes:
    """Return the HTML report.

    Args:
        plan: plan of the export.
        summary: counts of its images.
        sheet: the contact sheet.
    """
    return html_report.document(f"Dataset: {plan.name}", _parts(plan, summary, sheet)).encode(errors="replace")


def _parts(plan: Plan, summary: Summary, sheet: Sheet) -> Iterator[str]:
    yield f'<h1>{escape(plan.name)}</h1><p class="soft">{_kind(plan)}</p>'
    yield html_report.tiles(_tiles(summary))
    yield '<div class="columns">'
    left_out = sum(summary.skipped.values())
    outcomes = [("in the dataset", summary.images), ("left out", left_out)]
    yield Table(heading="Selected images", counts=outcomes, column="Result").html()
    for heading, column, counts in (
        ("Classes", "Class", summary.labels),
        ("Splits", "Split", summary.splits if plan.splits else {}),
        ("Licenses", "License", summary.licenses),
        ("Formats", "Format", summary.formats),
        ("Sources", "Source", summary.sources),
    ):
        named = [(name or "unknown", count) for name, count in html_report.frequent(counts)]
        yield Table(heading=heading, counts=named, column=column).html()
    yield "</div>"
    yield _left_out(summary)
    entries = sheet.entries
    if entries:
        yield f"<h2>Contact sheet <small>{len(entries):,} of {summary.images:,}</small></h2>"
        figures = "".join(_figure(plan, entry, places, sheet.thumbnails.get(entry.seq)) for entry, places in entries)
        yield f'<div class="sheet">{figures}</div>'


def _tiles(summary: Summary) -> Iterator[tuple[str, str]]:
    licensed = summary.images - summary.licenses.get("", 0)
    yield f"{summary.images:,}", "images"
    if left_out := sum(summary.skipped.values()):
        yield f"{left_out:,}", "left out"
        yield f"{summary.images + left_out:,}", "selected"
    yield f"{len(summary.labels):,}", "classes"
    yield html_report.size(summary.image_bytes), "of images"
    if summary.captions:
        yield f"{summary.captions:,}", "with a caption"
    yield (f"{licensed / summary.images:.0%}" if summary.images else "none"), "with a known license"


def _left_out(summary: Summary) -> str:
    counts = html_report.frequent(summary.skipped)
    return Table(
        heading="Left out",
        counts=[(_LEFT_OUT.get(name) or explanations.explain(name).meaning, count) for name, count in counts],
        column="Reason",
        is_bad=True,
    ).html()


def _figure(plan: Plan, entry: ExportEntry, places: Places, thumbnail: bytes | None) -> str:
    label = plan.label(entry)
    note = safe(entry.caption or "", max_length=_MAX_CAPTION)
    hint = " - ".join(filter(None, (entry.image.title, entry.image.author, entry.image.license)))
    alt = entry.image.title or note or label
    return html_report.figure(thumbnail, label, alt=alt, places=places, hint=hint, note=note)


def _kind(plan: Plan) -> str:
    crawled = f", crawled{plan.until}" if plan.until else ""
    return escape(f"{plan.layout_name} as {plan.format}{crawled}")

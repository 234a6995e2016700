"""What the archives of an export have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pixcrawler_worker.db.exports import ExportRequest
from pixcrawler_worker.domain.labels import default_label
from pixcrawler_worker.export import options
from pixcrawler_worker.export.options import ExportOptions
from pixcrawler_worker.exporters.protocol import ExportFormat, Layout

#: Where exports lie in storage, each in a folder named by its id.
FOLDER = "exports/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An export as its row asks for it.

    Attributes:
        name: of the dataset, for people.
        format: what it is delivered as.
        options: the row's.
        layout: how its images lie.
        layout_name: what it is called.
        labels: every class of its images, sorted.
        splits: in their order; empty when it is not split.
        unlabelled: class of images that nobody labeled.
        crawled: when the crawl ended, UTC.
    """

    name: str
    format: ExportFormat
    options: ExportOptions
    layout: type[Layout]
    layout_name: str
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    unlabelled: str
    crawled: datetime

    @property
    def ttl(self) -> timedelta:
        """How long the link works."""
        return timedelta(seconds=self.options.url_ttl_s)


def read(request: ExportRequest, labels: Sequence[str] = ()) -> Plan:
    """Return the plan of a request.

    Raises:
        PermanentError: when its format or its options are invalid; the message names the key.
    """
    format_, wanted = options.format_of(request.format), options.parse(request.options)
    layout = wanted.layout_for(format_)
    return Plan(
        name=request.name,
        format=format_,
        options=wanted,
        layout=layout,
        layout_name=wanted.layout_name(format_),
        labels=tuple(labels),
        splits=tuple(wanted.ratios(layout)),
        unlabelled=default_label(request.keywords),
        crawled=request.crawl_ended_at.astimezone(UTC),
    )


def key(job_id: int, name: str) -> str:
    """Return where a file of an export lies in storage."""
    return f"{FOLDER}{job_id}/{name}"

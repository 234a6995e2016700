"""The plan of an export: what its archives have in common."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from pixcrawler_worker.db.exports import ExportEntry, ExportRequest
from pixcrawler_worker.domain.labels import default_label, file_labels
from pixcrawler_worker.domain.list_columns import ListColumns
from pixcrawler_worker.domain.name_templates import NamedImage, NameTemplate
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.export import options
from pixcrawler_worker.export.options import ExportOptions
from pixcrawler_worker.exporters.protocol import ExportFormat, Layout

#: Prefix of the keys of all exports; the files of each are in a folder named by its id.
FOLDER = "exports/"
#: Name of a dataset whose own has nothing that can be shown.
_UNNAMED = "dataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An export as its row requests it.

    Attributes:
        crawl_job_id: the crawl job that it has the images of.
        name: display name of the dataset.
        format: format of its files.
        options: options of the export.
        layout: arrangement of the images.
        layout_name: name of the layout.
        labels: all classes of its images as files have them, in the order of `file_labels`; empty before its images are
            selected.
        splits: names of the splits, in their order; empty when it is not split.
        default_label: class of images without a label.
        crawl_ended_at: when the crawl ended, UTC.
        file_labels: the classes as files have them, by the labels in rows, sorted by these.
        columns: those that come from URL lists.
    """

    crawl_job_id: int
    name: str
    format: ExportFormat
    options: ExportOptions
    layout: type[Layout]
    layout_name: str
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    default_label: str
    crawl_ended_at: datetime
    file_labels: Mapping[str, str] = field(default_factory=dict)
    columns: ListColumns = field(default_factory=ListColumns)

    @property
    def until(self) -> str:
        """When the crawl ended, to be read after a verb; empty where that is left out."""
        return "" if self.options.reproducible else f" until {self.crawl_ended_at:%Y-%m-%d}"

    @property
    def ttl(self) -> timedelta:
        """How long the files are kept."""
        return timedelta(seconds=self.options.url_ttl_s)

    @classmethod
    def of(cls, request: ExportRequest, labels: Sequence[str] = (), columns: ListColumns | None = None) -> Self:
        """Return the plan of a request.

        Args:
            request: of its row.
            labels: see `Plan`; empty before its images are selected.
            columns: likewise.

        Raises:
            PermanentError: when its format or its options are invalid; the message names the key.
        """
        format_, parsed = options.format_of(request.format), options.parse(request.options)
        layout = parsed.layout_for(format_)
        names = file_labels(labels)
        return cls(
            crawl_job_id=request.crawl_job_id,
            name=safe(request.name).strip() or _UNNAMED,
            format=format_,
            options=parsed,
            layout=layout,
            layout_name=parsed.layout_name(format_),
            labels=tuple(names.values()),
            splits=tuple(parsed.ratios(layout)),
            default_label=default_label(request.keywords),
            crawl_ended_at=request.crawl_ended_at.astimezone(UTC),
            file_labels=names,
            columns=columns or ListColumns(),
        )

    def label(self, entry: ExportEntry) -> str:
        """Return the class of an image as files have it."""
        label = entry.image.label or self.default_label
        return self.file_labels.get(label) or safe(label)

    def stem(self, entry: ExportEntry) -> str:
        """Return the name of an image's file in the dataset, without its extension."""
        digest, image = entry.digest.hex(), entry.image
        if self.options.name_template is None:
            return f"{digest}-{entry.copy + 1}" if entry.copy else digest
        return _template(self.options.name_template).name(
            NamedImage(
                index=entry.seq,
                id=image.id,
                digest=digest,
                copy=entry.copy,
                label=self.label(entry),
                title=image.title or "",
            )
        )


_template = functools.lru_cache(maxsize=16)(NameTemplate.parse)  # it is asked for with every image


def key(job_id: int, name: str) -> str:
    """Return the key of an export's file in storage."""
    return f"{FOLDER}{job_id}/{name}"

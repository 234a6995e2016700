"""What people look at: jobs with their counts, for the command line, the report and tests."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.models import Chunk
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import ChunkState

View = TypeVar("View", bound="JobView")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView(ABC):
    """A job's row, as far as people and machines are shown it, with its chunks."""

    table: ClassVar[JobTable]

    id: int
    name: str
    status: str
    progress: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    total_chunks: int
    completed_chunks: int
    failed_chunks: int

    @property
    def ended(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return self.status not in {"pending", "running"}

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.table.name} {self.id}"

    @property
    @abstractmethod
    def count(self) -> tuple[int, int, str]:
        """How far it is: images so far, images in the end, and what they are called."""

    def as_json(self) -> dict[str, Any]:
        """Return the view with JSON's types only."""
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlView(JobView):
    """A crawl job."""

    table = CRAWL_JOBS

    keywords: Any
    max_images: int
    total_images: int
    downloaded_images: int
    valid_images: int
    active_chunks: int

    @property
    def title(self) -> str:
        """What people call it."""
        return f"job {self.id}"

    @property
    def count(self) -> tuple[int, int, str]:
        """How far it is; see `JobView`."""
        return self.valid_images, self.max_images, "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationView(JobView):
    """A validation job."""

    table = VALIDATION_JOBS

    crawl_job_id: int
    validation_rules: Any
    total_images: int
    validated_images: int
    invalid_images: int
    error_message: str | None

    @property
    def count(self) -> tuple[int, int, str]:
        """How far it is; see `JobView`."""
        return self.validated_images + self.invalid_images, self.total_images, "images judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportView(JobView):
    """An export job."""

    table = EXPORT_JOBS

    crawl_job_id: int
    format: str
    export_options: Any
    total_images: int
    exported_images: int
    file_size: int | None
    download_url: str | None
    expires_at: datetime | None
    error_message: str | None

    @property
    def count(self) -> tuple[int, int, str]:
        """How far it is; see `JobView`."""
        return self.exported_images, self.total_images, "images exported"

    @property
    def result(self) -> dict[str, Any]:
        """What it wrote down about itself when it was done; empty before that."""
        found = self.export_options.get("result") if isinstance(self.export_options, dict) else None
        return found if isinstance(found, dict) else {}


VIEWS: Mapping[JobTable, type[JobView]] = {view.table: view for view in (CrawlView, ValidationView, ExportView)}
#: What `crawl_jobs` has columns for; of jobs of other kinds it is counted.
_CHUNKS: Mapping[str, list[ColumnElement[bool]]] = {
    "total_chunks": [],
    "completed_chunks": [Chunk.state == ChunkState.COMPLETED],
    "failed_chunks": [Chunk.state == ChunkState.FAILED],
}


def job(session: Session, view: type[View], job_id: int) -> View | None:
    """Return one job; None when there is none of that kind and id."""
    found = _found(session, view, view.table.model.id == job_id, limit=1)
    return found[0] if found else None


def newest(session: Session, view: type[View], *, limit: int) -> list[View]:
    """Return the newest jobs of a kind, newest first."""
    return _found(session, view, limit=limit)


def of_crawl(session: Session, view: type[View], crawl_job_id: int) -> list[View]:
    """Return the validations or exports of a crawl job, newest first."""
    return _found(session, view, _column(view.table, "crawl_job_id") == crawl_job_id)


def _found(session: Session, view: type[View], *which: ColumnElement[bool], limit: int | None = None) -> list[View]:
    columns = [_column(view.table, field.name) for field in fields(view)]
    query = select(*columns).where(*which).order_by(view.table.model.id.desc()).limit(limit)
    return [view(**row) for row in session.execute(query).mappings()]


def _column(table: JobTable, name: str) -> ColumnElement[Any]:
    model = table.model
    if name not in _CHUNKS or table.has(name):
        column: ColumnElement[Any] = getattr(model, name)
        return column
    counted = select(func.count()).where(table.chunk_key == model.id, *_CHUNKS[name])
    return counted.correlate(model).scalar_subquery().label(name)

"""Jobs with their counts and chunks, as the command line, the reports and tests read them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Numeric, Text, case, cast, func, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger.jobs import PRUNED
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import CANCELLED, ENDED, ChunkState, JobStatus

View = TypeVar("View", bound="JobView")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView(ABC):
    """The columns of a job's row that are shown, with the numbers of its chunks."""

    table: ClassVar[JobTable]
    #: What people call a job of the kind.
    noun: ClassVar[str]
    #: Whether a job that has ended without an image has brought nothing.
    brings_images: ClassVar[bool] = True

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
    live_images: int

    @property
    def ended(self) -> bool:
        """Whether the job has reached its last status."""
        return self.status in ENDED

    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled, also where the kind has no status for that."""
        return self.status == JobStatus.CANCELLED

    @property
    def crawl_id(self) -> int:
        """The id of the crawl job that it works for: its own, unless it works on the images of another job."""
        return self.id

    @property
    def title(self) -> str:
        """The job's noun and id."""
        return f"{self.noun} {self.id}"

    @property
    def heading(self) -> str:
        """The job's id and name."""
        return f"{self.id}  {self.name}"

    @property
    def argument(self) -> str:
        """The job as an argument of `pixcrawler jobs`."""
        return f"{self.table.name}:{self.id}"

    @property
    @abstractmethod
    def count(self) -> tuple[int, int, str]:
        """The images so far, those of running chunks too, the images at the end, and what they are called."""

    def as_json(self) -> dict[str, Any]:
        """Return the view with JSON's types only, and the kind of the job."""
        values = {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(self).items()}
        return {"kind": self.table.name, **values}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlView(JobView):
    """A crawl job."""

    table = CRAWL_JOBS
    noun = "job"

    keywords: Any
    max_images: int
    total_images: int
    downloaded_images: int
    valid_images: int
    active_chunks: int

    @property
    def argument(self) -> str:
        """The job as an argument of `pixcrawler jobs`, which takes a bare id for a crawl job."""
        return str(self.id)

    @property
    def count(self) -> tuple[int, int, str]:
        """Valid images and requested ones; see `JobView`."""
        return min(self.valid_images + self.live_images, self.max_images), self.max_images, "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ViewOfCrawl(JobView):
    """A job that works on the images of a crawl job."""

    crawl_job_id: int
    error_message: str | None

    @property
    def crawl_id(self) -> int:
        """The id of the crawl job whose images it works on."""
        return self.crawl_job_id

    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled: the documented statuses have nothing but `failed` for that."""
        return self.status in {JobStatus.FAILED, JobStatus.CANCELLED} and self.error_message == CANCELLED

    @property
    def heading(self) -> str:
        """The job's id and name, and its crawl job."""
        return f"{self.id}  {self.name}, of job {self.crawl_job_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationView(_ViewOfCrawl):
    """A validation job."""

    table = VALIDATION_JOBS
    noun = "validation"
    brings_images = False

    validation_rules: Any
    total_images: int
    validated_images: int
    invalid_images: int

    @property
    def count(self) -> tuple[int, int, str]:
        """Validated images and all; see `JobView`."""
        done = self.validated_images + self.invalid_images + self.live_images
        return min(done, self.total_images), self.total_images, "images validated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportView(_ViewOfCrawl):
    """An export job."""

    table = EXPORT_JOBS
    noun = "export"

    format: str
    export_options: Any
    total_images: int
    exported_images: int
    file_size: int | None
    download_url: str | None
    expires_at: datetime | None

    @property
    def count(self) -> tuple[int, int, str]:
        """Exported images and all; see `JobView`."""
        return min(self.exported_images + self.live_images, self.total_images), self.total_images, "images exported"

    @property
    def result(self) -> dict[str, Any]:
        """The result that a completed export has recorded in its options; empty before that."""
        found = self.export_options.get("result") if isinstance(self.export_options, dict) else None
        return found if isinstance(found, dict) else {}


#: Deleted chunks of one job that are believed.
_MAX_CHUNKS = 1_000_000_000
#: Columns of `crawl_jobs`; the tables of other kinds lack them, and the chunks are counted.
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


def unfinished(session: Session, view: type[View]) -> list[View]:
    """Return the jobs of a kind that have not ended, newest first."""
    return _found(session, view, _column(view.table, "status").not_in(ENDED))


def of_crawl(session: Session, view: type[View], crawl_job_id: int) -> list[View]:
    """Return the validations or exports of a crawl job, newest first."""
    return _found(session, view, _column(view.table, "crawl_job_id") == crawl_job_id)


def _found(session: Session, view: type[View], *which: ColumnElement[bool], limit: int | None = None) -> list[View]:
    columns = [_column(view.table, field.name) for field in fields(view)]
    query = select(*columns).where(*which).order_by(view.table.model.id.desc()).limit(limit)
    return [view(**row) for row in session.execute(query).mappings()]


def _column(table: JobTable, name: str) -> ColumnElement[Any]:
    model = table.model
    if name == "live_images":
        running = select(func.coalesce(func.sum(Chunk.live_images), 0)).where(
            # Not those of an earlier claim.
            table.chunk_key == model.id,
            Chunk.state == ChunkState.RUNNING,
            Chunk.live_fence == Chunk.fence,
        )
        return running.correlate(model).scalar_subquery().label(name)
    if name not in _CHUNKS or table.has(name):
        column: ColumnElement[Any] = getattr(model, name)
        return column
    count: ColumnElement[Any] = func.count()
    if name != "failed_chunks":
        # With those that were deleted, whose number is in the chunk that is left.
        deleted = Chunk.result[PRUNED]["chunks"]
        is_number = func.jsonb_typeof(deleted) == "number"
        number = case((is_number, func.least(cast(cast(deleted, Text), Numeric), _MAX_CHUNKS)), else_=0)
        count += cast(func.coalesce(func.sum(number), 0), BigInteger)
    counted = select(count).select_from(Chunk).where(table.chunk_key == model.id, *_CHUNKS[name])
    return counted.correlate(model).scalar_subquery().label(name)

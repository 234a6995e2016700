"""What people look at: jobs with their counts, for the command line, the report and tests."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, func, select
from sqlalchemy.orm import Session

from pixcrawler_worker.db import jobs
from pixcrawler_worker.db.models import Chunk, CrawlJob, ExportJob, ValidationJob
from pixcrawler_worker.domain.lifecycle import ChunkState, JobKind, JobRef


@dataclass(frozen=True, slots=True)
class CrawlView:
    """A crawl job's row, as far as people and machines are shown it."""

    id: int
    name: str
    status: str
    progress: int
    keywords: Any
    max_images: int
    total_images: int
    downloaded_images: int
    valid_images: int
    total_chunks: int
    active_chunks: int
    completed_chunks: int
    failed_chunks: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return self.status not in {"pending", "running"}

    @property
    def title(self) -> str:
        """What people call it."""
        return f"job {self.id}"

    @property
    def count(self) -> tuple[int, int, str]:
        """How far it is: images so far, images in the end, and what they are called."""
        return self.valid_images, self.max_images, "images"

    def as_json(self) -> dict[str, Any]:
        """Return the view with JSON's types only."""
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class ValidationView:
    """A validation job's row, as far as people and machines are shown it, with its chunks."""

    id: int
    crawl_job_id: int
    name: str
    status: str
    progress: int
    validation_rules: Any
    total_images: int
    validated_images: int
    invalid_images: int
    error_message: str | None
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
        return f"validation {self.id}"

    @property
    def count(self) -> tuple[int, int, str]:
        """How far it is: images so far, images in the end, and what they are called."""
        return self.validated_images + self.invalid_images, self.total_images, "images judged"

    def as_json(self) -> dict[str, Any]:
        """Return the view with JSON's types only."""
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class ExportView:
    """An export job's row, as far as people and machines are shown it, with its chunks."""

    id: int
    crawl_job_id: int
    name: str
    status: str
    progress: int
    format: str
    export_options: Any
    total_images: int
    exported_images: int
    file_size: int | None
    download_url: str | None
    expires_at: datetime | None
    error_message: str | None
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
        return f"export {self.id}"

    @property
    def count(self) -> tuple[int, int, str]:
        """How far it is: images so far, images in the end, and what they are called."""
        return self.exported_images, self.total_images, "images exported"

    @property
    def result(self) -> dict[str, Any]:
        """What it wrote down about itself when it was done; empty before that."""
        found = self.export_options.get("result") if isinstance(self.export_options, dict) else None
        return found if isinstance(found, dict) else {}

    def as_json(self) -> dict[str, Any]:
        """Return the view with JSON's types only."""
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(self).items()}


_VIEW = tuple(getattr(CrawlJob, name) for name in CrawlView.__dataclass_fields__)


def crawl_job(session: Session, job_id: int) -> CrawlView | None:
    """Return one crawl job; None when there is none."""
    row = session.execute(select(*_VIEW).where(CrawlJob.id == job_id)).one_or_none()
    return None if row is None else CrawlView(*row)


def crawl_jobs(session: Session, *, limit: int) -> list[CrawlView]:
    """Return the newest crawl jobs, newest first."""
    return [CrawlView(*row) for row in session.execute(select(*_VIEW).order_by(CrawlJob.id.desc()).limit(limit))]


def validation_job(session: Session, job_id: int) -> ValidationView | None:
    """Return one validation job; None when there is none."""
    found = _validations(session, ValidationJob.id == job_id)
    return found[0] if found else None


def validations_of(session: Session, crawl_job_id: int) -> list[ValidationView]:
    """Return the validations of a crawl job, newest first."""
    return _validations(session, ValidationJob.crawl_job_id == crawl_job_id)


def export_job(session: Session, job_id: int) -> ExportView | None:
    """Return one export job; None when there is none."""
    found = _exports(session, ExportJob.id == job_id)
    return found[0] if found else None


def exports_of(session: Session, crawl_job_id: int) -> list[ExportView]:
    """Return the exports of a crawl job, newest first."""
    return _exports(session, ExportJob.crawl_job_id == crawl_job_id)


def _validations(session: Session, which: ColumnElement[bool]) -> list[ValidationView]:
    columns = [getattr(ValidationJob, name) for name in list(ValidationView.__dataclass_fields__)[:-3]]
    query = select(*columns, *_chunks_of(JobKind.VALIDATION)).where(which).order_by(ValidationJob.id.desc())
    return [ValidationView(*tuple(row)) for row in session.execute(query)]


def _exports(session: Session, which: ColumnElement[bool]) -> list[ExportView]:
    columns = [getattr(ExportJob, name) for name in list(ExportView.__dataclass_fields__)[:-3]]
    query = select(*columns, *_chunks_of(JobKind.EXPORT)).where(which).order_by(ExportJob.id.desc())
    return [ExportView(*tuple(row)) for row in session.execute(query)]


def _chunks_of(kind: JobKind) -> list[ScalarSelect[int]]:
    """Return the numbers of all, of completed and of failed chunks of the job in a query's row."""
    model = jobs.MODELS[kind]
    return [
        select(func.count()).where(jobs.COLUMNS[kind] == model.id, *state).correlate(model).scalar_subquery()
        for state in ([], [Chunk.state == ChunkState.COMPLETED], [Chunk.state == ChunkState.FAILED])
    ]


def chunk_states(session: Session, ref: JobRef) -> dict[str, int]:
    """Return the number of the job's chunks in each state that occurs."""
    query = select(Chunk.state, func.count()).where(jobs.belongs_to(ref)).group_by(Chunk.state)
    return dict(session.execute(query).all())

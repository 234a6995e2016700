"""The seven documented tables with their relationships; `private_models` has the tables of the worker itself.

`docs/database-schema.md` is the source for schema `public`; tests compare it with the migrated database and with the
models. Deletes cascade in the database: with `passive_deletes="all"` the ORM neither loads nor changes children.
"""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import (
    BigInteger,
    BindParameter,
    CheckConstraint,
    ColumnElement,
    DateTime,
    FetchedValue,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    func,
    text,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Common metadata: the names of constraints, and the PostgreSQL types of Python types."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        bytes: LargeBinary,
        dict[str, Any]: JSONB,
        Any: JSONB,
    }


class ImageId(TypeDecorator[int]):
    """The id of an image: an integer, as documented, which `deploy/ids-to-bigint.sql` may have made a bigint.

    Values are sent as bigint, which compares with both and uses the indexes of both.
    """

    impl = Integer
    cache_ok = True

    def bind_expression(self, bindparam: BindParameter[int]) -> ColumnElement[int]:
        """Return the parameter as a bigint."""
        return type_coerce(bindparam, BigInteger())


def _not_negative(*columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative") for column in columns]


_PROGRESS = "progress BETWEEN 0 AND 100"


class _Timestamps:
    # A trigger of migration 0005 sets `updated_at`: an UPDATE of the ORM returns it, as an INSERT returns the defaults.
    __mapper_args__: ClassVar[dict[str, Any]] = {"eager_defaults": True}

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=100)
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue(), sort_order=101
    )


class JobRow(_Timestamps):
    """The columns that the tables of all kinds of jobs have, for the type checker; each table declares its own."""

    if TYPE_CHECKING:
        id: Mapped[int]
        status: Mapped[str]
        progress: Mapped[int]
        started_at: Mapped[datetime | None]
        completed_at: Mapped[datetime | None]


class Profile(_Timestamps, Base):
    """A user. References `auth.users.id` where that table exists (Supabase); see the migration."""

    __tablename__ = "profiles"
    __table_args__ = (Index("ix_profiles_email", "email", unique=True),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(255))
    full_name: Mapped[str | None] = mapped_column(String(100))
    avatar_url: Mapped[str | None] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(20), server_default="user")

    projects: Mapped[list["Project"]] = relationship(back_populates="user", passive_deletes="all")
    activity_logs: Mapped[list["ActivityLog"]] = relationship(back_populates="user", passive_deletes="all")


class Project(_Timestamps, Base):
    """A group of crawl jobs of a user."""

    __tablename__ = "projects"
    __table_args__ = (Index("ix_project_user_id", "user_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str | None] = mapped_column(Text)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(String(20), server_default="active")

    user: Mapped["Profile"] = relationship(back_populates="projects")
    crawl_jobs: Mapped[list["CrawlJob"]] = relationship(back_populates="project", passive_deletes="all")


class CrawlJob(JobRow, Base):
    """A crawl job with its counters."""

    __tablename__ = "crawl_jobs"
    __table_args__ = (
        Index("ix_crawl_job_status", "status"),
        Index("ix_crawl_job_project_status", "project_id", "status"),
        CheckConstraint(_PROGRESS, name="progress_range"),
        *_not_negative("total_images", "downloaded_images", "valid_images"),
        *_not_negative("total_chunks", "active_chunks", "completed_chunks", "failed_chunks"),
        # Two updates for each chunk: free space on its page, and a vacuum before a fifth of the few rows is dead.
        {
            "postgresql_with": {
                "fillfactor": "50",
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_threshold": "200",
                "autovacuum_analyze_scale_factor": "0.05",
            }
        },
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100))
    keywords: Mapped[Any] = mapped_column(JSONB)
    max_images: Mapped[int] = mapped_column(server_default="1000")
    status: Mapped[str] = mapped_column(String(20), server_default="pending")
    progress: Mapped[int] = mapped_column(server_default="0")
    total_images: Mapped[int] = mapped_column(server_default="0")
    downloaded_images: Mapped[int] = mapped_column(server_default="0")
    valid_images: Mapped[int] = mapped_column(server_default="0")
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    total_chunks: Mapped[int] = mapped_column(server_default="0")
    active_chunks: Mapped[int] = mapped_column(server_default="0")
    completed_chunks: Mapped[int] = mapped_column(server_default="0")
    failed_chunks: Mapped[int] = mapped_column(server_default="0")
    task_ids: Mapped[Any] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))

    project: Mapped["Project"] = relationship(back_populates="crawl_jobs")
    images: Mapped[list["Image"]] = relationship(back_populates="crawl_job", passive_deletes="all")
    validation_jobs: Mapped[list["ValidationJob"]] = relationship(back_populates="crawl_job", passive_deletes="all")
    export_jobs: Mapped[list["ExportJob"]] = relationship(back_populates="crawl_job", passive_deletes="all")


class Image(Base):
    """An image of a crawl job."""

    __tablename__ = "images"
    __table_args__ = (Index("ix_image_crawl_job_id", "crawl_job_id"),)

    id: Mapped[int] = mapped_column(ImageId, primary_key=True, autoincrement=True)
    crawl_job_id: Mapped[int] = mapped_column(ForeignKey("crawl_jobs.id", ondelete="CASCADE"))
    original_url: Mapped[str] = mapped_column(Text)
    filename: Mapped[str] = mapped_column(String(255))
    storage_url: Mapped[str | None] = mapped_column(Text)
    width: Mapped[int | None]
    height: Mapped[int | None]
    file_size: Mapped[int | None]
    format: Mapped[str | None] = mapped_column(String(10))

    crawl_job: Mapped["CrawlJob"] = relationship(back_populates="images")


class ActivityLog(Base):
    """An event, for people; never updated, and kept when its user is deleted."""

    __tablename__ = "activity_logs"
    __table_args__ = (
        Index("ix_activity_log_user_id", "user_id"),
        Index("ix_activity_log_timestamp", "timestamp"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("profiles.id", ondelete="SET NULL"))
    action: Mapped[str] = mapped_column(Text)
    resource_type: Mapped[str | None] = mapped_column(String(50))
    resource_id: Mapped[str | None] = mapped_column(String(50))
    metadata_: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    timestamp: Mapped[datetime] = mapped_column(server_default=func.now())

    user: Mapped["Profile | None"] = relationship(back_populates="activity_logs")

    @property
    def details(self) -> dict[str, Any]:
        """`metadata_` where it is an object; empty where it is NULL, or something that another program wrote."""
        return self.metadata_ if isinstance(self.metadata_, dict) else {}


class ValidationJob(JobRow, Base):
    """A validation of the images of a crawl job."""

    __tablename__ = "validation_jobs"
    __table_args__ = (
        Index("ix_validation_job_status", "status"),
        Index("ix_validation_job_crawl_job_id", "crawl_job_id"),
        CheckConstraint(_PROGRESS, name="progress_range"),
        *_not_negative("total_images", "validated_images", "invalid_images"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    crawl_job_id: Mapped[int] = mapped_column(ForeignKey("crawl_jobs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(20), server_default="pending")
    progress: Mapped[int] = mapped_column(server_default="0")
    total_images: Mapped[int] = mapped_column(server_default="0")
    validated_images: Mapped[int] = mapped_column(server_default="0")
    invalid_images: Mapped[int] = mapped_column(server_default="0")
    validation_rules: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    error_message: Mapped[str | None] = mapped_column(Text)

    crawl_job: Mapped["CrawlJob"] = relationship(back_populates="validation_jobs")


class ExportJob(JobRow, Base):
    """An export of the images of a crawl job to an archive."""

    __tablename__ = "export_jobs"
    __table_args__ = (
        Index("ix_export_job_status", "status"),
        Index("ix_export_job_user_id", "user_id"),
        Index("ix_export_job_crawl_job_id", "crawl_job_id"),
        CheckConstraint(_PROGRESS, name="progress_range"),
        *_not_negative("total_images", "exported_images"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    crawl_job_id: Mapped[int] = mapped_column(ForeignKey("crawl_jobs.id", ondelete="CASCADE"))
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(20), server_default="pending")
    progress: Mapped[int] = mapped_column(server_default="0")
    format: Mapped[str] = mapped_column(String(20), server_default="zip")
    total_images: Mapped[int] = mapped_column(server_default="0")
    exported_images: Mapped[int] = mapped_column(server_default="0")
    file_size: Mapped[int | None]
    download_url: Mapped[str | None] = mapped_column(Text)
    export_options: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    error_message: Mapped[str | None] = mapped_column(Text)

    crawl_job: Mapped["CrawlJob"] = relationship(back_populates="export_jobs")
    user: Mapped["Profile"] = relationship()


def configure() -> None:
    """Have all mappers ready: the children of a process need not do it each, and find no lock of it held."""
    Base.registry.configure()

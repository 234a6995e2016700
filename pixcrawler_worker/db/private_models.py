"""The private tables of the worker, in the schema `pixcrawler`: the ledger, and what it knows of images and jobs."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Sequence,
    SmallInteger,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from pixcrawler_worker.db.models import Base, ImageId

PRIVATE = "pixcrawler"

#: Fence tokens: every claim takes the next one, and a result with an older one is rejected.
FENCE = Sequence("fence", schema=PRIVATE, metadata=Base.metadata)


#: Numbers of an open chunk that no transition writes; `MAX_ATTEMPTS_WITH_DEFERRALS` is 60.
IMPOSSIBLE_NUMBERS = (
    "state IN ('queued', 'running') AND"
    " (attempt < 0 OR max_attempts > 60 OR (state = 'queued' AND attempt >= max_attempts))"
)


class Chunk(Base):
    """One unit of work of a job of any kind. The row decides what happens; a message only carries its id."""

    __tablename__ = "chunks"
    __table_args__ = (
        CheckConstraint("num_nonnulls(crawl_job_id, validation_job_id, export_job_id) = 1", name="one_job"),
        CheckConstraint("state IN ('queued', 'running', 'completed', 'failed', 'cancelled')", name="state_known"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease_while_running"),
        *(
            Index(
                f"uq_chunks_{column}_seq",
                column,
                "seq",
                unique=True,
                postgresql_where=text(f"{column} IS NOT NULL"),
            )
            for column in ("crawl_job_id", "validation_job_id", "export_job_id")
        ),
        # The next chunk of a job, without a look at those that have ended.
        *(
            Index(
                f"ix_chunks_{column}_queued",
                column,
                "seq",
                postgresql_where=text(f"state = 'queued' AND {column} IS NOT NULL"),
            )
            for column in ("crawl_job_id", "validation_job_id", "export_job_id")
        ),
        Index("ix_chunks_lease_until", "lease_until", postgresql_where=text("state = 'running'")),
        Index("ix_chunks_available_at", "available_at", postgresql_where=text("state = 'queued'")),
        # Messages under way, few of many chunks.
        Index(
            "ix_chunks_dispatched_at",
            "dispatched_at",
            postgresql_where=text("state = 'queued' AND dispatched_at IS NOT NULL"),
        ),
        # Why chunks failed, few of many.
        Index("ix_chunks_crawl_job_id_failed", "crawl_job_id", postgresql_where=text("state = 'failed'")),
        # It is empty, and so costs nothing: a sweep sees that no chunk has them.
        Index("ix_chunks_impossible", "id", postgresql_where=text(IMPOSSIBLE_NUMBERS)),
        # Free space on the page of a row allows HOT updates, which leave the indexes alone: those of what a running
        # chunk shows, the most frequent ones. A dispatch, a claim, a heartbeat and an end change `dispatched_at`,
        # `state` or `lease_until`, by which partial indexes find the few open chunks among all: these are never HOT.
        {
            "schema": PRIVATE,
            "postgresql_with": {
                "fillfactor": "70",
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_threshold": "500",
                "autovacuum_analyze_scale_factor": "0.05",
            },
        },
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    crawl_job_id: Mapped[int | None] = mapped_column(ForeignKey("crawl_jobs.id", ondelete="CASCADE"))
    validation_job_id: Mapped[int | None] = mapped_column(ForeignKey("validation_jobs.id", ondelete="CASCADE"))
    export_job_id: Mapped[int | None] = mapped_column(ForeignKey("export_jobs.id", ondelete="CASCADE"))
    generation: Mapped[int] = mapped_column(server_default="1")
    seq: Mapped[int]
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(10), server_default="queued")
    attempt: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    crash_count: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    fence: Mapped[int | None] = mapped_column(BigInteger)
    owner: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    dispatched_at: Mapped[datetime | None]
    dispatch_count: Mapped[int] = mapped_column(Integer, server_default="0")
    task_id: Mapped[uuid.UUID]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    # What is shown of a running chunk: its images so far, and the claim that has them.
    live_images: Mapped[int | None]
    live_fence: Mapped[int | None] = mapped_column(BigInteger)


class CrawlPlan(Base):
    """The options that a crawl job was started with, and the number of its rounds.

    `bases` are the jobs whose dataset it extends, the newest first; some may have been deleted. With `as_given` the
    options are those that an API has requested it with, which no worker has checked yet. `history` has the sums of what
    the chunks of its rounds have brought; see `db/crawl_history.py`.
    """

    __tablename__ = "crawl_plans"
    __table_args__ = ({"schema": PRIVATE},)

    crawl_job_id: Mapped[int] = mapped_column(
        ForeignKey("crawl_jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    options: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    round: Mapped[int] = mapped_column(server_default="0")
    requested_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    cleaned_at: Mapped[datetime | None]
    as_given: Mapped[bool] = mapped_column(server_default="false")
    bases: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{}")
    history: Mapped[dict[str, Any] | None]


class CrawlUrls(Base):
    """A part of the URL list of a crawl job.

    `details` has an entry for each URL, NULL for one without, or is NULL where none of them has any.
    """

    __tablename__ = "crawl_urls"
    __table_args__ = ({"schema": PRIVATE},)

    crawl_job_id: Mapped[int] = mapped_column(
        ForeignKey("crawl_jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    page: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    urls: Mapped[list[str]] = mapped_column(ARRAY(Text))
    details: Mapped[list[dict[str, Any] | None] | None] = mapped_column(ARRAY(JSONB))


class CrawlCandidate(Base):
    """A URL that a crawl job has processed: it is not counted again, and only downloaded again if it is retriable.

    One that became an image has no `reason`; one that was rejected has it, with what is known of the failure.
    """

    __tablename__ = "crawl_candidates"
    __table_args__ = (
        # How many a retry would try again, few of many.
        Index("ix_crawl_candidates_retriable", "crawl_job_id", postgresql_where=text("retriable")),
        {"schema": PRIVATE},
    )

    crawl_job_id: Mapped[int] = mapped_column(
        ForeignKey("crawl_jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    url_hash: Mapped[bytes] = mapped_column(primary_key=True)
    url: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    retriable: Mapped[bool] = mapped_column(server_default="false")
    downloads: Mapped[int] = mapped_column(server_default="0")
    label: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[str | None] = mapped_column(Text)
    http_status: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(server_default="1")
    tried_at: Mapped[datetime | None]
    #: What the URL list says about the image, as `crawl_urls.details` has it.
    list_details: Mapped[dict[str, Any] | None]


class ImageFact(Base):
    """Facts about an image that have no column in the documented table.

    The unique indexes make it harmless to write a result twice.
    """

    __tablename__ = "image_facts"
    __table_args__ = (
        # Beginning with the hashes, they also serve jobs that leave out what other jobs of their project have.
        Index("uq_image_facts_url_hash_crawl_job_id", "url_hash", "crawl_job_id", unique=True),
        Index("uq_image_facts_sha256_crawl_job_id", "sha256", "crawl_job_id", unique=True),
        {"schema": PRIVATE},
    )

    #: A trigger deletes the facts with the image: a foreign key, checked for each row, took a fifth of an insert.
    image_id: Mapped[int] = mapped_column(ImageId, primary_key=True, autoincrement=False)
    #: That of the image, whose foreign key is enough.
    crawl_job_id: Mapped[int]
    sha256: Mapped[bytes]
    url_hash: Mapped[bytes]
    phash: Mapped[int] = mapped_column(BigInteger)
    dhash: Mapped[int] = mapped_column(BigInteger)
    hash_version: Mapped[int] = mapped_column(SmallInteger)
    mode: Mapped[str] = mapped_column(String(10))
    frames: Mapped[int]
    label: Mapped[str] = mapped_column(Text)
    query: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(50))
    page_url: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str | None] = mapped_column(Text)
    author: Mapped[str | None] = mapped_column(Text)
    license: Mapped[str | None] = mapped_column(Text)
    license_url: Mapped[str | None] = mapped_column(Text)
    attribution: Mapped[str | None] = mapped_column(Text)
    crawled_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    #: Of the file as the crawl has decoded it, with the size and the format that it had then.
    metrics: Mapped[dict[str, Any] | None]
    metrics_version: Mapped[int | None] = mapped_column(SmallInteger)
    #: Of the URL list: the caption of the image, and the values of the list's other columns by their names.
    caption: Mapped[str | None] = mapped_column(Text)
    columns: Mapped[dict[str, Any] | None]


class ValidationPlan(Base):
    """The state of a validation job that has no column in the documented table.

    `effective` is whether its results count once it has completed; `note` is an explanation of its numbers for people.
    """

    __tablename__ = "validation_plans"
    __table_args__ = ({"schema": PRIVATE},)

    validation_job_id: Mapped[int] = mapped_column(
        ForeignKey("validation_jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    effective: Mapped[bool] = mapped_column(server_default="false")
    note: Mapped[str | None] = mapped_column(Text)
    requested_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ValidationResultRow(Base):
    """The result of a validation job for one image: findings and measurements.

    There is no foreign key to the image: checking it costs as much as the insert, and the result for an image that is
    deleted is not read. `keeper_id` is the image that is kept instead of this one, its duplicate.
    """

    __tablename__ = "verdicts"
    __table_args__ = ({"schema": PRIVATE},)

    validation_job_id: Mapped[int] = mapped_column(
        ForeignKey("validation_jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    image_id: Mapped[int] = mapped_column(ImageId, primary_key=True, autoincrement=False)
    valid: Mapped[bool]
    findings: Mapped[Any] = mapped_column(JSONB)
    sha256: Mapped[bytes | None]
    phash: Mapped[int | None] = mapped_column(BigInteger)
    dhash: Mapped[int | None] = mapped_column(BigInteger)
    width: Mapped[int | None]
    height: Mapped[int | None]
    file_size: Mapped[int | None]
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    keeper_id: Mapped[int | None] = mapped_column(ImageId)


class ExportPlan(Base):
    """The state of an export job that has no column in the documented table.

    `validation_job_id` is the validation whose results count for it; there is no foreign key, because deleting the
    validation does not change a running export. `validation_job_ids` are this one and those of the crawl jobs that its
    crawl job extends. `labels` are the classes of its images, sorted. `signed_until` is when the presigned URL in its
    row expires. `cleaned_at` is when the deletion of its files began, if it has to write them again. `columns` are the
    columns of URL lists that its images have; NULL where none has any.
    """

    __tablename__ = "export_plans"
    __table_args__ = ({"schema": PRIVATE},)

    export_job_id: Mapped[int] = mapped_column(
        ForeignKey("export_jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    validation_job_id: Mapped[int | None]
    labels: Mapped[Any] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    requested_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    signed_until: Mapped[datetime | None]
    cleaned_at: Mapped[datetime | None]
    columns: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    validation_job_ids: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))


class ExportItem(Base):
    """An image of the dataset of an export job, with its position there.

    `split` is the position of its split in the options; `digest` names its file, `copy` numbers the images with the
    same digest, `cost` is the largest number of its bytes in an archive, and `upto` the running total of costs.
    """

    __tablename__ = "export_items"
    __table_args__ = ({"schema": PRIVATE},)

    export_job_id: Mapped[int] = mapped_column(
        ForeignKey("export_jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image_id: Mapped[int] = mapped_column(ImageId)
    split: Mapped[int] = mapped_column(SmallInteger)
    digest: Mapped[bytes]
    copy: Mapped[int]
    cost: Mapped[int] = mapped_column(BigInteger)
    upto: Mapped[int] = mapped_column(BigInteger)


class Recount(Base):
    """A mark: the valid images of a crawl job have to be counted again, because rows were deleted.

    There is no foreign key: a delete of the job would wait for the one that has left the mark.
    """

    __tablename__ = "recounts"
    __table_args__ = ({"schema": PRIVATE},)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    crawl_job_id: Mapped[int]


class Broker(Base):
    """What is known of the messages in the broker, in the only row.

    `identity` changes when the broker loses messages; those that were sent before `lost_at` may be lost.
    """

    __tablename__ = "broker"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), {"schema": PRIVATE})

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default="1")
    identity: Mapped[str | None] = mapped_column(Text)
    lost_at: Mapped[datetime | None]

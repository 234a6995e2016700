"""How many jobs and chunks there are by state, and how long the oldest ones wait: for metrics.

Each query follows an index that has only the open rows, or only the status, and has little time: in a database with
millions of chunks, what takes longer is left out and not waited for.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Float,
    SQLColumnExpression,
    cast,
    exc,
    extract,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.private_models import Chunk
from pixcrawler_worker.db.session import describe
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.errors import TransientError

#: Time of one query, and of all of them.
MAX_QUERY, MAX_TIME = timedelta(seconds=1), timedelta(seconds=3)
#: What the status of a row counts as that another program wrote and that means nothing.
UNKNOWN = "unknown"
#: SQLSTATE of a query that took too long.
_CANCELED = "57014"
#: The longest age, for rows of the year 0 or of -infinity.
_MAX_AGE = 1_000_000_000


@dataclass(slots=True)
class JobCounts:
    """The numbers, by kind of job.

    Attributes:
        jobs: by kind and status.
        chunks: by kind and state, those that have not ended.
        oldest_pending: seconds since the oldest pending job was inserted; 0 when there is none.
        oldest_queued: seconds for which the oldest queued chunk has been due; 0 when there is none.
        oldest_expired: seconds since the first lease expired of those that no sweep has taken back; 0 without any.
        left_out: names of the numbers that are missing, because a query took too long.
    """

    jobs: dict[tuple[str, ...], int] = field(default_factory=dict)
    chunks: dict[tuple[str, ...], int] = field(default_factory=dict)
    oldest_pending: dict[str, float] = field(default_factory=dict)
    oldest_queued: dict[str, float] = field(default_factory=dict)
    oldest_expired: float | None = None
    left_out: set[str] = field(default_factory=set)


def read(
    engine: Engine, tables: Collection[JobTable], *, max_query: timedelta = MAX_QUERY, max_time: timedelta = MAX_TIME
) -> JobCounts:
    """Return the numbers.

    Args:
        engine: of the database.
        tables: of the kinds of jobs.
        max_query: time of one query.
        max_time: time of all queries.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        with engine.connect() as connection:
            return _read(
                _Reader(connection, max_query.total_seconds(), time.monotonic() + max_time.total_seconds()), tables
            )
    except (DBAPIError, exc.TimeoutError) as error:
        raise TransientError(f"the database does not answer: {describe(error)}") from error


@dataclass(slots=True)
class _Reader:
    """Runs each query in a transaction of its own, with what is left of the time."""

    connection: Connection
    max_query: float
    until: float

    def rows(self, query: Executable) -> Sequence[Any] | None:
        """Return the rows; None when that took too long."""
        seconds = min(self.max_query, self.until - time.monotonic())
        if seconds <= 0:
            return None
        try:
            with self.connection.begin():
                milliseconds = max(1, round(seconds * 1000))
                self.connection.execute(text(f"SET LOCAL statement_timeout = {milliseconds}"))
                return self.connection.execute(query).all()
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _CANCELED:
                raise
            return None


def _read(reader: _Reader, tables: Collection[JobTable]) -> JobCounts:
    found = JobCounts()
    running = _running(reader, found, tables)
    for table in tables:
        name, model = table.name, table.model
        oldest = reader.rows(select(_age(func.min(model.created_at))).where(model.status == JobStatus.PENDING))
        if oldest is None:
            found.left_out.add("oldest_pending")
        else:
            found.oldest_pending[name] = oldest[0][0]
        queued_of_kind = (Chunk.state == ChunkState.QUEUED, table.chunk_key.is_not(None))
        oldest = reader.rows(select(_age(func.min(Chunk.available_at))).where(*queued_of_kind))
        if oldest is None:
            found.left_out.add("oldest_queued")
        else:
            found.oldest_queued[name] = oldest[0][0]
        queued = reader.rows(select(func.count()).select_from(Chunk).where(*queued_of_kind))
        if queued is None:
            found.left_out.add("chunks")
        else:
            found.chunks[name, ChunkState.QUEUED.value] = queued[0][0]
        if running is not None:
            found.chunks[name, ChunkState.RUNNING.value] = running[name]
        statuses = reader.rows(select(model.status, func.count()).group_by(model.status))
        if statuses is None:
            found.left_out.add("jobs")
            continue
        found.jobs |= {(name, status.value): 0 for status in JobStatus}
        for status, count in statuses:
            key = (name, status if status in set(JobStatus) else UNKNOWN)
            found.jobs[key] = found.jobs.get(key, 0) + count
    return found


def _running(reader: _Reader, found: JobCounts, tables: Collection[JobTable]) -> dict[str, int] | None:
    """Read the running chunks, which are as many as there are processes."""
    counts = [func.count(table.chunk_key) for table in tables]
    rows = reader.rows(select(_age(func.min(Chunk.lease_until)), *counts).where(Chunk.state == ChunkState.RUNNING))
    if rows is None:
        found.left_out |= {"chunks", "oldest_expired"}
        return None
    found.oldest_expired, *numbers = rows[0]
    return {table.name: number for table, number in zip(tables, numbers, strict=True)}


def _age(moment: SQLColumnExpression[Any]) -> ColumnElement[float]:
    """Return the seconds since a moment; 0 when it is to come, or there is none. NULL and infinity are none either."""
    seconds = extract("epoch", func.clock_timestamp()) - extract("epoch", moment)
    return cast(func.greatest(func.least(func.coalesce(seconds, 0), _MAX_AGE), 0), Float)

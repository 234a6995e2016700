"""What the ledger has to know of the table of a kind of job, and the types that name jobs and messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, FromClause, SQLColumnExpression

from pixcrawler_worker.db.models import JobRow


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JobTable:
    """The table of one kind of job.

    Attributes:
        name: of the kind, as messages, logs and commands have it.
        model: rows of the table.
        chunk_key: the foreign key `<name>_job_id` of the ledger, by which a chunk belongs to one of the rows.
        owners: the jobs joined with everything that they belong to, from the top down: owner, project, ..., job.
            PostgreSQL locks the rows of a join in the order in which FROM names their tables.
        plan_key: the foreign key of the table in which jobs of the kind are recorded when they are requested.
        requested_at: when, in the same table.
        chunk_task: name of the Celery task that runs a chunk.
        queue: of that task.
        limits: columns of the table that may not exceed another column of the same row.
        carries_options: the condition that a row has the options of its job, where its message may have them instead;
            None where every row has them.
    """

    name: str
    model: type[JobRow]
    chunk_key: SQLColumnExpression[int | None]
    owners: FromClause
    plan_key: SQLColumnExpression[int]
    requested_at: SQLColumnExpression[datetime]
    chunk_task: str
    queue: str
    limits: Mapping[str, str] = field(default_factory=dict)
    carries_options: ColumnElement[bool] | None = None

    @property
    def id_name(self) -> str:
        """What messages and the ledger call the id of a job of the kind."""
        return f"{self.name}_job_id"

    def ref(self, job_id: int) -> "JobRef":
        """Return the name of one job of the kind."""
        return JobRef(self, job_id)

    def has(self, column: str) -> bool:
        """Return whether the table has the column: kinds differ in what they count and record in their rows."""
        return hasattr(self.model, column)

    def __repr__(self) -> str:
        return f"<{self.name} jobs>"


@dataclass(frozen=True, slots=True)
class JobRef:
    """Names one job: its table and its id."""

    table: JobTable
    id: int

    def __str__(self) -> str:
        return f"{self.table.name} job {self.id}"


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """A message to send: run this chunk.

    Attributes:
        task: name of the Celery task.
        queue: that it is sent to.
        chunk_id: the task's argument.
        task_id: id that the task must have.
    """

    task: str
    queue: str
    chunk_id: int
    task_id: str


class NotRunningError(Exception):
    """The job was cancelled, ended or deleted: roll back and drop the result."""


class LimitExceededError(Exception):
    """A column would exceed its limit (`JobTable.limits`): roll back, read again, and write less."""


class NotCountedError(Exception):
    """A statement would have had no effect, and is committed in one request with it: roll back, and look why."""

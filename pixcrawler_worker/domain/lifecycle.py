"""Statuses and counters of jobs and chunks. `docs/lifecycle.md` draws the transitions."""

from dataclasses import dataclass
from enum import Enum, StrEnum


class JobStatus(StrEnum):
    """The documented values of `status`. Only a crawl job can be `cancelled`."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ChunkState(StrEnum):
    """States of a chunk."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ChunkOutcome(Enum):
    """What ending an attempt at a chunk means for its job."""

    CONTINUES = "the job has open chunks"
    JOB_FINISHED = "it was the last open chunk of the job"
    LOST = "the claim is no longer valid, and nothing was written"


#: Statuses of jobs that have ended.
ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
#: `error_message` of a cancelled job whose kind has no status for that: it is `failed`.
CANCELLED = "cancelled"
#: A chunk whose workers died this often fails, and the rest of its job goes on.
MAX_CRASHES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Chunks of one job by state; the rest of `total` is queued.

    Raises:
        ValueError: on values that no sequence of transitions can reach.
    """

    total: int
    active: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    def __post_init__(self) -> None:
        parts = (self.active, self.completed, self.failed, self.cancelled)
        if min(parts) < 0 or sum(parts) > self.total:
            raise ValueError(f"impossible counters: {self}")

    @property
    def queued(self) -> int:
        """Chunks that wait for a worker."""
        return self.total - self.active - self.completed - self.failed - self.cancelled

    @property
    def open(self) -> int:
        """Chunks that have not ended: queued and active."""
        return self.queued + self.active


@dataclass(frozen=True, slots=True)
class Delta:
    """The change of a job's counters when chunks of it change their state."""

    active: int = 0
    completed: int = 0
    failed: int = 0


def delta(before: ChunkState, after: ChunkState, chunks: int = 1) -> Delta:
    """Return the change of a job's counters when `chunks` chunks go from one state to another."""

    def change(state: ChunkState) -> int:
        return chunks * ((after is state) - (before is state))

    return Delta(change(ChunkState.RUNNING), change(ChunkState.COMPLETED), change(ChunkState.FAILED))


def job_status(counters: Counters) -> JobStatus:
    """Return the status that a job has by its chunks, when it was not cancelled.

    A job with at least one completed chunk is completed, and so is a job that had no chunks.
    """
    if counters.open:
        return JobStatus.RUNNING
    if counters.completed or not counters.total:
        return JobStatus.COMPLETED
    return JobStatus.FAILED


def progress(counters: Counters) -> int:
    """Return the percentage of chunks that ended, 0 to 99: 100 is reserved for a completed job."""
    return min(99, 99 * (counters.completed + counters.failed) // max(counters.total, 1))


def after_crash(*, crashes: int, attempt: int, max_attempts: int) -> ChunkState:
    """Return the state of a chunk whose lease expired for the n-th time."""
    if crashes >= MAX_CRASHES or attempt >= max_attempts:
        return ChunkState.FAILED
    return ChunkState.QUEUED

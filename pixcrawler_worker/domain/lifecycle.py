"""Statuses, transitions and counters of jobs and chunks. `docs/lifecycle.md` draws what stands here."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class JobKind(StrEnum):
    """The three kinds of jobs that one machinery of chunks serves."""

    CRAWL = "crawl"
    VALIDATION = "validation"
    EXPORT = "export"


@dataclass(frozen=True, slots=True)
class JobRef:
    """Names one row of `crawl_jobs`, `validation_jobs` or `export_jobs`."""

    kind: JobKind
    id: int

    def __str__(self) -> str:
        return f"{self.kind} job {self.id}"


class JobStatus(StrEnum):
    """The documented values of `status`. Only a crawl can be cancelled."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ChunkState(StrEnum):
    """What a chunk is doing."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What can happen to a chunk."""

    CLAIM = "claim"
    FINISH = "finish"
    GIVE_BACK = "give back"
    GIVE_UP = "give up"
    REAP = "reap"
    CANCEL = "cancel"
    RETRY = "retry"


#: Every transition of a chunk there is: (from, event, to).
TRANSITIONS = frozenset(
    {
        (ChunkState.QUEUED, Event.CLAIM, ChunkState.RUNNING),
        (ChunkState.RUNNING, Event.FINISH, ChunkState.COMPLETED),
        (ChunkState.RUNNING, Event.GIVE_BACK, ChunkState.QUEUED),
        (ChunkState.RUNNING, Event.GIVE_UP, ChunkState.FAILED),
        (ChunkState.RUNNING, Event.REAP, ChunkState.QUEUED),
        (ChunkState.RUNNING, Event.REAP, ChunkState.FAILED),
        (ChunkState.QUEUED, Event.CANCEL, ChunkState.CANCELLED),
        (ChunkState.RUNNING, Event.CANCEL, ChunkState.CANCELLED),
        (ChunkState.FAILED, Event.RETRY, ChunkState.QUEUED),
        (ChunkState.CANCELLED, Event.RETRY, ChunkState.QUEUED),
    }
)

#: A chunk that killed its worker this often is poison: it fails, and the rest of its job goes on.
MAX_CRASHES = 2
#: Claims of one chunk in one generation, whatever ended them but somebody's wish to be left alone.
MAX_ATTEMPTS = 5
#: Claims of one chunk in one generation, those wishes included: who only ever has wishes is given up as well.
MOST_ATTEMPTS = 60
#: Whoever asks to be left alone for longer is given up: the job goes on with others, or ends and says why.
LONGEST_WISH = timedelta(minutes=15)

_FIRST_DELAY = timedelta(seconds=5)
_LONGEST_DELAY = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Chunks of one job by state; what is left of `total` is queued.

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
        """Chunks that wait."""
        return self.total - self.active - self.completed - self.failed - self.cancelled

    @property
    def open(self) -> int:
        """Chunks that may still bring something: queued and active."""
        return self.queued + self.active


@dataclass(frozen=True, slots=True)
class Delta:
    """What one or several chunks of a job changing their state does to the job's counters."""

    active: int = 0
    completed: int = 0
    failed: int = 0


def delta(before: ChunkState, after: ChunkState, chunks: int = 1) -> Delta:
    """Return the change of a job's counters when `chunks` chunks go from one state to another."""

    def change(state: ChunkState) -> int:
        return chunks * ((after is state) - (before is state))

    return Delta(change(ChunkState.RUNNING), change(ChunkState.COMPLETED), change(ChunkState.FAILED))


def job_status(counters: Counters) -> JobStatus:
    """Return what the chunks make of their job, which nobody cancelled.

    A job with one completed chunk has something to show and is completed; a job without chunks had nothing to do.
    """
    if counters.open:
        return JobStatus.RUNNING
    if counters.completed or not counters.total:
        return JobStatus.COMPLETED
    return JobStatus.FAILED


def progress(counters: Counters) -> int:
    """Return the percentage of chunks that came to an end, 0 to 99: 100 is reserved for a completed job."""
    return min(99, 99 * (counters.completed + counters.failed) // max(counters.total, 1))


def retry_delay(*, attempt: int, max_attempts: int) -> timedelta | None:
    """Return how long a chunk rests after its n-th attempt met passing trouble; None when it was the last.

    Five seconds, then four times as long each time, at most a quarter of an hour.
    """
    if attempt >= max_attempts:
        return None
    # Far beyond the longest delay already, and a timedelta cannot hold any number.
    growth: int = 4 ** min(attempt - 1, 10)
    return min(_FIRST_DELAY * growth, _LONGEST_DELAY)


def allowed_attempts(*, max_attempts: int) -> int:
    """Return the attempts that a chunk may have once one of them met nothing but a wish to be left alone."""
    return min(max_attempts + 1, MOST_ATTEMPTS)


def after_crash(*, crashes: int, attempt: int, max_attempts: int) -> ChunkState:
    """Return the state of a chunk whose worker fell silent for the n-th time."""
    if crashes >= MAX_CRASHES or attempt >= max_attempts:
        return ChunkState.FAILED
    return ChunkState.QUEUED

"""What a kind of job is: the one file to read before writing one.

A kind brings its table, its display and five functions. The core does the rest, once for all kinds: idempotent start,
retry and cancel, claims with leases and fence tokens, deadlines, counters, lost messages. `registry.py` lists them.
"""

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain.lifecycle import Counters, JobStatus
from pixcrawler_worker.jobs.display import AnyJobDisplay
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunks to queue: the plan of a job, or its next round.

    Attributes:
        payloads: one for each chunk, with JSON's types only.
        details: for the job's activity log.
    """

    payloads: Sequence[Mapping[str, Any]]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The end of a job.

    Attributes:
        status: its last one.
        error: for `error_message`, where the table has that column.
        details: for the job's activity log.
    """

    status: JobStatus
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def failure(cls, reason: str) -> "Conclusion":
        """Return the end of a job that failed, and why."""
        return cls(JobStatus.FAILED, reason, {"reason": reason})

    @classmethod
    def never_planned(cls, start_task: str) -> "Conclusion":
        """Return the end of a job whose row was set running before it was planned."""
        return cls.failure(f"the row was set running by hand: write it as pending, and send {start_task}")


@dataclass(frozen=True, slots=True)
class Rest:
    """What an attempt has left of its chunk, to be done by another attempt.

    Attributes:
        payload: of the chunk from now on, with JSON's types only.
        delay: time until the chunk is due.
        progressed: whether the attempt has brought the chunk further. If not, that must not happen for ever: see
            `domain.retry.may_defer`.
    """

    payload: Mapping[str, Any]
    delay: timedelta = timedelta(0)
    progressed: bool = True


@dataclass(frozen=True, slots=True)
class Tally:
    """What an attempt has done, for its line in the log and for metrics. Names are words of the code.

    Attributes:
        outcomes: numbers of candidates or images by what became of them; `rejected` are those of a crawl without image.
        rejected: why they were rejected, or what was found, with counts.
        bytes: downloaded by crawls, read by validations, written by exports.
        hosts: seconds of downloads by host.
        waiting: numbers of candidates that are put off, by the host that they wait for.
    """

    outcomes: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    hosts: Mapping[str, float] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What a chunk has brought.

    Attributes:
        result: kept with the chunk, with JSON's types only. With a rest, the next attempt finds it in `Claim.so_far`,
            and its own result has to include it.
        gains: increments of counting columns of the job's table, by name, by this attempt.
        rest: what is left of the chunk, which is queued again for it; None when the chunk is completed.
        tally: of this attempt.
    """

    result: Mapping[str, Any]
    gains: Mapping[str, int] = field(default_factory=dict)
    rest: Rest | None = None
    tally: Tally = field(default_factory=Tally)


def _no_request(runtime: Runtime, session: Session, ref: JobRef, options: object) -> None:
    """Record nothing: the options of the kind are in the job's row."""


def _no_difference(session: Session, ref: JobRef, options: object) -> str | None:
    """Return None: the options of the kind are in the job's row, and a message has none."""
    del session, ref, options
    return None


def _not_overtaken(session: Session, ref: JobRef, options: object) -> bool:
    """Return False: the options of the kind are in the job's row."""
    del session, ref, options
    return False


def _may_run_again(session: Session, ref: JobRef) -> str | None:
    """Return None: whatever a job has brought, it may bring the rest."""
    del session, ref
    return None


def _no_parents(session: Session, ref: JobRef) -> None:
    """Lock nothing else: concluding writes to the job's own row only."""


def _nothing_more(session: Session, ref: JobRef) -> bool:
    """Return False: what a retry runs again are chunks."""
    del session, ref
    return False


def _no_recount(session: Session, ref: JobRef) -> Mapping[str, int]:
    """Return nothing: the row has no counters that follow from other tables."""
    del session, ref
    return {}


def _none_marked(session: Session, skip: Collection[int]) -> Sequence[int]:
    """Return nothing: the row has no counters that follow from other tables."""
    del session, skip
    return []


def _no_cleanup(runtime: Runtime, limits: JobLimits) -> None:
    """Delete nothing: jobs of the kind leave no files behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKind(Generic[Work, Result]):
    """One kind of job: its table, and the functions that make it what it is.

    `Work` is what a chunk's work needs, `Result` is what the work returns.

    Attributes:
        table: the kind's table.
        display: how the command line shows jobs of the kind.
        start_task: name of the Celery task that starts a job of the kind; its argument is `<name>_job_id`.
        cancel_task: likewise; None where a job of the kind cannot be cancelled by a message.
        retry_task: likewise.
        plan: returns the first chunks of a pending job, whose lock is held. PermanentError fails the job.
        prepare: reads what a chunk's work needs, in the transaction of its claim. PermanentError fails the chunk.
        work: does a chunk's work; no transaction is open. TransientError releases the chunk, PermanentError fails it.
        write: writes what the work has brought, in a transaction in which the claim is valid. It may be called again
            with the same result.
        conclude: returns what follows when all chunks of a running job have ended. The job's lock is held.
        record_request: records the options of a start message, so that a retry or a recovery needs no message.
            PermanentError fails the job.
        differing: returns which options of a message differ from the recorded ones, for people; None when none does.
        overtaken: returns whether a job was started without options before its message brought some, and notes those:
            the job fails, since what it has brought was not what was requested.
        not_again: returns why an ended job must not run again; None when it may.
        lock_parents: locks what `conclude` writes to besides the job's own row, before the job is locked.
        has_more: returns whether a retry of an ended job has more to do than its failed and cancelled chunks.
        reopened: notes that an ended job runs again.
        recount: returns counters of the job's row as they follow from other tables, by column: sweeps repair them.
        marked: returns jobs that are to be recounted, because rows that the counters follow from were deleted,
            without those that it is given.
        clean_up: deletes files that ended jobs have left behind.
        overlaps: whether chunks mostly wait for others, so that a process may run several at a time. Their work says by
            `Runtime.take_more` when there is room for one.
    """

    table: JobTable
    display: AnyJobDisplay
    start_task: str
    cancel_task: str | None = None
    retry_task: str | None = None
    plan: Callable[[Runtime, Session, JobRef], Chunks]
    prepare: Callable[[Runtime, Session, Claim], Work]
    work: Callable[[Runtime, Work, JobLimits], Coroutine[Any, Any, Result]]
    write: Callable[[Session, Work, Result], Report]
    conclude: Callable[[Runtime, Session, JobRef, Counters], Chunks | Conclusion]
    record_request: Callable[[Runtime, Session, JobRef, object], None] = _no_request
    differing: Callable[[Session, JobRef, object], str | None] = _no_difference
    overtaken: Callable[[Session, JobRef, object], bool] = _not_overtaken
    not_again: Callable[[Session, JobRef], str | None] = _may_run_again
    lock_parents: Callable[[Session, JobRef], None] = _no_parents
    has_more: Callable[[Session, JobRef], bool] = _nothing_more
    reopened: Callable[[Session, JobRef], None] = _no_parents
    recount: Callable[[Session, JobRef], Mapping[str, int]] = _no_recount
    marked: Callable[[Session, Collection[int]], Sequence[int]] = _none_marked
    clean_up: Callable[[Runtime, JobLimits], object] = _no_cleanup
    overlaps: bool = False


#: A kind whose types of work and result do not matter, as most of the core sees it.
AnyJobKind = JobKind[Any, Any]

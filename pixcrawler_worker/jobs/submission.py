"""Transitions of whole jobs: start, conclude, cancel, retry. One implementation for all kinds.

Every function here may be called twice, late, or at once with itself and the others: each decides under the job's lock,
and returns the messages to send once its transaction has committed.
"""

import contextlib

import structlog

from pixcrawler_worker import tracing
from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.ledger import dispatch, jobs
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, NotRunningError
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import ENDED, JobStatus
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.jobs.kind import AnyJobKind, Chunks, Conclusion
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()


class _NotAgainError(Exception):
    """A job must not run again; the message says why."""


def start(runtime: Runtime, kind: AnyJobKind, job_id: int, options: object = None) -> list[ChunkMessage]:
    """Plan a pending job; do nothing for one that has been started.

    Options that come too late, because the job was started with others, are not dropped silently: the log and the
    job's activity log name them. One that was started without any fails, even when it is completed: what it has brought
    is not what was requested. An invalid row or invalid options fail the job: the reason is in its activity log and,
    where the table has that column, in `error_message`. Any other error is raised with the request recorded, so that
    sweeps plan the job again.

    Args:
        runtime: connects to the database.
        kind: of the job.
        job_id: its row.
        options: of the message; empty or None to go by those that are recorded.

    Raises:
        UnknownJobError: when there is no such job.
    """
    with tracing.job_span("start", kind.table.name, job_id):
        return _start(runtime, kind, job_id, options)


def _start(runtime: Runtime, kind: AnyJobKind, job_id: int, options: object) -> list[ChunkMessage]:
    ref = kind.table.ref(job_id)
    if _status(runtime, ref) is not JobStatus.PENDING:
        _meet_options(runtime, kind, ref, options)
        return []
    try:
        planned = transact(runtime.sessions, lambda session: _plan(runtime, session, kind, ref, options))
    except PermanentError as error:
        reason = str(error)
        transact(runtime.sessions, lambda session: _reject(runtime, session, kind, ref, options, reason))
        return []
    except Exception:
        # The message is gone after this, and planning took back what it had recorded.
        transact(runtime.sessions, lambda session: _remember(runtime, session, kind, ref, options))
        raise
    if planned is None:
        # Another start was first.
        _meet_options(runtime, kind, ref, options)
    return planned or []


def record(runtime: Runtime, kind: AnyJobKind, job_id: int, options: object) -> None:
    """Record the request of a pending job without planning it: sweeps plan it later. Harmless on any other.

    Invalid options are recorded by the start, which fails the job for them.
    """
    ref = kind.table.ref(job_id)
    with contextlib.suppress(PermanentError):
        transact(runtime.sessions, lambda session: _remember(runtime, session, kind, ref, options))


def give_up(runtime: Runtime, kind: AnyJobKind, job_id: int, reason: str) -> None:
    """Fail a job that cannot be planned or concluded, for a reason that another attempt does not change.

    One that has ended, or has open chunks, stays as it is.
    """
    ref = kind.table.ref(job_id)

    def work(session: Session) -> None:
        status = jobs.lock(session, ref)
        if status is JobStatus.PENDING or (status is JobStatus.RUNNING and not jobs.counters(session, ref).open):
            _end(session, ref, Conclusion.failure(reason))

    transact(runtime.sessions, work)


def withdraw(runtime: Runtime, kind: AnyJobKind, job_id: int, reason: str, *, failed: bool = False) -> bool:
    """End a pending job whose start message is gone, unless another one has started it; return whether that ended it.

    Args:
        runtime: connects to the database.
        kind: of the job.
        job_id: its row; one that is not there means nothing.
        reason: why the message is gone, for the log and the job's activity log.
        failed: whether the job failed; by default it is cancelled.
    """
    ref = kind.table.ref(job_id)

    def work(session: Session) -> bool:
        if jobs.lock(session, ref) is not JobStatus.PENDING:
            return False
        if failed:
            _end(session, ref, Conclusion.failure(reason))
            return True
        cancelled = jobs.cancel(session, ref)
        if cancelled:
            activity_log.record(session, ref, "cancelled", {"reason": reason})
        return cancelled

    ended = transact(runtime.sessions, work)
    if ended:
        log.warning("pending job ended: its start message is gone", job=job_id, kind=kind.table.name, reason=reason)
    return ended


def conclude(runtime: Runtime, kind: AnyJobKind, job_id: int) -> list[ChunkMessage]:
    """Queue the next round of a running job whose chunks have all ended, or end the job.

    A row or a result of a chunk that became invalid fails the job.
    """
    with tracing.job_span("conclude", kind.table.name, job_id):
        return _conclude(runtime, kind, job_id)


def _conclude(runtime: Runtime, kind: AnyJobKind, job_id: int) -> list[ChunkMessage]:
    ref = kind.table.ref(job_id)

    def work(session: Session) -> list[ChunkMessage]:
        kind.lock_parents(session, ref)
        if jobs.lock(session, ref) is not JobStatus.RUNNING:
            return []
        counters = jobs.counters(session, ref)
        if counters.open:
            return []
        match kind.conclude(runtime, session, ref, counters):
            case Chunks(payloads):
                jobs.add_chunks(session, ref, payloads)
                return dispatch.next_due(session, ref, limit=runtime.settings.dispatch_window)
            case Conclusion() as conclusion:
                _end(session, ref, conclusion)
                return []

    try:
        return transact(runtime.sessions, work)
    except UnknownJobError:
        return []
    except PermanentError as error:
        reason = str(error)
    give_up(runtime, kind, job_id, reason)
    return []


def cancel(runtime: Runtime, kind: AnyJobKind, job_id: int) -> bool:
    """Cancel a job that has not ended; from then on nothing is written for it. Harmless on any other.

    Return whether it was this call that ended the job.

    Raises:
        UnknownJobError: when there is no such job.
    """
    ref = kind.table.ref(job_id)

    def work(session: Session) -> bool:
        cancelled = jobs.cancel(session, ref)
        if cancelled:
            activity_log.record(session, ref, "cancelled")
        return cancelled

    with tracing.job_span("cancel", kind.table.name, job_id):
        cancelled = transact(runtime.sessions, work)
        if _status(runtime, ref) in ENDED:
            drop_chunks(runtime, ref)
    return cancelled


def drop_chunks(runtime: Runtime, ref: JobRef) -> int:
    """Cancel the open chunks of an ended job and return how many there were; none when it runs again."""
    try:
        return transact(runtime.sessions, lambda session: jobs.drop_chunks(session, ref))
    except NotRunningError:
        return 0


def retry(runtime: Runtime, kind: AnyJobKind, job_id: int) -> list[ChunkMessage]:
    """Run the failed and cancelled chunks of an ended job again, and what else its kind would try again.

    A job that was never planned is planned. One that its kind does not let run again stays as it is: the log and its
    activity log say why.

    Raises:
        UnknownJobError: when there is no such job.
    """
    with tracing.job_span("retry", kind.table.name, job_id):
        return _retry(runtime, kind, job_id)


def _retry(runtime: Runtime, kind: AnyJobKind, job_id: int) -> list[ChunkMessage]:
    ref = kind.table.ref(job_id)
    if _status(runtime, ref) in ENDED:
        drop_chunks(runtime, ref)

    def work(session: Session) -> list[ChunkMessage] | None:
        if not jobs.counters(session, ref).total:
            return None if jobs.reopen(session, ref) else []
        jobs.retry(session, ref, has_more=kind.has_more(session, ref))
        # Under the lock of the job, which a message that makes it so takes, too.
        if reason := kind.not_again(session, ref):
            raise _NotAgainError(reason)
        kind.reopened(session, ref)
        activity_log.record(session, ref, "retried")
        return dispatch.next_due(session, ref, limit=runtime.settings.dispatch_window)

    try:
        messages = transact(runtime.sessions, work)
    except NotRunningError:
        log.info("nothing to retry", job=job_id, kind=kind.table.name)
        return []
    except _NotAgainError as error:
        _note_rejected_retry(runtime, ref, str(error))
        return []
    if messages is None:
        return start(runtime, kind, job_id)
    return messages or conclude(runtime, kind, job_id)


def _note_rejected_retry(runtime: Runtime, ref: JobRef, reason: str) -> None:
    log.error("retry rejected", job=ref.id, kind=ref.table.name, reason=reason)
    transact(runtime.sessions, lambda session: activity_log.record(session, ref, "retry_rejected", {"reason": reason}))


def _status(runtime: Runtime, ref: JobRef) -> JobStatus:
    status = transact(runtime.sessions, lambda session: jobs.status(session, ref))
    if status is None:
        raise UnknownJobError(ref.table.name, ref.id)
    return status


def _plan(
    runtime: Runtime, session: Session, kind: AnyJobKind, ref: JobRef, options: object
) -> list[ChunkMessage] | None:
    """Plan a job that is still pending; return None for one that is not."""
    if jobs.lock(session, ref) is not JobStatus.PENDING:
        return None
    _note(session, kind, ref, options, "options_replaced")
    kind.record_request(runtime, session, ref, options)
    plan = kind.plan(runtime, session, ref)
    jobs.begin(session, ref)
    jobs.add_chunks(session, ref, plan.payloads)
    activity_log.record(session, ref, "started", plan.details)
    return dispatch.next_due(session, ref, limit=runtime.settings.dispatch_window)


def _meet_options(runtime: Runtime, kind: AnyJobKind, ref: JobRef, options: object) -> None:
    """Note options for a job that was started before, once for each that differ however often they come.

    A job that was started without any fails. One that ended before it was planned, because it was cancelled before this
    message, keeps them for a retry.
    """

    def work(session: Session) -> None:
        jobs.lock_open_chunks(session, ref)
        status = jobs.lock(session, ref)
        if status is None:
            return
        if status in ENDED and not jobs.counters(session, ref).total:
            with contextlib.suppress(PermanentError):
                kind.record_request(runtime, session, ref, options)
            return
        differing = _note(session, kind, ref, options, "options_ignored")
        if differing is None or status not in {JobStatus.RUNNING, JobStatus.COMPLETED}:
            return
        if not kind.overtaken(session, ref, options):
            return
        reason = (
            f"the job was started without options, and a message with others came later ({differing}): what it has"
            " brought was not requested. Insert a new job, with its options in the row"
        )
        if status is JobStatus.RUNNING:
            jobs.fail_open_chunks(session, ref, error=reason)
        _end(session, ref, Conclusion.failure(reason))

    if options:
        transact(runtime.sessions, work)


def _note(session: Session, kind: AnyJobKind, ref: JobRef, options: object, event: str) -> str | None:
    """Log which options of a message are ignored, or replace others, if any; return them when that is new.

    The caller holds the job's lock.
    """
    differing = kind.differing(session, ref, options)
    if differing and activity_log.record_once(session, ref, event, {"reason": f"a message had others: {differing}"}):
        log.error(event.replace("_", " "), job=ref.id, kind=ref.table.name, differing=differing)
        return differing
    return None


def _remember(runtime: Runtime, session: Session, kind: AnyJobKind, ref: JobRef, options: object) -> None:
    """Record the request of a job that is still pending."""
    if jobs.lock(session, ref) is JobStatus.PENDING:
        kind.record_request(runtime, session, ref, options)


def _reject(  # noqa: PLR0913, PLR0917 - what `_plan` has, and why it failed
    runtime: Runtime, session: Session, kind: AnyJobKind, ref: JobRef, options: object, reason: str
) -> None:
    """Fail a job that cannot be planned, with its options recorded: a retry of the corrected row has no message."""
    if jobs.lock(session, ref) is not JobStatus.PENDING:
        return
    if options:
        with contextlib.suppress(PermanentError):
            kind.record_request(runtime, session, ref, options)
    _end(session, ref, Conclusion.failure(reason))


def _end(session: Session, ref: JobRef, conclusion: Conclusion) -> None:
    jobs.end(session, ref, conclusion.status, error=conclusion.error)
    tracing.current().set("pixcrawler.job.status", conclusion.status.value)
    activity_log.record(session, ref, conclusion.status, conclusion.details)
    write = log.warning if conclusion.status is JobStatus.FAILED else log.info
    write("job ended", job=ref.id, kind=ref.table.name, status=conclusion.status, **_logged(conclusion))


def _logged(conclusion: Conclusion) -> dict[str, object]:
    """Return the details that fit into a log line."""
    return {name: value for name, value in conclusion.details.items() if isinstance(value, int | str)}

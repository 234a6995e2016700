"""Starting a validation or an export, and failing it with a reason: the same for both."""

from collections.abc import Callable

import structlog

from pixcrawler_worker.db import activity, jobs
from pixcrawler_worker.db.jobs import Wake
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import JobRef, JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()


def start(
    runtime: Runtime, ref: JobRef, begin: Callable[[Session], list[Wake]], *, unknown: PermanentError
) -> list[Wake]:
    """Plan a pending job; do nothing for one that has been started.

    Args:
        runtime: what connects to the database.
        ref: the job.
        begin: plans it in a transaction of its own and returns what to wake. What it raises fails the job, with the
            reason in `error_message`.
        unknown: raised when there is no such job.
    """
    status = transact(runtime.sessions, lambda session: jobs.status(session, ref))
    if status is None:
        raise unknown
    if status is not JobStatus.PENDING:
        return []
    try:
        return transact(runtime.sessions, begin)
    except PermanentError as error:
        reason = str(error)
    transact(runtime.sessions, lambda session: _refuse(session, ref, reason))
    return []


def fail(session: Session, ref: JobRef, reason: str) -> None:
    """End a job as failed, and say why. The caller holds its lock."""
    jobs.end(session, ref, JobStatus.FAILED, error=reason)
    activity.record(session, ref, "failed", {"reason": reason})
    log.warning("job failed", job=ref.id, reason=reason)


def _refuse(session: Session, ref: JobRef, reason: str) -> None:
    if jobs.lock(session, ref) is JobStatus.PENDING:
        fail(session, ref, reason)

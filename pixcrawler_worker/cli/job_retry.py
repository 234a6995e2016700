"""Whether a retry of a job has anything to do, and may do it."""

from pixcrawler_worker import registry
from pixcrawler_worker.db.job_views import JobView
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError


def has_retry(sessions: Sessions, job: JobView) -> bool:
    """Return whether a retry of a job would do anything: it has ended, and has not brought all that it could."""
    ref = job.table.ref(job.id)
    if not job.ended:
        return False
    if job.status != JobStatus.COMPLETED or job.failed_chunks:
        return True
    return transact(sessions, lambda session: registry.kind_of(ref).has_more(session, ref))


def require_retry(sessions: Sessions, job: JobView) -> None:
    """Check that a job may run again.

    Raises:
        PermanentError: when it must not; the message says why, and what to do.
    """
    ref = job.table.ref(job.id)
    if reason := transact(sessions, lambda session: registry.kind_of(ref).not_again(session, ref)):
        raise PermanentError(f"{job.title} cannot run again: {reason}")

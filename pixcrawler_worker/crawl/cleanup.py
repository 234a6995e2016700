"""Deleting files that ended crawl jobs have left in storage without a row."""

from datetime import timedelta

import structlog

from pixcrawler_worker.db import crawls, images
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import ENDED
from pixcrawler_worker.domain.storage_keys import crawl_job_prefix
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()


def clean_up(runtime: Runtime, limits: JobLimits) -> int:
    """Delete files of ended jobs that no row names, and return how many there were."""
    return remove_orphans(runtime, grace_period=limits.grace_period)


def remove_orphans(runtime: Runtime, *, grace_period: timedelta) -> int:
    """Delete files of ended jobs that no row names, and return how many there were.

    Args:
        runtime: connects to database and storage.
        grace_period: how long ago a job must have ended, so that no late attempt still writes.
    """

    def ended(session: Session) -> list[int]:
        return crawls.past_grace_period(session, grace_period=grace_period)

    return sum(_clean_up(runtime, CRAWL_JOBS.ref(job_id)) for job_id in transact(runtime.sessions, ended))


def _clean_up(runtime: Runtime, ref: JobRef) -> int:
    async def keys() -> list[str]:
        return [key async for key in runtime.storage.keys(crawl_job_prefix(ref.id), unfinished=True)]

    def orphans(session: Session, found: list[str]) -> list[str]:
        # The job may have been retried meanwhile. While it is over and locked, it can be neither running nor retried,
        # so a file that was there before and has no row now will have none.
        if jobs.lock(session, ref) not in ENDED:
            return []
        named = images.files(session, ref.id)
        orphaned = [key for key in found if runtime.storage.url(key) not in named]
        if not orphaned:
            crawls.cleaned_up(session, ref.id)
        return orphaned

    try:
        found = runtime.run(keys())
        orphaned = transact(runtime.sessions, lambda session: orphans(session, found))
        runtime.run(runtime.storage.delete(orphaned))
    except (TransientError, PermanentError) as error:
        log.warning("orphaned files are left to the next clean-up", kind=ref.table.name, job=ref.id, reason=str(error))
        return 0
    if orphaned:
        log.info("orphaned files removed", kind=ref.table.name, job=ref.id, files=len(orphaned))
    return len(orphaned)

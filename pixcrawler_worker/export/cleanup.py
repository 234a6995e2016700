"""Deleting the files of expired, failed and deleted exports, and renewing presigned URLs before they expire."""

import functools
import re
from datetime import timedelta

import structlog

from pixcrawler_worker.db import exports
from pixcrawler_worker.db.exports import EXPORT_JOBS, ExpiringUrl
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.export import plan, publisher
from pixcrawler_worker.export.payloads import ExportResult
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()

#: Limit of exports that one clean-up expires or signs again.
_MAX_EXPORTS = 200
#: Remaining time of a presigned URL at which it is renewed.
_RENEW_WITHIN = timedelta(days=1)
#: Folder of an export below that of all exports; other programs may have made others.
_FOLDER = re.compile(r"[1-9][0-9]{0,9}")


def clean_up(runtime: Runtime, limits: JobLimits) -> int:
    """Delete the files of expired, failed and deleted exports, and renew presigned URLs that expire soon.

    Return the number of exports with deleted files.
    """
    expired = transact(runtime.sessions, functools.partial(exports.expired, limit=_MAX_EXPORTS))
    for job_id in expired:
        # The URL is removed first: a row must not have the URL of deleted files.
        transact(runtime.sessions, functools.partial(exports.remove_url, job_id=job_id))
    _renew_urls(runtime)
    try:
        return runtime.run(_remove_files(runtime, limits))
    except (TransientError, PermanentError) as error:
        log.warning("cleaning up exports failed; the next sweep tries again", reason=str(error))
        return 0


def _renew_urls(runtime: Runtime) -> None:
    expiring_urls = functools.partial(exports.expiring_urls, within=_RENEW_WITHIN, limit=_MAX_EXPORTS)
    for one in transact(runtime.sessions, expiring_urls):
        try:
            _renew_url(runtime, one)
        except (TransientError, PermanentError) as error:
            log.warning("the URL of an export is not renewed", kind=EXPORT_JOBS.name, job=one.job_id, reason=str(error))


def _renew_url(runtime: Runtime, one: ExpiringUrl) -> None:
    request = transact(runtime.sessions, functools.partial(exports.load, job_id=one.job_id))
    if request is not None:
        result = ExportResult.from_json(one.result)
        signing = publisher.sign(runtime, one.job_id, Plan.of(request), result, ttl=one.ttl)
        url, url_ttl = runtime.run(signing)
        replace = functools.partial(exports.replace_url, job_id=one.job_id, url=url, url_ttl=url_ttl)
        transact(runtime.sessions, replace)


def _begin_cleaning(session: Session, job_id: int) -> bool:
    """Note that the files of an export are deleted; return whether they may be: it may run again by now."""
    status = jobs.lock(session, EXPORT_JOBS.ref(job_id))
    return status is None or exports.begin_cleaning(session, job_id)


async def _remove_files(runtime: Runtime, limits: JobLimits) -> int:
    """Delete files without an export and unfinished uploads; return the number of exports with deleted files."""
    found: dict[int, list[str]] = {}
    async for key in runtime.storage.keys(plan.FOLDER, unfinished=True):
        number = key.removeprefix(plan.FOLDER).partition("/")[0]
        if _FOLDER.fullmatch(number) and int(number) <= MAX_INT4:
            found.setdefault(int(number), []).append(key)
    kept = transact(runtime.sessions, lambda session: exports.files(session, sorted(found)))
    lost = 0
    for job_id, keys in sorted(found.items()):
        names = kept.get(job_id, frozenset())
        orphaned = [] if names is None else [key for key in keys if key.rpartition("/")[2] not in names]
        begin = functools.partial(_begin_cleaning, job_id=job_id)
        if orphaned and bool(transact(runtime.sessions, begin)):
            await runtime.storage.delete(orphaned)
            log.info("files of an export removed", kind=EXPORT_JOBS.name, job=job_id, files=len(orphaned))
            lost += 1
    await runtime.storage.abort_uploads(plan.FOLDER, older=limits.grace_period)
    return lost

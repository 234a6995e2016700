"""Deleting the files of exports that have expired, failed or gone, and signing links again before they expire."""

import functools
from datetime import timedelta

import structlog

from pixcrawler_worker.db import exports
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.export import plan, publisher
from pixcrawler_worker.export.payloads import ExportResult
from pixcrawler_worker.jobs.limits import Limits
from pixcrawler_worker.runtime import Runtime

log = structlog.get_logger()

#: Exports that one clean-up deletes or signs again.
_MAX_EXPORTS = 200
#: Links are link_ttl again when they work for no longer than this.
_RESIGN_WITHIN = timedelta(days=1)


def clean_up(runtime: Runtime, limits: Limits) -> int:
    """Delete the files of exports that have expired, failed or gone, and sign links again that expire soon.

    Return how many exports lost files.
    """
    expired = transact(runtime.sessions, functools.partial(exports.expired, limit=_MAX_EXPORTS))
    for job_id in expired:
        # The link goes first: what it leads to must not be gone while a row still has it.
        transact(runtime.sessions, functools.partial(exports.remove_link, job_id=job_id))
    try:
        _renew_links(runtime)
        return runtime.run(_remove_files(runtime, limits))
    except (TransientError, PermanentError) as error:
        log.warning("files of exports are left to the next clean-up", reason=str(error))
        return 0


def _renew_links(runtime: Runtime) -> None:
    expiring_links = functools.partial(exports.expiring_links, within=_RESIGN_WITHIN, limit=_MAX_EXPORTS)
    for one in transact(runtime.sessions, expiring_links):
        request = transact(runtime.sessions, functools.partial(exports.load, job_id=one.job_id))
        if request is not None:
            again = publisher.link(
                runtime, one.job_id, plan.read(request), ExportResult.from_json(one.result), ttl=one.ttl
            )
            url, link_ttl = runtime.run(again)
            transact(
                runtime.sessions, functools.partial(exports.replace_link, job_id=one.job_id, url=url, link_ttl=link_ttl)
            )


async def _remove_files(runtime: Runtime, limits: Limits) -> int:
    """Delete files without an export and unfinished uploads of dead workers; return how many exports lost files."""
    found: dict[int, list[str]] = {}
    async for key in runtime.storage.keys(plan.FOLDER):
        number = key.removeprefix(plan.FOLDER).partition("/")[0]
        if number.isdecimal():
            found.setdefault(int(number), []).append(key)
    kept = transact(runtime.sessions, lambda session: exports.files(session, sorted(found)))
    lost = 0
    for job_id, keys in sorted(found.items()):
        names = kept.get(job_id, frozenset())
        orphaned = [] if names is None else [key for key in keys if key.rpartition("/")[2] not in names]
        if orphaned:
            await runtime.storage.delete(orphaned)
            log.info("files of an export removed", job=job_id, files=len(orphaned))
            lost += 1
    await runtime.storage.abort_uploads(plan.FOLDER, older=limits.grace_period)
    return lost

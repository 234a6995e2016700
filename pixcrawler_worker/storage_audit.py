"""Comparing the rows of images with the files in storage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pixcrawler_worker.db import activity_log, crawls, images, validations
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.images import StoredFile
from pixcrawler_worker.db.ledger import jobs, sweeps
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime


@dataclass(slots=True)
class StorageAudit:
    """What a comparison found.

    Attributes:
        jobs: crawl jobs that were compared.
        images: rows that name a file.
        files: in storage, of those jobs.
        missing: URLs of rows without a file.
        resized: URLs of files that do not have the size in their rows.
        orphaned: URLs of files without a row.
        elsewhere: rows whose file is in another storage; they are not compared.
        repaired: rows without a file and files without a row that were removed.
        suspicious: jobs that were not repaired because all their files are missing or elsewhere: probably the storage
            is not mounted, or another one is configured.
    """

    jobs: int = 0
    images: int = 0
    files: int = 0
    missing: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    elsewhere: int = 0
    repaired: int = 0
    suspicious: int = 0

    @property
    def ok(self) -> bool:
        """Whether rows and files agree, after the repairs if there were any."""
        return not self.resized and len(self.missing) + len(self.orphaned) == self.repaired

    def to_json(self) -> dict[str, Any]:
        """Return the audit as `--json` prints it."""
        return {
            "jobs": self.jobs,
            "images": self.images,
            "files": self.files,
            "missing": self.missing,
            "resized": self.resized,
            "stray": self.orphaned,
            "elsewhere": self.elsewhere,
            "mended": self.repaired,
            "suspicious": self.suspicious,
            "well": self.ok,
        }


def verify(
    runtime: Runtime,
    job_ids: list[int] | None = None,
    *,
    fix: bool = False,
    grace_period: timedelta = LIMITS.grace_period,
    progress: Callable[[int], None] = lambda _: None,
) -> StorageAudit:
    """Compare rows with files, job by job.

    Args:
        runtime: connects to database and storage.
        job_ids: crawl jobs to compare; all by default.
        fix: remove files without a row and rows without a file, of jobs that are over. A file of another size is left
            to a validation, which finds out what it is.
        grace_period: how long ago a job must have ended, so that no late attempt still writes.
        progress: called with the number of jobs so far.

    Raises:
        TransientError: when database or storage do not respond.
    """
    found = StorageAudit()
    for job_id in every(runtime) if job_ids is None else job_ids:
        _compare(runtime, job_id, found, fix=fix, grace_period=grace_period)
        found.jobs += 1
        progress(found.jobs)
    return found


def every(runtime: Runtime) -> list[int]:
    """Return all crawl jobs."""
    return transact(runtime.sessions, crawls.all_ids)


def _compare(runtime: Runtime, job_id: int, found: StorageAudit, *, fix: bool, grace_period: timedelta) -> None:
    # Files first: one that is stored with its row in between is missing here, and is looked for again below.
    files = runtime.run(_files(runtime, job_id))
    located = transact(runtime.sessions, lambda session: images.stored_files(session, job_id))
    named = [one for one in located if one.storage_url.startswith(runtime.storage.url(""))]
    found.elsewhere += len(located) - len(named)
    found.images += len(named)
    found.files += len(files)
    missing = [one for one in named if one.storage_url not in files and not _exists(runtime, one)]
    found.missing += [one.storage_url for one in missing]
    found.resized += [
        one.storage_url
        for one in named
        if one.storage_url in files and one.file_size is not None and files[one.storage_url] != one.file_size
    ]
    orphaned = sorted(set(files) - {one.storage_url for one in named})
    found.orphaned += orphaned
    if not fix or not (missing or orphaned):
        return
    if len(missing) == len(named) and located:
        found.suspicious += 1
    else:
        found.repaired += _repair(runtime, job_id, missing, orphaned, grace_period)


async def _files(runtime: Runtime, job_id: int) -> dict[str, int]:
    sizes = runtime.storage.sizes(f"crawl_jobs/{job_id}/")
    return {runtime.storage.url(key): size async for key, size in sizes}


def _exists(runtime: Runtime, one: StoredFile) -> bool:
    """Return whether there is a file after all: outside of the job's folder, or stored a moment ago."""
    return runtime.run(runtime.storage.size(runtime.storage.key(one.storage_url))) is not None


def _repair(
    runtime: Runtime, job_id: int, missing: list[StoredFile], orphaned: list[str], grace_period: timedelta
) -> int:
    ref = CRAWL_JOBS.ref(job_id)

    def rows(session: Session) -> tuple[int, list[str]]:
        # While the job is locked and over it can be neither running nor retried: what has no row now will have none.
        jobs.lock(session, ref)
        if not sweeps.is_past_grace_period(session, ref, grace_period=grace_period):
            return 0, []
        gone = images.delete(session, [one.id for one in missing])
        if gone:
            validations.update_valid_images(session, job_id)
            activity_log.record(session, ref, "mended", {"images_without_file": gone})
        named = images.files(session, job_id)
        return gone, [url for url in orphaned if url not in named]

    gone, orphans = transact(runtime.sessions, rows)
    runtime.run(runtime.storage.delete([runtime.storage.key(url) for url in orphans]))
    return gone + len(orphans)

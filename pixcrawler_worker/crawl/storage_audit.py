"""Compare the rows of images with the files in storage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pixcrawler_worker.db import activity_log, crawls, images, validations
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.images import StoredFile
from pixcrawler_worker.db.ledger import jobs, sweeps
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.storage_keys import crawl_job_prefix
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime


@dataclass(slots=True)
class StorageAudit:
    """The result of a comparison.

    Attributes:
        jobs: crawl jobs that were compared.
        images: rows with a file in this storage.
        files: files of those jobs in storage.
        missing: URLs of rows without a file.
        resized: URLs of files whose size differs from that in their rows.
        orphaned: URLs of files without a row.
        elsewhere: rows whose file is in another storage; they are not compared.
        repaired: rows without a file and files without a row that were removed.
        suspicious: jobs that were not repaired because all their files are missing or in another storage: probably
            the storage is not mounted, or a different one is configured.
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
        """Return the audit as `--json` prints it, under the documented keys."""
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
        fix: remove files without a row and rows without a file, of jobs that have ended. Files of another size are
            left to a validation, which opens them.
        grace_period: time since the end of a job after which no late attempt can still write.
        progress: called with the number of jobs that were compared so far.

    Raises:
        TransientError: when database or storage are unavailable.
    """
    found = StorageAudit()
    for job_id in all_job_ids(runtime) if job_ids is None else job_ids:
        _compare(runtime, job_id, found, fix=fix, grace_period=grace_period)
        found.jobs += 1
        progress(found.jobs)
    return found


def all_job_ids(runtime: Runtime) -> list[int]:
    """Return the ids of all crawl jobs."""
    return transact(runtime.sessions, crawls.all_ids)


def _compare(runtime: Runtime, job_id: int, found: StorageAudit, *, fix: bool, grace_period: timedelta) -> None:
    # Files first: a file that is stored between the two reads seems missing, and `_exists` checks it again.
    files = runtime.run(_files(runtime, job_id))
    located = transact(runtime.sessions, lambda session: images.stored_files(session, job_id))
    named = [row for row in located if row.storage_url.startswith(runtime.storage.url(""))]
    found.elsewhere += len(located) - len(named)
    found.images += len(named)
    found.files += len(files)
    missing = [row for row in named if row.storage_url not in files and not _exists(runtime, row)]
    found.missing += [row.storage_url for row in missing]
    found.resized += [
        row.storage_url
        for row in named
        if row.storage_url in files and row.file_size is not None and files[row.storage_url] != row.file_size
    ]
    orphaned = sorted(set(files) - {row.storage_url for row in named})
    found.orphaned += orphaned
    if not fix or not (missing or orphaned):
        return
    if len(missing) == len(named) and located:
        found.suspicious += 1
    else:
        found.repaired += _repair(runtime, job_id, missing, orphaned, grace_period)


async def _files(runtime: Runtime, job_id: int) -> dict[str, int]:
    sizes = runtime.storage.sizes(crawl_job_prefix(job_id))
    return {runtime.storage.url(key): size async for key, size in sizes}


def _exists(runtime: Runtime, row: StoredFile) -> bool:
    """Return whether the file exists: it may be outside of the job's folder, or have been stored a moment ago."""
    return runtime.run(runtime.storage.size(runtime.storage.key(row.storage_url))) is not None


def _repair(
    runtime: Runtime, job_id: int, missing: list[StoredFile], orphaned: list[str], grace_period: timedelta
) -> int:
    ref = CRAWL_JOBS.ref(job_id)

    def rows(session: Session) -> tuple[int, list[str]]:
        # While an ended job is locked, it can neither run nor be retried: files without a row now will never have one.
        jobs.lock(session, ref)
        if not sweeps.is_past_grace_period(session, ref, grace_period=grace_period):
            return 0, []
        removed = images.delete_images(session, [row.id for row in missing])
        if removed:
            validations.update_valid_images(session, job_id)
            activity_log.record(session, ref, "mended", {"images_without_file": removed})
        named = images.files(session, job_id)
        return removed, [url for url in orphaned if url not in named]

    removed, orphans = transact(runtime.sessions, rows)
    runtime.run(runtime.storage.delete([runtime.storage.key(url) for url in orphans]))
    return removed + len(orphans)

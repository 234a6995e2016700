"""Use case: the rows of images against the files in storage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from pixcrawler_worker.db import activity_log, crawls, images, validations
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.images import StoredFile
from pixcrawler_worker.db.ledger import jobs, sweeps
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime


@dataclass(slots=True)
class Inventory:
    """What a comparison found.

    Attributes:
        jobs: crawl jobs that were looked at.
        images: rows that name a file.
        files: in storage.
        missing: addresses that rows name and where nothing is.
        resized: addresses of files of another size than their rows say.
        stray: addresses of files that no row names.
        elsewhere: rows whose file lies in another storage; nothing is said of them.
        mended: rows and files that were removed because the other was not there.
        suspicious: jobs that were not mended because all their files are missing or elsewhere, which is more likely a
            storage that is not mounted or not the one it was.
    """

    jobs: int = 0
    images: int = 0
    files: int = 0
    missing: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    elsewhere: int = 0
    mended: int = 0
    suspicious: int = 0

    @property
    def well(self) -> bool:
        """Whether rows and files agree, or do so by now."""
        return not self.resized and len(self.missing) + len(self.stray) == self.mended


def verify(
    runtime: Runtime,
    job_ids: list[int] | None = None,
    *,
    fix: bool = False,
    quiet: timedelta = LIMITS.grace_period,
    looked: Callable[[int], None] = lambda _: None,
) -> Inventory:
    """Compare rows with files, job by job.

    Args:
        runtime: what connects to database and storage.
        job_ids: crawl jobs to look at; all when left out.
        fix: remove files without a row and rows without a file, of jobs that are over. A file of another size is left
            to a validation, which tells what it is.
        quiet: how long a job must have been over, so that nobody still writes.
        looked: told the number of jobs so far.

    Raises:
        TransientError: when database or storage do not answer.
    """
    found = Inventory()
    for job_id in every(runtime) if job_ids is None else job_ids:
        _compare(runtime, job_id, found, fix=fix, quiet=quiet)
        found.jobs += 1
        looked(found.jobs)
    return found


def every(runtime: Runtime) -> list[int]:
    """Return all crawl jobs."""
    return transact(runtime.sessions, crawls.all_ids)


def _compare(runtime: Runtime, job_id: int, found: Inventory, *, fix: bool, quiet: timedelta) -> None:
    # Files first: one that comes with its row in between has no file here, and is looked for again below.
    files = runtime.run(_files(runtime, job_id))
    located = transact(runtime.sessions, lambda session: images.stored_files(session, job_id))
    named = [one for one in located if one.storage_url.startswith(runtime.storage.url(""))]
    found.elsewhere += len(located) - len(named)
    found.images += len(named)
    found.files += len(files)
    missing = [one for one in named if one.storage_url not in files and not _is_there(runtime, one)]
    found.missing += [one.storage_url for one in missing]
    found.resized += [
        one.storage_url
        for one in named
        if one.storage_url in files and one.file_size is not None and files[one.storage_url] != one.file_size
    ]
    stray = sorted(set(files) - {one.storage_url for one in named})
    found.stray += stray
    if not fix or not (missing or stray):
        return
    if len(missing) == len(named) and located:
        found.suspicious += 1
    else:
        found.mended += _mend(runtime, job_id, missing, stray, quiet)


async def _files(runtime: Runtime, job_id: int) -> dict[str, int]:
    sizes = runtime.storage.sizes(f"crawl_jobs/{job_id}/")
    return {runtime.storage.url(key): size async for key, size in sizes}


def _is_there(runtime: Runtime, one: StoredFile) -> bool:
    """Whether there is a file after all: it may lie outside of the job's folder, or have come a moment ago."""
    return runtime.run(runtime.storage.size(runtime.storage.key(one.storage_url))) is not None


def _mend(runtime: Runtime, job_id: int, missing: list[StoredFile], stray: list[str], quiet: timedelta) -> int:
    ref = CRAWL_JOBS.ref(job_id)

    def rows(session: Session) -> tuple[int, list[str]]:
        # While the job is locked and over it can be neither running nor retried: what has no row now will have none.
        jobs.lock(session, ref)
        if not sweeps.is_past_grace_period(session, ref, grace_period=quiet):
            return 0, []
        gone = images.delete(session, [one.id for one in missing])
        if gone:
            validations.update_valid_images(session, job_id)
            activity_log.record(session, ref, "mended", {"images_without_file": gone})
        named = images.files(session, job_id)
        return gone, [url for url in stray if url not in named]

    gone, orphans = transact(runtime.sessions, rows)
    runtime.run(runtime.storage.delete([runtime.storage.key(url) for url in orphans]))
    return gone + len(orphans)

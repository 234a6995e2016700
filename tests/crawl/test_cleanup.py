"""Orphaned files of crawl jobs: removed after the grace period, and no others."""

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import timedelta

import ledger
import pytest
from doubles import WatchedStorage, drive, files_of, start, urls_of
from fakes.hosts import HostileServer

from pixcrawler_worker.crawl import cleanup
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import local

pytestmark = pytest.mark.usefixtures("sound")
NOW = timedelta(0)


def job_with_orphans(runtime: Runtime, host: HostileServer, name: str) -> tuple[JobRef, set[str]]:
    """Return an ended job with two images and two orphaned files, and the files of its rows."""
    ref, messages = start(runtime, [host.url(f"/good/{name}-{number}.jpg") for number in range(2)])
    drive(runtime, messages)
    named = files_of(runtime, ref)
    for orphan in ("cat/orphan.jpg", "dog/orphan.jpg"):
        runtime.run(runtime.storage.put(f"crawl_jobs/{ref.id}/{orphan}", b"orphan"))
    assert len(named) == 2
    return ref, named


def test_orphaned_files_are_removed_after_the_grace_period(runtime: Runtime, host: HostileServer) -> None:
    ref, named = job_with_orphans(runtime, host, "over")
    runtime.run(runtime.storage.put("crawl_jobs/elsewhere.jpg", b"of something else"))
    assert cleanup.remove_orphans(runtime, grace_period=LIMITS.grace_period) == 0, "a late attempt may still write"
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 2
    assert files_of(runtime, ref) == named
    assert runtime.run(runtime.storage.get("crawl_jobs/elsewhere.jpg"))
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 0
    runtime.run(runtime.storage.put(f"crawl_jobs/{ref.id}/later.jpg", b"later"))
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 0, "a clean storage is not listed again"


def test_a_file_that_a_killed_worker_left_unfinished_is_removed_once_the_job_has_ended(
    runtime: Runtime, host: HostileServer
) -> None:
    ref, messages = start(runtime, [host.url("/good/unfinished.jpg")])
    drive(runtime, messages)
    left = f"crawl_jobs/{ref.id}/cat/one.jpg{local.UNFINISHED}0123456789abcdef"
    runtime.run(runtime.storage.put(left, b"half"))
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 1
    assert runtime.run(runtime.storage.size(left)) is None
    assert len(files_of(runtime, ref)) == 1


def test_the_storage_of_a_retried_job_is_cleaned_up_again(runtime: Runtime, host: HostileServer) -> None:
    ref, _ = start(runtime, [host.url("/good/again.jpg")])
    submission.cancel(runtime, CRAWL, ref.id)
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 0
    drive(runtime, submission.retry(runtime, CRAWL, ref.id))
    runtime.run(runtime.storage.put(f"crawl_jobs/{ref.id}/cat/orphan.jpg", b"orphan"))
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 1
    assert len(files_of(runtime, ref)) == 1


def test_files_of_a_running_job_are_kept(runtime: Runtime, host: HostileServer) -> None:
    ref, named = job_with_orphans(runtime, host, "runs")
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET status = 'running', progress = 0, completed_at = NULL")
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 0
    assert len(files_of(runtime, ref)) == len(named) + 2


def test_the_storage_of_other_jobs_is_cleaned_up_when_that_of_one_fails(runtime: Runtime, host: HostileServer) -> None:
    bad, _ = job_with_orphans(runtime, host, "bad")
    good, named = job_with_orphans(runtime, host, "good")

    class Shaky(WatchedStorage):
        async def delete(self, keys: Collection[str]) -> None:
            if any(key.startswith(f"crawl_jobs/{bad.id}/") for key in keys):
                raise TransientError("away")
            await super().delete(keys)

    assert cleanup.remove_orphans(replace(runtime, storage=Shaky(runtime)), grace_period=NOW) == 2
    assert files_of(runtime, good) == named
    assert len(files_of(runtime, bad)) == 4
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 2


def test_a_job_that_is_retried_during_the_cleanup_loses_no_file(runtime: Runtime, host: HostileServer) -> None:
    listed = [host.url(f"/good/race-{number}.jpg") for number in range(4)]
    ref, messages = start(runtime, listed, chunk_size=2)
    drive(runtime, messages[:1])
    submission.cancel(runtime, CRAWL, ref.id)
    retried: list[ChunkMessage] = []

    class Racing(WatchedStorage):
        def keys(self, prefix: str, *, unfinished: bool = False) -> AsyncIterator[str]:
            retried.extend(submission.retry(runtime, CRAWL, ref.id))
            return super().keys(prefix, unfinished=unfinished)

    # A file that a chunk of the retried job has stored, and whose row is not written yet.
    runtime.run(runtime.storage.put(f"crawl_jobs/{ref.id}/cat/early.jpg", b"early"))
    assert cleanup.remove_orphans(replace(runtime, storage=Racing(runtime)), grace_period=NOW) == 0
    assert len(files_of(runtime, ref)) == 3
    drive(runtime, retried)
    assert urls_of(runtime, ref) == set(listed)
    assert cleanup.remove_orphans(runtime, grace_period=NOW) == 1

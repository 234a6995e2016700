"""Rows compared with files: what is found, and what is repaired."""

from datetime import timedelta

import ledger
import pytest
from doubles import query
from export import exporting
from export.exporting import StoredImage, image_bytes

from pixcrawler_worker.crawl import storage_audit
from pixcrawler_worker.runtime import Runtime

NO_GRACE_PERIOD = timedelta(0)


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.fixture
def job(runtime: Runtime) -> int:
    made = exporting.crawl_of(runtime, [StoredImage(image_bytes(number)) for number in range(6)])
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET completed_at = now() - interval '1 minute'")
    return made


def urls(runtime: Runtime) -> list[str]:
    return [url for (url,) in query(runtime, "SELECT storage_url FROM images ORDER BY id")]


def spoil(runtime: Runtime, job: int) -> tuple[str, str, str]:
    """Return the URLs of a row without a file, a file of another size, and a file without a row, after making them."""
    lost, other, *_ = urls(runtime)
    orphan = f"crawl_jobs/{job}/cat/orphan.jpg"
    storage = runtime.storage
    runtime.run(storage.delete([storage.key(lost)]))
    runtime.run(storage.put(storage.key(other), b"short"))
    runtime.run(storage.put(orphan, b"orphan"))
    return lost, other, storage.url(orphan)


def test_a_storage_that_matches_its_rows_is_ok(runtime: Runtime, job: int) -> None:
    found = storage_audit.verify(runtime)
    assert (found.jobs, found.images, found.files, found.ok) == (1, 6, 6, True)
    assert storage_audit.verify(runtime, [job], fix=True, grace_period=NO_GRACE_PERIOD).repaired == 0


def test_differences_are_reported_and_nothing_is_changed(runtime: Runtime, job: int) -> None:
    lost, other, orphan = spoil(runtime, job)
    for _ in range(2):
        found = storage_audit.verify(runtime)
        assert (found.missing, found.resized, found.orphaned, found.repaired) == ([lost], [other], [orphan], 0)
        assert not found.ok


def test_rows_without_a_file_and_files_without_a_row_are_removed_on_request(runtime: Runtime, job: int) -> None:
    lost, other, _ = spoil(runtime, job)
    assert storage_audit.verify(runtime, fix=True).repaired == 0, "a late attempt may still write"
    assert storage_audit.verify(runtime, fix=True, grace_period=NO_GRACE_PERIOD).repaired == 2
    found = storage_audit.verify(runtime)
    assert (found.missing, found.resized, found.orphaned) == ([], [other], [])
    assert lost not in urls(runtime)
    assert query(runtime, "SELECT valid_images FROM crawl_jobs") == [(5,)]
    assert query(runtime, "SELECT action FROM activity_logs") == [("crawl_job.mended",)]


def test_a_running_job_is_not_changed(runtime: Runtime, job: int) -> None:
    spoil(runtime, job)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET status = 'running', completed_at = NULL")
    assert storage_audit.verify(runtime, fix=True, grace_period=NO_GRACE_PERIOD).repaired == 0
    assert len(urls(runtime)) == 6


def test_files_in_another_storage_are_not_compared(runtime: Runtime, job: int) -> None:
    ledger.execute(runtime.sessions, "UPDATE images SET storage_url = 's3://other/' || id")
    found = storage_audit.verify(runtime, [job])
    assert (found.elsewhere, found.images, len(found.orphaned)) == (6, 0, 6)


def test_no_row_is_removed_when_the_storage_is_not_mounted(runtime: Runtime, job: int) -> None:
    runtime.run(runtime.storage.delete([runtime.storage.key(url) for url in urls(runtime)]))
    found = storage_audit.verify(runtime, fix=True, grace_period=NO_GRACE_PERIOD)
    assert (len(found.missing), found.repaired, found.suspicious) == (6, 0, 1)
    assert len(urls(runtime)) == 6


def test_no_file_is_removed_when_the_rows_have_another_storage(runtime: Runtime, job: int) -> None:
    ledger.execute(runtime.sessions, "UPDATE images SET storage_url = 's3://other/' || id")
    found = storage_audit.verify(runtime, fix=True, grace_period=NO_GRACE_PERIOD)
    assert (len(found.orphaned), found.repaired, found.suspicious) == (6, 0, 1)
    assert storage_audit.verify(runtime).files == 6

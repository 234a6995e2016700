"""Export jobs with S3 as storage: archives and presigned URLs."""

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import ledger
import pytest
from doubles import query
from export import exporting
from export.exporting import crawl_of, export, files, metadata_rows, stored_images, unzipped

from pixcrawler_worker.export import cleanup
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.facade import Storage


@pytest.fixture
def in_s3(runtime: Runtime, s3_url: str) -> Iterator[Runtime]:
    yield replace(runtime, storage=Storage(s3_url))
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


def fetched(url: object) -> bytes:
    """Download a URL without credentials."""
    with urllib.request.urlopen(str(url), timeout=10) as answer:
        body: bytes = answer.read()
    return body


def let_urls_expire_soon(runtime: Runtime) -> None:
    """Make the presigned URLs of all exports expire within the hour, and their files much later."""
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.export_plans SET signed_until = now() + interval '1 hour'")
    ledger.execute(
        runtime.sessions,
        "UPDATE export_jobs SET download_url = 'expires soon', expires_at = now() + interval '30 days'",
    )


def signed_for(runtime: Runtime) -> timedelta:
    ((left,),) = query(runtime, "SELECT signed_until - now() FROM pixcrawler.export_plans")
    assert isinstance(left, timedelta)
    return left


def test_an_archive_is_downloaded_by_its_url(in_s3: Runtime) -> None:
    ref = export(in_s3, crawl_of(in_s3, stored_images(10)))
    row = exporting.row(in_s3, ref)
    assert (row.status, row.exported_images) == ("completed", 10)
    assert parse_qs(urlsplit(str(row.download_url)).query)["X-Amz-Expires"] == ["604800"]
    archive = fetched(row.download_url)
    assert len(archive) == row.file_size
    assert len(metadata_rows(unzipped(archive))) == 10


def test_several_archives_are_downloaded_by_the_urls_of_a_manifest(in_s3: Runtime) -> None:
    ref = export(in_s3, crawl_of(in_s3, stored_images(12)), {"archive": {"part_max_images": 5}})
    manifest = json.loads(fetched(exporting.row(in_s3, ref).download_url))
    assert [one["images"] for one in manifest["parts"]] == [5, 5, 2]
    for one in manifest["parts"]:
        body = fetched(one["url"])
        assert (len(body), hashlib.sha256(body).hexdigest()) == (one["size"], one["sha256"])
    assert {one["name"]: fetched(one["url"]) for one in manifest["files"]}.keys() >= {"README.md"}


def test_an_expired_export_loses_its_files(in_s3: Runtime) -> None:
    job = crawl_of(in_s3, stored_images(6))
    kept, gone = export(in_s3, job), export(in_s3, job, {"archive": {"part_max_images": 3}})
    exporting.expire(in_s3, gone, ago="61 min")
    assert cleanup.clean_up(in_s3, LIMITS) == 1
    assert files(in_s3, gone) == {}
    assert exporting.row(in_s3, gone).download_url is None
    assert fetched(exporting.row(in_s3, kept).download_url)
    assert cleanup.clean_up(in_s3, LIMITS) == 0


def test_a_download_that_began_before_the_expiry_is_completed(in_s3: Runtime) -> None:
    ref = export(in_s3, crawl_of(in_s3, stored_images(12)), {"archive": {"part_max_images": 5}})
    manifest = json.loads(fetched(exporting.row(in_s3, ref).download_url))
    first, *others = manifest["parts"]
    with urllib.request.urlopen(first["url"], timeout=10) as response:
        begin = response.read(100)
        exporting.expire(in_s3, ref)
        cleanup.clean_up(in_s3, LIMITS)
        assert exporting.row(in_s3, ref).download_url is None
        assert hashlib.sha256(begin + response.read()).hexdigest() == first["sha256"]
    for one in others:
        assert hashlib.sha256(fetched(one["url"])).hexdigest() == one["sha256"]


def test_a_url_that_expires_soon_is_renewed(in_s3: Runtime) -> None:
    ref = export(in_s3, crawl_of(in_s3, stored_images(3)))
    let_urls_expire_soon(in_s3)
    assert cleanup.clean_up(in_s3, LIMITS) == 0
    assert len(metadata_rows(unzipped(fetched(exporting.row(in_s3, ref).download_url)))) == 3
    assert timedelta(days=6, hours=23) < signed_for(in_s3) <= timedelta(days=7)


def test_a_manifest_whose_urls_expire_soon_is_written_again(in_s3: Runtime) -> None:
    ref = export(in_s3, crawl_of(in_s3, stored_images(6)), {"archive": {"part_max_images": 3}})
    before = json.loads(fetched(exporting.row(in_s3, ref).download_url))
    in_s3.run(in_s3.storage.put(f"exports/{ref.id}/manifest.json", b"faded"))
    let_urls_expire_soon(in_s3)
    assert cleanup.clean_up(in_s3, LIMITS) == 0
    manifest = json.loads(fetched(exporting.row(in_s3, ref).download_url))
    assert [one["sha256"] for one in manifest["parts"]] == [one["sha256"] for one in before["parts"]]
    for one in manifest["parts"]:
        assert hashlib.sha256(fetched(one["url"])).hexdigest() == one["sha256"]
        assert parse_qs(urlsplit(one["url"]).query)["X-Amz-Expires"] == ["604800"]


class RecordingStorage(Storage):
    """A storage that records which uploads it was called to abort."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.aborted: list[tuple[str, timedelta]] = []

    async def abort_uploads(self, prefix: str, *, older: timedelta) -> int:
        self.aborted.append((prefix, older))
        return await super().abort_uploads(prefix, older=older)


def test_a_clean_up_aborts_uploads_older_than_the_grace_period(runtime: Runtime, s3_url: str) -> None:
    storage = RecordingStorage(s3_url)
    cleanup.clean_up(replace(runtime, storage=storage), LIMITS)
    assert storage.aborted == [("exports/", LIMITS.grace_period)]

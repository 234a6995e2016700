"""An archive that takes longer to write than a chunk may take: it progresses with every attempt, and is the same."""

import asyncio
import json
import struct
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import ledger
import pytest
from doubles import WatchedStorage, query
from export import exporting
from export.exporting import crawl_of, export, files, make_export, stored_images

from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.export import plan, prepared
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.export.payloads import ArchiveResult
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("nothing_else")


class SlowStorage(WatchedStorage):
    """A storage that needs some time for each image, and counts how often each was read."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        super().__init__(runtime)
        self.seconds = seconds
        self.reads: Counter[str] = Counter()

    async def get_all(self, keys: Any, use: Any, *, max_bytes: int) -> Any:
        found = []
        for key in keys:
            await asyncio.sleep(self.seconds)
            self.reads[key] += 1
            found += await super().get_all([key], use, max_bytes=max_bytes)
        return found


def drive_within(runtime: Runtime, ref: JobRef, limits: JobLimits, *, runs: int = 40) -> int:
    """Run the chunks of a job until it ends; return how many attempts that took."""
    messages = submission.start(runtime, EXPORT, ref.id)
    for number in range(runs):
        if exporting.row(runtime, ref).status != "running":
            return number
        if not messages:
            ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = now(), dispatched_at = NULL")
            messages = list(sweeper.sweep(runtime, JOB_KINDS.values()).messages)
        messages += executor.run(runtime, EXPORT, messages.pop(0).chunk_id, limits=limits)
    return runs


def test_an_archive_of_slow_images_is_written_by_several_attempts_and_is_the_same(runtime: Runtime) -> None:
    options = {"layout": "coco", "image": {"format": "png"}}
    job = crawl_of(runtime, stored_images(60))
    ((gone,),) = query(runtime, "SELECT storage_url FROM images ORDER BY filename OFFSET 30 LIMIT 1")
    runtime.run(runtime.storage.delete([runtime.storage.key(gone)]))
    expected = files(runtime, export(runtime, job, options))["my-images.zip"]
    slow = SlowStorage(runtime, 0.1)
    ref = make_export(runtime, job, options)
    # Two batches at a time: all images take 3 s, and an attempt has 2.25.
    limits = JobLimits(chunk_budget=timedelta(seconds=0.5), chunk_deadline=timedelta(seconds=2.5))
    attempts = drive_within(replace(runtime, storage=slow), ref, limits)
    row = exporting.row(runtime, ref)
    assert (row.status, row.error_message) == ("completed", "left out: 1 missing")
    assert attempts > 3
    assert files(runtime, ref)["my-images.zip"] == expected
    assert set(files(runtime, ref)) == {"my-images.zip", "croissant.json"}, "no segment is left"
    assert query(runtime, "SELECT DISTINCT state FROM pixcrawler.chunks") == [("completed",)]


def test_an_attempt_that_lost_its_segments_prepares_the_images_again(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(12))
    ref = make_export(runtime, job)
    (message,) = submission.start(runtime, EXPORT, ref.id)
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.chunks SET payload = payload || CAST(:more AS jsonb)",
        more='{"segments": [0, 6], "prepared": 12}',
    )
    exporting.drive(runtime, [message])
    assert drive_within(runtime, ref, JobLimits()) < 10
    row = exporting.row(runtime, ref)
    assert (row.status, row.exported_images, row.error_message) == ("completed", 12, None)


HEAD = {"size": 1, "crc": 1, "extension": "jpg", "width": 1, "height": 1, "sha256": "00" * 32}


@pytest.mark.parametrize(
    "head",
    [
        json.dumps(HEAD | {"seq": 0, "extension": "../../../x"}),
        json.dumps(HEAD | {"seq": 0, "sha256": "00"}),
        json.dumps(HEAD | {"seq": "0"}),
        json.dumps({"seq": 0, "left_out": ["missing"]}),
        "[" * 100_000,
        "5",
    ],
    ids=["extension", "digest", "position", "reason", "deep", "number"],
)
def test_what_another_program_has_stored_in_place_of_segments_and_notes_is_not_used(
    runtime: Runtime, head: str
) -> None:
    job = crawl_of(runtime, stored_images(3))
    ref = make_export(runtime, job)
    (message,) = submission.start(runtime, EXPORT, ref.id)
    ledger.execute(
        runtime.sessions,
        "UPDATE pixcrawler.chunks SET payload = payload || CAST(:more AS jsonb)",
        more='{"segments": [0], "prepared": 3}',
    )
    archive = plan.key(ref.id, "my-images.zip")
    forged = struct.pack(">IQ", len(head), 1) + head.encode() + b"x"
    runtime.run(runtime.storage.put(prepared.key(archive, 0), forged))
    runtime.run(runtime.storage.put(f"{archive}.json", head.encode()))
    exporting.drive(runtime, [message])
    assert drive_within(runtime, ref, JobLimits()) < 10
    row = exporting.row(runtime, ref)
    assert (row.status, row.exported_images, row.error_message) == ("completed", 3, None)


def test_a_note_of_another_archive_is_not_used(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(3))
    ref = make_export(runtime, job)
    (message,) = submission.start(runtime, EXPORT, ref.id)
    archive = plan.key(ref.id, "my-images.zip")
    result = ArchiveResult(name="../x.zip", size=1, sha256="00" * 32, table=None, summary=Summary(images=1))
    runtime.run(runtime.storage.put(archive, b"x"))
    runtime.run(runtime.storage.put(f"{archive}.json", json.dumps(result.to_json()).encode()))
    exporting.drive(runtime, [message])
    assert drive_within(runtime, ref, JobLimits()) < 10
    row = exporting.row(runtime, ref)
    assert (row.status, row.exported_images, row.export_options["result"]["files"][0]) == (
        "completed",
        3,
        "my-images.zip",
    )

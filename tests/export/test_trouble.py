"""Export jobs with failures, duplicate messages, concurrent changes, and expiry."""

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import ledger
import pytest
from doubles import query
from export import exporting
from export.exporting import (
    ALONE,
    crawl_of,
    export,
    files,
    image_bytes,
    made,
    make_export,
    metadata_rows,
    stored_images,
)

from pixcrawler_worker.db import exports
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.errors import TransientError, UnknownJobError
from pixcrawler_worker.export import cleanup, worker
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.uploads import Sink

pytestmark = pytest.mark.usefixtures("nothing_else")


# Failures


def lose(runtime: Runtime, job: int, *, count: int = 1) -> None:
    urls = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id ORDER BY id", id=job)
    runtime.run(runtime.storage.delete([runtime.storage.key(url) for (url,) in urls[:count]]))


def test_missing_and_changed_images_are_left_out_and_reported(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(5))
    lose(runtime, job)
    ((url,),) = query(runtime, "SELECT storage_url FROM images ORDER BY id OFFSET 1 LIMIT 1")
    runtime.run(runtime.storage.put(runtime.storage.key(url), image_bytes(99)))
    ledger.execute(
        runtime.sessions, "UPDATE images SET storage_url = 's3://elsewhere/x' WHERE id = (SELECT max(id) FROM images)"
    )
    ref = export(runtime, job)
    row = exporting.row(runtime, ref)
    assert (row.status, row.total_images, row.exported_images) == ("completed", 5, 2)
    assert row.error_message == "left out: 2 missing, 1 changed"
    assert row.export_options["result"]["skipped"] == {"missing": 2, "changed": 1}
    assert len(metadata_rows(made(runtime, ref))) == 2
    failed = exporting.row(runtime, export(runtime, job, {"image": {"on_error": "fail"}}))
    assert failed.status == "failed"
    assert failed.download_url is None
    assert "is missing" in str(failed.error_message) or "is changed" in str(failed.error_message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"options": {"layout": "nonsense"}}, "export_options.layout: there is no layout 'nonsense'"),
        ({"options": {"layot": "flat"}}, "did you mean 'layout'"),
        ({"options": []}, "export_options: expected an object, got an array"),
        ({"format_": "rar"}, "there is no 'rar'"),
        ({"options": {"layout": "table"}}, "export_options.layout: table is delivered as csv, not as zip"),
        ({"options": {"select": {"labels": ["x"]}}}, "has no images that the options select"),
    ],
)
def test_invalid_requests_fail_with_a_message(runtime: Runtime, values: dict[str, Any], message: str) -> None:
    job = crawl_of(runtime, stored_images(1))
    row = exporting.row(runtime, export(runtime, job, **values))
    assert (row.status, row.download_url, row.exported_images) == ("failed", None, 0)
    assert message in str(row.error_message)


def test_a_job_without_any_image_files_fails_and_leaves_no_files(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(3))
    lose(runtime, job, count=3)
    ref = export(runtime, job)
    row = exporting.row(runtime, ref)
    assert (row.status, row.error_message) == ("failed", "no image could be exported: 3 missing")
    cleanup.clean_up(runtime, LIMITS)
    assert files(runtime, ref) == {}


class HookedStorage(Storage):
    """The runtime's storage, which calls a function before each write."""

    def __init__(self, runtime: Runtime, before: Callable[[], None]) -> None:
        super().__init__(runtime.settings.storage())
        self._before = before

    @asynccontextmanager
    async def writing(self, key: str) -> Any:
        async with super().writing(key) as sink:
            yield _HookedSink(sink, self._before)


class _HookedSink:
    def __init__(self, sink: Sink, before: Callable[[], None]) -> None:
        self._sink, self._before = sink, before

    async def write(self, blocks: Any) -> None:
        self._before()
        await self._sink.write(blocks)


def test_a_full_storage_releases_the_chunk_and_leaves_no_partial_files(runtime: Runtime) -> None:
    def full() -> None:
        raise TransientError("no space left on device")

    job = crawl_of(runtime, stored_images(5))
    ref = make_export(runtime, job)
    (message,) = submission.start(runtime, EXPORT, ref.id)
    assert executor.run(replace(runtime, storage=HookedStorage(runtime, full)), EXPORT, message.chunk_id) == []
    assert files(runtime, ref) == {}
    assert query(runtime, "SELECT state, error FROM pixcrawler.chunks") == [("queued", "no space left on device")]
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = now()")
    exporting.drive(runtime, [message])
    assert exporting.row(runtime, ref).status == "completed"


# Duplicate messages and concurrent changes


def test_starting_twice_has_the_effect_of_once(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(4))
    ref = make_export(runtime, job)
    messages = submission.start(runtime, EXPORT, ref.id)
    assert submission.start(runtime, EXPORT, ref.id) == []
    exporting.drive(runtime, messages)
    assert submission.start(runtime, EXPORT, ref.id) == []
    before = files(runtime, ref)
    exporting.drive(runtime, messages)
    assert files(runtime, ref) == before
    assert exporting.row(runtime, ref).exported_images == 4


def test_an_archive_whose_result_was_lost_is_not_written_again(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(4))
    ref = make_export(runtime, job)
    (message,) = submission.start(runtime, EXPORT, ref.id)
    claim = ledger.claim(runtime.sessions, message.chunk_id)
    with runtime.sessions.begin() as session:
        work = worker.prepare(runtime, session, claim)
    # The attempt whose process dies before it can write its result.
    runtime.run(worker.work(runtime, work, LIMITS))
    ledger.expire_lease(runtime.sessions, message.chunk_id)
    sweeper.sweep(runtime, JOB_KINDS.values())
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = now()")

    def never() -> None:
        raise AssertionError("the archive exists already")

    again = replace(runtime, storage=HookedStorage(runtime, never))
    exporting.drive(again, [message])
    assert exporting.row(runtime, ref).status == "completed"
    assert set(files(runtime, ref)) == ALONE


def test_images_that_are_added_or_deleted_meanwhile_do_not_change_the_plan(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(10))
    ref = make_export(runtime, job)
    messages = submission.start(runtime, EXPORT, ref.id)
    exporting.add(runtime, job, stored_images(5, first=50))
    ledger.execute(runtime.sessions, "DELETE FROM images WHERE id = (SELECT min(id) FROM images)")
    exporting.drive(runtime, messages)
    row = exporting.row(runtime, ref)
    assert (row.status, row.total_images, row.exported_images) == ("completed", 10, 9)


def test_a_job_that_is_deleted_while_it_runs_leaves_no_files(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(10))
    ref = make_export(runtime, job, {"archive": {"part_max_images": 5}})
    first, second = submission.start(runtime, EXPORT, ref.id)
    executor.run(runtime, EXPORT, first.chunk_id)
    assert files(runtime, ref)
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs WHERE id = :id", id=job)
    assert executor.run(runtime, EXPORT, second.chunk_id) == []
    assert cleanup.clean_up(runtime, LIMITS) == 1
    assert files(runtime, ref) == {}
    assert cleanup.clean_up(runtime, LIMITS) == 0


def test_a_job_that_was_cancelled_in_its_row_stays_cancelled_and_leaves_no_files(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(10))
    ref = make_export(runtime, job, {"archive": {"part_max_images": 5}})
    first, second = submission.start(runtime, EXPORT, ref.id)
    executor.run(runtime, EXPORT, first.chunk_id)
    ledger.execute(runtime.sessions, "UPDATE export_jobs SET status = 'cancelled' WHERE id = :id", id=ref.id)
    assert executor.run(runtime, EXPORT, second.chunk_id) == []
    assert sweeper.sweep(runtime, JOB_KINDS.values()).messages == []
    assert cleanup.clean_up(runtime, LIMITS) == 1
    assert files(runtime, ref) == {}
    row = exporting.row(runtime, ref)
    assert (row.status, row.download_url, row.exported_images) == ("cancelled", None, 5)


def test_a_failed_archive_fails_the_export_and_its_files_are_deleted(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(10))
    ref = make_export(runtime, job, {"archive": {"part_max_images": 5}})
    first, second = submission.start(runtime, EXPORT, ref.id)
    executor.run(runtime, EXPORT, first.chunk_id)
    claim = ledger.claim(runtime.sessions, second.chunk_id)
    with runtime.sessions.begin() as session:
        chunks.fail(session, claim, error="the disk is on fire")
    sweeper.sweep(runtime, JOB_KINDS.values())
    row = exporting.row(runtime, ref)
    assert (row.status, row.error_message, row.download_url) == ("failed", "the disk is on fire", None)
    cleanup.clean_up(runtime, LIMITS)
    assert files(runtime, ref) == {}


# Expiry


def test_an_expired_export_loses_its_files_and_url_and_keeps_its_row(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(3))
    kept, expired = export(runtime, job), export(runtime, job)
    assert cleanup.clean_up(runtime, LIMITS) == 0
    exporting.expire(runtime, expired)
    assert cleanup.clean_up(runtime, LIMITS) == 0
    row = exporting.row(runtime, expired)
    assert (row.status, row.download_url, row.exported_images) == ("completed", None, 3)
    assert set(files(runtime, expired)) == ALONE, "downloads may be in progress"
    exporting.expire(runtime, expired, ago="61 min")
    assert cleanup.clean_up(runtime, LIMITS) == 1
    assert files(runtime, expired) == {}
    assert exporting.row(runtime, kept).download_url
    assert set(files(runtime, kept)) == ALONE


def test_unfinished_files_of_dead_workers_are_deleted_after_the_export_ends(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(3))
    ref = make_export(runtime, job)
    messages = submission.start(runtime, EXPORT, ref.id)
    unfinished = f"exports/{ref.id}/my-images.zip.unfinished-0123"
    runtime.run(runtime.storage.put(unfinished, b"half"))
    cleanup.clean_up(runtime, LIMITS)
    assert unfinished.rpartition("/")[2] in files(runtime, ref), "a worker may still write it"
    exporting.drive(runtime, messages)
    assert cleanup.clean_up(runtime, LIMITS) == 1
    assert set(files(runtime, ref)) == ALONE


def test_folders_of_other_programs_are_kept_and_do_not_stop_the_clean_up(runtime: Runtime) -> None:
    ref = export(runtime, crawl_of(runtime, stored_images(3)))
    folders = ("99999999999999999999999", "3000000000", "0", f"0{ref.id}", "\N{ARABIC-INDIC DIGIT THREE}", "notes")
    keys = [f"exports/{folder}/x.zip" for folder in folders]
    for key in keys:
        runtime.run(runtime.storage.put(key, b"x"))
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    assert cleanup.clean_up(runtime, LIMITS) == 1
    assert files(runtime, ref) == {}
    assert [runtime.run(runtime.storage.get(key)) for key in keys] == [b"x"] * len(keys)
    runtime.run(runtime.storage.delete(keys))


def test_a_clean_up_looks_for_the_files_of_any_number_of_exports(runtime: Runtime) -> None:
    ref = export(runtime, crawl_of(runtime, stored_images(3)))
    # More than a query has parameters.
    numbers = [ref.id, *range(1_000_000, 1_070_000)]
    with runtime.sessions.begin() as session:
        assert exports.files(session, numbers) == {ref.id: frozenset(ALONE)}


@pytest.mark.parametrize("written", ['[{"name": "a"}]', '[["a"]]', '["a", null]', '"a"', "{}", "null"])
def test_names_of_files_that_were_written_by_hand_keep_all_and_do_not_stop_the_clean_up(
    runtime: Runtime, written: str
) -> None:
    job = crawl_of(runtime, stored_images(3))
    odd, expired = export(runtime, job), export(runtime, job)
    exporting.expire(runtime, expired, ago="61 min")
    ledger.execute(
        runtime.sessions,
        "UPDATE export_jobs SET export_options = jsonb_set(export_options, '{result,files}', CAST(:files AS jsonb))"
        " WHERE id = :id",
        id=odd.id,
        files=written,
    )
    assert cleanup.clean_up(runtime, LIMITS) == 1
    assert (set(files(runtime, odd)), files(runtime, expired)) == (ALONE, {})


def test_a_requested_export_starts_without_its_message(runtime: Runtime) -> None:
    job = crawl_of(runtime, stored_images(3))
    ref = make_export(runtime, job)
    assert sweeper.sweep(runtime, JOB_KINDS.values()).messages == [], "it was not requested"
    ledger.execute(
        runtime.sessions,
        "INSERT INTO pixcrawler.export_plans (export_job_id, requested_at) VALUES (:id, now() - interval '1 hour')",
        id=ref.id,
    )
    messages = sweeper.sweep(runtime, JOB_KINDS.values()).messages
    assert [message.queue for message in messages] == ["export"]
    exporting.drive(runtime, messages)
    assert exporting.row(runtime, ref).status == "completed"


def test_an_unknown_job_is_reported(runtime: Runtime) -> None:
    with pytest.raises(UnknownJobError, match="there is no export job 424242"):
        submission.start(runtime, EXPORT, 424242)
    assert submission.conclude(runtime, EXPORT, 424242) == []

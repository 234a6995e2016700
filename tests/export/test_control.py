"""Cancelling and retrying exports: by message, by the row, twice, at once, against the end and against the clean-up."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import ledger
import pytest
from doubles import query
from export import exporting
from export.exporting import crawl_of, files, made, make_export, stored_images
from ledger import at_once

from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.export import cleanup
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

pytestmark = pytest.mark.usefixtures("nothing_else")

TWO_PARTS = {"archive": {"part_max_images": 3}}


def started(runtime: Runtime) -> tuple[JobRef, list[ChunkMessage]]:
    """A running export of six images in two archives."""
    ref = make_export(runtime, crawl_of(runtime, stored_images(6)), TWO_PARTS)
    return ref, submission.start(runtime, EXPORT, ref.id)


def actions(runtime: Runtime, ref: JobRef) -> list[str]:
    with runtime.sessions.begin() as session:
        return [entry.action.removeprefix("export_job.") for entry in activity_log.latest(session, ref)][::-1]


def shown(runtime: Runtime, ref: JobRef) -> tuple[str, str | None, int]:
    job = exporting.row(runtime, ref)
    return job.status, job.error_message, job.exported_images


def make_due(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = clock_timestamp()")


def by_message(runtime: Runtime, ref: JobRef) -> None:
    submission.cancel(runtime, EXPORT, ref.id)


def by_status(runtime: Runtime, ref: JobRef) -> None:
    ledger.execute(runtime.sessions, "UPDATE export_jobs SET status = 'failed' WHERE id = :id", id=ref.id)
    sweeper.sweep(runtime, JOB_KINDS.values())


@pytest.mark.parametrize("cleaned", [False, True], ids=["at once", "after the clean-up"])
@pytest.mark.parametrize("cancel", [by_message, by_status])
def test_a_cancelled_export_writes_nothing_and_a_retry_completes_it(
    runtime: Runtime, cancel: Callable[[Runtime, JobRef], None], *, cleaned: bool
) -> None:
    ref, (first, second) = started(runtime)
    executor.run(runtime, EXPORT, first.chunk_id)
    before = files(runtime, ref)
    for _ in range(2):
        cancel(runtime, ref)
    assert shown(runtime, ref) == ("failed", "cancelled", 3)
    assert ledger.states_of(runtime.sessions, ref) == ["completed", "cancelled"]
    assert executor.run(runtime, EXPORT, second.chunk_id) == []
    assert files(runtime, ref) == before
    if cleaned:
        assert cleanup.clean_up(runtime, LIMITS) == 1
        assert files(runtime, ref) == {}
    found = at_once(*[partial(submission.retry, runtime, EXPORT, ref.id)] * 4)
    assert sorted(map(len, found)) == [0, 0, 0, 0 if cleaned else 1]
    if cleaned:
        # Files may still be deleted for a minute.
        assert sweeper.sweep(runtime, JOB_KINDS.values()).messages == []
        make_due(runtime)
        found = [sweeper.sweep(runtime, JOB_KINDS.values()).messages]
        assert len(found[0]) == 2, "both archives are written again"
    exporting.drive(runtime, next(filter(None, found)))
    assert shown(runtime, ref) == ("completed", None, 6)
    names = {"part-00000-of-00002.zip", "part-00001-of-00002.zip", "manifest.json"}
    assert names <= set(files(runtime, ref))
    assert cleanup.clean_up(runtime, LIMITS) == 0
    assert submission.retry(runtime, EXPORT, ref.id) == []
    assert shown(runtime, ref)[0] == "completed"


@pytest.mark.parametrize("options", [{}, {"archive": {"part_max_images": 2}}])
def test_a_retry_of_an_export_without_images_finds_those_that_are_back(
    runtime: Runtime, options: dict[str, Any]
) -> None:
    job = crawl_of(runtime, stored_images(3))
    rows = query(runtime, "SELECT storage_url FROM images WHERE crawl_job_id = :id", id=job)
    keys = [runtime.storage.key(url) for (url,) in rows]
    bodies = [runtime.run(runtime.storage.get(key)) for key in keys]
    runtime.run(runtime.storage.delete(keys))
    ref = exporting.export(runtime, job, options)
    failed = ("failed", "no image could be exported: 3 missing", 0)
    assert shown(runtime, ref) == failed
    exporting.drive(runtime, submission.retry(runtime, EXPORT, ref.id))
    assert shown(runtime, ref) == failed
    for key, body in zip(keys, bodies, strict=True):
        runtime.run(runtime.storage.put(key, body))
    exporting.drive(runtime, submission.retry(runtime, EXPORT, ref.id))
    assert shown(runtime, ref) == ("completed", None, 3)


def test_a_pending_export_is_cancelled_and_a_retry_plans_it(runtime: Runtime) -> None:
    ref = make_export(runtime, crawl_of(runtime, stored_images(2)))
    at_once(*[partial(submission.cancel, runtime, EXPORT, ref.id)] * 4)
    assert submission.start(runtime, EXPORT, ref.id) == []
    assert shown(runtime, ref) == ("failed", "cancelled", 0)
    assert actions(runtime, ref) == ["cancelled"]
    exporting.drive(runtime, submission.retry(runtime, EXPORT, ref.id))
    assert shown(runtime, ref) == ("completed", None, 2)
    assert len(made(runtime, ref)) > 2
    assert not submission.cancel(runtime, EXPORT, ref.id)
    assert shown(runtime, ref) == ("completed", None, 2)


def test_an_export_that_was_cancelled_before_its_publication_ended_is_published_by_a_retry(runtime: Runtime) -> None:
    for cleaned in (False, True):
        ref, (first, second) = started(runtime)
        executor.run(runtime, EXPORT, first.chunk_id)
        (publish,) = executor.run(runtime, EXPORT, second.chunk_id)
        held = ledger.claim(runtime.sessions, publish.chunk_id)
        submission.cancel(runtime, EXPORT, ref.id)
        assert ledger.states_of(runtime.sessions, ref) == ["completed", "completed", "cancelled"]
        assert not ledger.finish(runtime.sessions, held)
        if cleaned:
            cleanup.clean_up(runtime, LIMITS)
        messages = submission.retry(runtime, EXPORT, ref.id)
        make_due(runtime)
        exporting.drive(runtime, messages or sweeper.sweep(runtime, JOB_KINDS.values()).messages)
        assert shown(runtime, ref) == ("completed", None, 6)
        assert "part-00001-of-00002.zip" in files(runtime, ref)
        ledger.execute(runtime.sessions, "DELETE FROM profiles")


def test_a_clean_up_against_retries_leaves_no_export_without_its_files(runtime: Runtime) -> None:
    for _ in range(4):
        ref, (first, _) = started(runtime)
        executor.run(runtime, EXPORT, first.chunk_id)
        submission.cancel(runtime, EXPORT, ref.id)
        at_once(
            lambda: [cleanup.clean_up(runtime, LIMITS)],
            *[partial(submission.retry, runtime, EXPORT, ref.id)] * 2,
        )
        make_due(runtime)
        for _ in range(3):
            exporting.drive(runtime, sweeper.sweep(runtime, JOB_KINDS.values()).messages)
            ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET dispatched_at = NULL WHERE state = 'queued'")
        assert shown(runtime, ref) == ("completed", None, 6)
        names = exporting.row(runtime, ref).export_options["result"]["files"]
        assert set(names) == set(files(runtime, ref))
        ledger.execute(runtime.sessions, "DELETE FROM profiles")


def test_a_cancel_against_the_last_finish_has_one_end(runtime: Runtime) -> None:
    for _ in range(4):
        ref, (first, second) = started(runtime)
        executor.run(runtime, EXPORT, first.chunk_id)
        (publish,) = executor.run(runtime, EXPORT, second.chunk_id)
        at_once(
            partial(exporting.drive, runtime, [publish]),
            *[partial(by_message, runtime, ref)] * 2,
        )
        status, error, _ = shown(runtime, ref)
        assert (status, error) in {("completed", None), ("failed", "cancelled")}
        assert actions(runtime, ref) == ["started", "completed" if status == "completed" else "cancelled"]
        assert (exporting.row(runtime, ref).download_url is not None) == (status == "completed")
        assert {"queued", "running"}.isdisjoint(ledger.states_of(runtime.sessions, ref))


@pytest.mark.parametrize("delete", [False, True])
def test_a_retry_against_a_cancel_and_a_delete_leaves_no_half_job(runtime: Runtime, *, delete: bool) -> None:
    ref, _ = started(runtime)
    submission.cancel(runtime, EXPORT, ref.id)

    def gone(transition: Callable[..., object]) -> None:
        with contextlib.suppress(UnknownJobError):
            transition(runtime, EXPORT, ref.id)

    remove = partial(ledger.execute, runtime.sessions, "DELETE FROM export_jobs WHERE id = :id", id=ref.id)
    retry, cancel = partial(gone, submission.retry), partial(gone, submission.cancel)
    at_once(retry, retry, cancel, cancel, *([remove] if delete else []))
    sweeper.sweep(runtime, JOB_KINDS.values())
    states = ledger.states_of(runtime.sessions, ref)
    if delete:
        assert states == []
        assert query(runtime, "SELECT count(*) FROM export_jobs") == [(0,)]
    else:
        assert (shown(runtime, ref)[0], states) in [
            ("running", ["queued", "queued"]),
            ("failed", ["cancelled", "cancelled"]),
        ]

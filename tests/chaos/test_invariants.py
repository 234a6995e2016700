"""The checker of `make chaos` notices what it is there for: each rule, when it is broken in the rows of a database."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ledger
import psycopg
import pytest
from chaos.events import Events
from chaos.invariants import FINAL, SNAPSHOT, Checker, at_end, violations
from chaos.recovery import Recovery
from chaos.services import Database
from factories import start_job

from pixcrawler_worker.db import activity_log
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import ChunkState

STATES = [ChunkState.COMPLETED, ChunkState.FAILED, ChunkState.RUNNING, ChunkState.QUEUED]
#: Statements that break a rule of a crawl job in the middle, with words of what must be said about it.
PLANTED = {
    "UPDATE crawl_jobs SET active_chunks = 2": "active_chunks is the ledger's: 2 in the row, 1 in the ledger",
    "UPDATE crawl_jobs SET completed_chunks = 0": "completed_chunks is the ledger's: 0 in the row, 1 in the ledger",
    "UPDATE crawl_jobs SET failed_chunks = 0": "failed_chunks is the ledger's: 0 in the row, 1 in the ledger",
    "UPDATE crawl_jobs SET total_chunks = 3": "total_chunks is the ledger's: 3 in the row, 4 in the ledger",
    "UPDATE crawl_jobs SET active_chunks = 9": "counters sum to the total at most: 11 of 4",
    "UPDATE pixcrawler.chunks SET state = 'queued', lease_until = NULL WHERE lease_until > now()": "active_chunks",
    "DELETE FROM pixcrawler.chunks WHERE state = 'completed'": "completed_chunks is the ledger's: 1 in the row, 0",
    "UPDATE crawl_jobs SET valid_images = 2": "valid_images is the number of rows that are not invalid: 2 in the row",
    "DELETE FROM images; DELETE FROM pixcrawler.recounts": "are not invalid: 1 in the row, 0 images",
    "UPDATE crawl_jobs SET max_images = 0": "valid_images is max_images at most: 1 of 0",
    "UPDATE crawl_jobs SET downloaded_images = 0": "each image was downloaded",
    "UPDATE crawl_jobs SET progress = 100": "progress is 100 exactly when completed: 100 of a job that is running",
    "UPDATE crawl_jobs SET status = 'completed', progress = 100": "a completed job has no open chunk: 1 queued",
}


@pytest.fixture(autouse=True)
def no_other_jobs(sessions: Sessions) -> None:
    ledger.execute(sessions, "DELETE FROM crawl_jobs")


@pytest.fixture
def job(sessions: Sessions) -> JobRef:
    """A running crawl job with a chunk in each state, and one image: the only job that there is."""
    ref = start_job(sessions, chunks=len(STATES))
    ledger.play(sessions, ref, STATES)
    ledger.execute(sessions, "UPDATE crawl_jobs SET total_images = 1, downloaded_images = 1 WHERE id = :id", id=ref.id)
    return ref


@pytest.fixture
def checker(database_url: str, tmp_path: Path) -> Iterator[Checker]:
    with closing(Events(tmp_path / "events.jsonl")) as events:
        yield Checker(cast("Database", SimpleNamespace(url=database_url)), events, Recovery())


def snapshot(url: str, statement: str = SNAPSHOT) -> dict[str, Any]:
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        row = connection.execute(statement.encode(), {"chunks": []}).fetchone()
    assert row is not None
    return row


def of_job(url: str, ref: JobRef) -> dict[str, Any]:
    (row,) = (row for row in snapshot(url)[ref.table.name] if row["id"] == ref.id)
    return cast("dict[str, Any]", row)


def test_a_job_that_is_right_violates_nothing(database_url: str, checker: Checker, job: JobRef) -> None:
    assert [row["id"] for row in snapshot(database_url)["crawl"]] == [job.id]
    checker.check(snapshot(database_url))
    checker.check(snapshot(database_url))
    assert not checker.found


@pytest.mark.parametrize(("statement", "said"), PLANTED.items())
def test_a_planted_violation_is_noticed(  # noqa: PLR0913, PLR0917 - the fixtures
    database_url: str, sessions: Sessions, checker: Checker, job: JobRef, statement: str, said: str
) -> None:
    ledger.execute(sessions, statement)
    checker.check(snapshot(database_url))
    assert any(f"crawl job {job.id}: " in found and said in found for found in checker.found), checker.found


def test_a_job_that_is_marked_to_be_counted_again_may_differ_until_the_end(database_url: str, job: JobRef) -> None:
    marked = {**of_job(database_url, job), "valid_images": 0, "to_recount": True}
    assert not list(violations("crawl", None, marked))
    assert len(list(violations("crawl", None, {**marked, "to_recount": False}))) == 1
    ended = {**marked, "status": "failed", "active_chunks": 0, "ledger_active": 0, "ledger_queued": 0}
    assert list(at_end("crawl", ended)) == ["at the end every job is counted again whose images were deleted"]


@pytest.mark.parametrize("kind", [VALIDATION_JOBS, EXPORT_JOBS], ids=str)
def test_validations_and_exports_are_looked_at(
    database_url: str, sessions: Sessions, checker: Checker, kind: Any
) -> None:
    ref = start_job(sessions, chunks=1, kind=kind)
    checker.check(snapshot(database_url))
    assert not checker.found
    column = "validated_images" if kind is VALIDATION_JOBS else "exported_images"
    ledger.execute(sessions, f"UPDATE {kind.name}_jobs SET {column} = 1 WHERE id = :id", id=ref.id)
    checker.check(snapshot(database_url))
    assert len(checker.found) == 2 - (kind is EXPORT_JOBS), checker.found


def test_progress_that_falls_is_noticed_unless_the_job_is_retried(database_url: str, job: JobRef) -> None:
    row = of_job(database_url, job)
    lower = {**row, "progress": row["progress"] - 1}
    assert list(violations("crawl", row, lower)) == [
        f"progress never falls: {row['progress'] - 1} after {row['progress']}"
    ]
    assert not list(violations("crawl", row, {**lower, "generation": 2}))


def test_an_image_after_a_cancel_is_noticed(database_url: str, sessions: Sessions, job: JobRef) -> None:
    ledger.cancel(sessions, job)
    row = of_job(database_url, job)
    late = {**row, "rows": 2, "valid_images": 2, "downloaded_images": 2, "total_images": 2}
    assert not list(violations("crawl", row, row))
    assert list(violations("crawl", row, late)) == ["no image is inserted after a cancel: 2 after 1"]


def test_an_ended_job_that_runs_again_is_noticed_unless_it_is_retried(
    database_url: str, sessions: Sessions, job: JobRef
) -> None:
    ended = {**of_job(database_url, job), "progress": 50, "status": "failed"}
    row = {**ended, "status": "running"}
    assert list(violations("crawl", ended, row)) == ["an ended job stays as it ended: running after failed"]
    with sessions.begin() as session:
        activity_log.record(session, job, "started")
    assert of_job(database_url, job)["last_retry"] is None
    with sessions.begin() as session:
        activity_log.record(session, job, "retried")
    assert not list(violations("crawl", ended, {**row, "last_retry": of_job(database_url, job)["last_retry"]}))


def test_a_job_that_has_not_ended_is_noticed_at_the_end(database_url: str, job: JobRef) -> None:
    row = of_job(database_url, job)
    assert list(at_end("crawl", row)) == ["every job ends: it is running"]
    left = {**row, "status": "cancelled"}
    assert list(at_end("crawl", left)) == [
        "an ended job has no open chunk: 1 queued, 1 running",
        "at the end no chunk is active: 1",
    ]
    lost = {**row, "status": "completed", "active_chunks": 0, "ledger_active": 0, "ledger_queued": 0}
    assert list(at_end("crawl", lost)) == ["at the end every chunk has ended: 1 + 1 of 4"]


def test_the_end_looks_at_jobs_that_ended_long_ago(database_url: str, sessions: Sessions, job: JobRef) -> None:
    ledger.execute(
        sessions,
        "ALTER TABLE crawl_jobs DISABLE TRIGGER USER;"
        "UPDATE crawl_jobs SET status = 'failed', updated_at = now() - interval '1 hour';"
        "ALTER TABLE crawl_jobs ENABLE TRIGGER USER",
    )
    assert not snapshot(database_url)["crawl"]
    assert [row["id"] for row in snapshot(database_url, FINAL)["crawl"]] == [job.id]


def test_images_that_share_a_url_or_have_no_facts_are_noticed_at_the_end(
    database_url: str, sessions: Sessions, checker: Checker, job: JobRef
) -> None:
    ledger.execute(
        sessions,
        "INSERT INTO images (crawl_job_id, original_url, filename) SELECT crawl_job_id, original_url, 'x' FROM images",
    )
    with psycopg.connect(database_url) as connection:
        checker.check_all(connection)
    said = "no two images share URL or bytes: 1 URLs and 1 digests shared, 1 without facts"
    assert f"crawl job {job.id}: {said}" in checker.found


def test_one_violation_of_a_rule_by_a_job_is_kept_and_logged(
    database_url: str, sessions: Sessions, checker: Checker, job: JobRef
) -> None:
    ledger.execute(sessions, "UPDATE crawl_jobs SET active_chunks = 2")
    for _ in range(3):
        checker.check(snapshot(database_url))
    assert checker.found == [f"crawl job {job.id}: active_chunks is the ledger's: 2 in the row, 1 in the ledger"]
    assert checker.events.path.read_text().count("violation") == 1


def test_the_thread_checks_every_snapshot(database_url: str, sessions: Sessions, checker: Checker, job: JobRef) -> None:
    ledger.execute(sessions, "UPDATE crawl_jobs SET active_chunks = 0")
    checker.start()
    ledger.execute(sessions, "SELECT pg_sleep(0.3)")
    checker.stop()
    assert checker.snapshots > 1
    assert checker.found == [f"crawl job {job.id}: active_chunks is the ledger's: 0 in the row, 1 in the ledger"]

"""`valid_images` follows the rows whatever is deleted, by any client, at any moment: and no delete deadlocks."""

import contextlib
from collections.abc import Sequence
from functools import partial

import factories
import ledger
import psycopg
import pytest
from factories import make_image, make_job
from ledger import at_once

from pixcrawler_worker.db import crawls, images, validations
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.models import CrawlJob, ValidationJob
from pixcrawler_worker.db.private_models import ValidationPlan, ValidationResultRow
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.registry import JOB_KINDS


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    ledger.execute(sessions, "DELETE FROM profiles")
    ledger.execute(sessions, "DELETE FROM pixcrawler.recounts")


def crawl_of(sessions: Sessions, count: int, **values: object) -> int:
    """A completed crawl job with images that it counts."""
    job_id = make_job(sessions, **{"status": "completed", "progress": 100, "valid_images": count, **values})
    with sessions.begin() as session:
        found = [make_image(f"{job_id} {number}") for number in range(count)]
        assert len(images.insert_new(session, job_id, found)) == count
    return job_id


def ids(sessions: Sessions, job_id: int) -> Sequence[int]:
    with sessions.begin() as session:
        return [image.id for image in images.stored_files(session, job_id)]


def validated(sessions: Sessions, job_id: int, *, invalid: int, effective: bool = True) -> int:
    """A completed validation that found the first images invalid."""
    with sessions.begin() as session:
        job = ValidationJob(crawl_job_id=job_id, name="check", status="running")
        session.add(job)
        session.flush()
        session.add(ValidationPlan(validation_job_id=job.id, effective=effective))
        found = images.stored_files(session, job_id)
        session.add_all(
            ValidationResultRow(validation_job_id=job.id, image_id=one.id, valid=at >= invalid, findings=[])
            for at, one in enumerate(found)
        )
    ledger.execute(
        sessions,
        "UPDATE validation_jobs SET status = 'completed', progress = 100, completed_at = clock_timestamp()"
        " WHERE id = :id",
        id=job.id,
    )
    return job.id


def valid(sessions: Sessions, job_id: int) -> int:
    with sessions.begin() as session:
        return session.get_one(CrawlJob, job_id).valid_images


def marks(sessions: Sessions) -> list[int]:
    with sessions.begin() as session:
        return crawls.marked(session)


def sweep(sessions: Sessions, job_id: int) -> None:
    """What a sweep does to a job with a mark."""
    with sessions.begin() as session:
        jobs.lock(session, CRAWL_JOBS.ref(job_id))
        recounted = JOB_KINDS["crawl"].recount(session, CRAWL_JOBS.ref(job_id))
        session.get_one(CrawlJob, job_id).valid_images = recounted["valid_images"]


def test_deleting_a_completed_validation_brings_back_what_it_found_invalid(sessions: Sessions) -> None:
    job = crawl_of(sessions, 10)
    first = validated(sessions, job, invalid=2)
    second = validated(sessions, job, invalid=5)
    assert valid(sessions, job) == 5, "an end that another program writes counts, too"
    ledger.execute(sessions, "DELETE FROM validation_jobs WHERE id = :id", id=second)
    assert valid(sessions, job) == 8, "the validation before it counts again"
    ledger.execute(sessions, "DELETE FROM validation_jobs WHERE id = :id", id=first)
    assert valid(sessions, job) == 10
    assert marks(sessions) == []


def test_a_validation_that_is_not_completed_any_more_does_not_count(sessions: Sessions) -> None:
    job = crawl_of(sessions, 10)
    ref = validated(sessions, job, invalid=3)
    ledger.execute(sessions, "UPDATE validation_jobs SET status = 'running' WHERE id = :id", id=ref)
    assert valid(sessions, job) == 10
    ledger.execute(sessions, "UPDATE validation_jobs SET status = 'completed' WHERE id = :id", id=ref)
    assert valid(sessions, job) == 7


@pytest.mark.parametrize("statement", ["DELETE FROM validation_jobs", "TRUNCATE validation_jobs CASCADE"])
def test_a_validation_that_reports_only_never_counts(sessions: Sessions, statement: str) -> None:
    job = crawl_of(sessions, 10)
    validated(sessions, job, invalid=4)
    validated(sessions, job, invalid=9, effective=False)
    assert valid(sessions, job) == 6
    ledger.execute(sessions, statement)
    assert valid(sessions, job) == 10


def test_images_that_are_deleted_by_hand_are_not_counted(sessions: Sessions) -> None:
    job, other = crawl_of(sessions, 10), crawl_of(sessions, 4)
    validated(sessions, job, invalid=3)
    invalid, *rest = ids(sessions, job)[2:]
    ledger.execute(sessions, "DELETE FROM images WHERE id = :id", id=invalid)
    assert valid(sessions, job) == 7, "it was not counted before either"
    ledger.execute(sessions, "DELETE FROM images WHERE id = ANY (:ids)", ids=[*rest[:2], ids(sessions, other)[0]])
    assert (valid(sessions, job), valid(sessions, other)) == (5, 3)
    ledger.execute(sessions, "TRUNCATE images CASCADE")
    assert (valid(sessions, job), valid(sessions, other)) == (0, 0)


def test_images_beyond_the_limit_are_not_counted_when_invalid_ones_count_again(sessions: Sessions) -> None:
    job = crawl_of(sessions, 10, max_images=10)
    ref = validated(sessions, job, invalid=4)
    with sessions.begin() as session:
        images.insert_new(session, job, [make_image(f"{job} new {number}") for number in range(4)])
    ledger.execute(sessions, "UPDATE crawl_jobs SET valid_images = 10 WHERE id = :id", id=job)
    ledger.execute(sessions, "DELETE FROM validation_jobs WHERE id = :id", id=ref)
    assert valid(sessions, job) == 10, "14 rows, but never more than max_images"
    with sessions.begin() as session:
        assert validations.valid_images(session, job) == 10, "the worker counts as the database does"


@pytest.mark.parametrize("table", ["crawl_jobs", "projects", "profiles"])
def test_deleting_the_crawl_job_or_what_it_belongs_to_leaves_nothing(sessions: Sessions, table: str) -> None:
    job = crawl_of(sessions, 5)
    validated(sessions, job, invalid=1)
    ledger.execute(sessions, f"DELETE FROM {table}")
    with sessions.begin() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM pixcrawler.recounts").scalar() == 0


def test_a_job_that_is_locked_is_counted_by_the_next_sweep(sessions: Sessions) -> None:
    job, gone = crawl_of(sessions, 10), crawl_of(sessions, 1)
    ref = validated(sessions, job, invalid=4)
    with sessions.begin() as other:
        jobs.lock(other, CRAWL_JOBS.ref(job))
        jobs.lock(other, CRAWL_JOBS.ref(gone))
        ledger.execute(sessions, "DELETE FROM validation_jobs WHERE id = :id", id=ref)
        ledger.execute(sessions, "DELETE FROM images WHERE crawl_job_id = :id", id=gone)
    assert valid(sessions, job) == 6
    ledger.execute(sessions, "DELETE FROM crawl_jobs WHERE id = :id", id=gone)
    assert marks(sessions) == [job]
    sweep(sessions, job)
    assert (valid(sessions, job), marks(sessions)) == (10, [])


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_delete_with_an_older_snapshot_leaves_the_count_to_the_sweep(
    sessions: Sessions, database_url: str, level: str
) -> None:
    job = crawl_of(sessions, 10)
    with psycopg.connect(database_url) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        connection.execute("SELECT 1 FROM crawl_jobs")
        with sessions.begin() as session:
            images.insert_new(session, job, [make_image(f"{job} late")])
            session.get_one(CrawlJob, job).valid_images = 11
        connection.execute("DELETE FROM images WHERE id = %s", (ids(sessions, job)[0],))
    assert marks(sessions) == [job]
    sweep(sessions, job)
    assert valid(sessions, job) == 10


def test_deleting_twice_and_at_once_while_the_crawl_runs_counts_exactly(sessions: Sessions) -> None:
    """Deletes of validations, of images and of the children one by one, against finishes of chunks."""
    for turn in range(5):
        ref = factories.start_job(sessions, chunks=4, max_images=1000)
        with sessions.begin() as session:
            found = [make_image(f"{ref.id} old {number}") for number in range(8)]
            images.insert_new(session, ref.id, found)
            session.get_one(CrawlJob, ref.id).valid_images = 8
        validation = validated(sessions, ref.id, invalid=3)
        claims = [ledger.claim(sessions, chunk_id) for chunk_id in ledger.ids_of(sessions, ref)]
        old = ids(sessions, ref.id)
        at_once(
            *(
                partial(ledger.finish, sessions, claim, [make_image(f"{ref.id} {turn} {claim.chunk_id} {number}")])
                for number, claim in enumerate(claims)
            ),
            *[partial(ledger.execute, sessions, "DELETE FROM validation_jobs WHERE id = :id", id=validation)] * 2,
            *(partial(ledger.execute, sessions, "DELETE FROM images WHERE id = :id", id=image) for image in old[:3]),
            partial(_delete_children_first, sessions, ref, old[3:5]),
        )
        for marked in marks(sessions):
            sweep(sessions, marked)
        with sessions.begin() as session:
            assert valid(sessions, ref.id) == len(ids(sessions, ref.id)) == 8 - 5 + 4
            ledger.check_invariants(session, ref.id)


def _delete_children_first(sessions: Sessions, ref: JobRef, image_ids: Sequence[int]) -> None:
    """Delete as an ORM that loads children does; then the job would be deleted, but a savepoint brings it back."""
    with sessions.begin() as session:
        images.delete_images(session, image_ids)
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            session.connection().exec_driver_sql(f"DELETE FROM crawl_jobs WHERE id = {ref.id}")
            raise ZeroDivisionError


def test_a_delete_locks_no_job_while_its_transaction_goes_on(sessions: Sessions, database_url: str) -> None:
    """Otherwise it would wait with its next statement for a worker that waits for the job."""
    job = crawl_of(sessions, 10)
    validated(sessions, job, invalid=2)
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM images WHERE id = %s", (ids(sessions, job)[5],))
        connection.execute("DELETE FROM validation_jobs")
        with sessions.begin() as worker:
            worker.connection().exec_driver_sql(f"SELECT FROM crawl_jobs WHERE id = {job} FOR UPDATE NOWAIT")
    assert valid(sessions, job) == 9


def test_a_transaction_counts_once_however_many_statements_it_has(sessions: Sessions, database_url: str) -> None:
    job = crawl_of(sessions, 10)
    ledger.execute(sessions, "UPDATE crawl_jobs SET updated_at = '2001-01-01' WHERE id = :id", id=job)
    with psycopg.connect(database_url) as connection:
        for image in ids(sessions, job)[:4]:
            connection.execute("DELETE FROM images WHERE id = %s", (image,))
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        assert connection.execute("SELECT valid_images FROM crawl_jobs").fetchone() == (6,)
        assert connection.execute("SELECT count(*) FROM pixcrawler.recounts").fetchone() == (0,)
    assert valid(sessions, job) == 6

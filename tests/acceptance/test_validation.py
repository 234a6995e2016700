"""Validations with real workers: the same results regardless of killed processes, and one end."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis
from acceptance_stack import Stack, children, send
from sqlalchemy import text
from validate import corpus

from pixcrawler_worker import runtime as connections
from pixcrawler_worker import settings
from pixcrawler_worker.db.models import ValidationJob
from pixcrawler_worker.domain.messages import Task

#: Enough for three chunks of 500 images each.
COPIES = 20


@pytest.fixture
def crawled(stack: Stack) -> Iterator[int]:
    """A crawl job with many slightly different copies of the corpus."""
    configured = settings.load(
        database_url=stack.database_url, data_dir=stack.data_dir, storage_url=(stack.data_dir / "storage").as_uri()
    )
    job = stack.make_job(status="completed", max_images=10_000)
    opened = connections.connect(configured)
    try:
        planted = [*corpus.clean(), *corpus.defective()]
        bodies = {one.name: one.body for one in planted if one.body is not None}
        with stack.sessions.begin() as session:
            for copy in range(COPIES):
                for name, body in bodies.items():
                    key = f"crawl_jobs/{job}/cat/{copy}-{name}"
                    # Bytes after the end of a JPEG change only its checksum.
                    opened.run(opened.storage.put(key, body + bytes([copy]) if body[:2] == b"\xff\xd8" else body))
                    session.execute(
                        text(
                            "INSERT INTO images (crawl_job_id, original_url, filename, storage_url)"
                            " VALUES (:job, :url, :name, :url)"
                        ),
                        {"job": job, "url": opened.storage.url(key), "name": f"{copy}-{name}"},
                    )
        yield job
    finally:
        opened.close()


def make(stack: Stack, job: int) -> int:
    made = ValidationJob(crawl_job_id=job, name="check", validation_rules={"level": "strict", "mode": "lenient"})
    with stack.sessions.begin() as session:
        session.add(made)
    return made.id


def results(stack: Stack, validation: int) -> list[tuple[Any, ...]]:
    return stack.query(
        "SELECT image_id, valid, findings, sha256, phash, metrics, keeper_id FROM pixcrawler.verdicts"
        " WHERE validation_job_id = %s ORDER BY image_id",
        validation,
    )


def row(stack: Stack, validation: int) -> tuple[Any, ...]:
    (found,) = stack.query(
        "SELECT status, progress, total_images, validated_images, invalid_images FROM validation_jobs WHERE id = %s",
        validation,
    )
    return found


def wait(stack: Stack, validation: int, *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while row(stack, validation)[0] in {"pending", "running"}:
        assert time.monotonic() < deadline, f"{row(stack, validation)}\n{stack.log()[-3000:]}"
        time.sleep(0.05)


def owners_at_work(stack: Stack, validation: int, *, comparing: bool) -> set[int]:
    """Processes that run a chunk without a crash so far."""
    return {
        pid
        for (pid,) in stack.query(
            "SELECT split_part(owner, ':', 2)::int FROM pixcrawler.chunks WHERE validation_job_id = %s"
            " AND state = 'running' AND crash_count = 0 AND (payload ? 'step') = %s",
            validation,
            comparing,
        )
    }


def kill_worker(stack: Stack, validation: int, main_pid: int, killed: set[int], *, comparing: bool) -> None:
    """Kill a worker process at work that was not killed before: those stay in the table until they are swept."""
    deadline = time.monotonic() + 60
    while not (found := owners_at_work(stack, validation, comparing=comparing) & set(children(main_pid)) - killed):
        assert time.monotonic() < deadline, "no worker process is at work"
        assert row(stack, validation)[0] in {"pending", "running"}, "the validation ended before a process was killed"
        time.sleep(0.002)
    killed.add(min(found))
    os.kill(min(found), signal.SIGKILL)


def slow_down_comparing(stack: Stack) -> None:
    """Slow down the end of the comparing chunk, which takes milliseconds, so that the test can hit it."""
    with psycopg.connect(stack.database_url) as connection:
        connection.execute(
            "CREATE FUNCTION slow_down() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(0.7); RETURN NEW; END'"
        )
        connection.execute(
            "CREATE TRIGGER slow_down BEFORE UPDATE ON pixcrawler.chunks FOR EACH ROW"
            " WHEN (NEW.state = 'completed' AND NEW.payload ? 'step') EXECUTE FUNCTION slow_down()"
        )


@pytest.mark.slow
def test_results_are_the_same_regardless_of_killed_processes_and_there_is_one_end(stack: Stack, crawled: int) -> None:
    undisturbed, killed = make(stack, crawled), make(stack, crawled)
    slow_down_comparing(stack)
    pids: set[int] = set()
    with stack.worker() as worker:
        send(stack, Task.VALIDATION_START, undisturbed, queue="validation", times=2)
        wait(stack, undisturbed)
        send(stack, Task.VALIDATION_START, killed, queue="validation")
        kill_worker(stack, killed, worker.pid, pids, comparing=False)
        with redis.Redis.from_url(stack.redis_url) as server:
            server.flushall()
        kill_worker(stack, killed, worker.pid, pids, comparing=False)
        kill_worker(stack, killed, worker.pid, pids, comparing=True)
        wait(stack, killed)
        for (chunk_id,) in stack.query("SELECT id FROM pixcrawler.chunks WHERE validation_job_id = %s", killed):
            send(stack, Task.VALIDATION_CHUNK, chunk_id, queue="validation")
        time.sleep(1)
    assert row(stack, killed)[0] == "completed"
    assert results(stack, killed) == results(stack, undisturbed)
    assert row(stack, killed) == row(stack, undisturbed)
    ends = "SELECT count(*) FROM activity_logs WHERE action = 'validation_job.completed' AND resource_id = %s"
    assert stack.query(ends, str(killed)) == [(1,)]
    (counted,) = stack.query("SELECT valid_images FROM crawl_jobs WHERE id = %s", crawled)
    assert counted[0] == row(stack, killed)[3]


@pytest.mark.slow
def test_the_main_process_may_be_killed_as_well(stack: Stack, crawled: int) -> None:
    validation = make(stack, crawled)
    with stack.worker() as worker:
        send(stack, Task.VALIDATION_START, validation, queue="validation")
        while not owners_at_work(stack, validation, comparing=False):
            time.sleep(0.01)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with stack.worker():
        wait(stack, validation)
    status, progress, total, valid, invalid = row(stack, validation)
    assert (status, progress, total) == ("completed", 100, valid + invalid)
    assert len(results(stack, validation)) == total

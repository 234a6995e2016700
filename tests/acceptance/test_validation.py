"""Validations with real workers: the same verdicts whoever is killed, and one end."""

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
    """A crawl job with the corpus many times over, a little different each time."""
    told = settings.load(
        database_url=stack.database_url, data_dir=stack.data_dir, storage_url=(stack.data_dir / "storage").as_uri()
    )
    job = stack.make_job(status="completed", max_images=10_000)
    opened = connections.connect(told)
    try:
        planted = [*corpus.clean(), *corpus.defective()]
        bodies = {one.name: one.body for one in planted if one.body is not None}
        with stack.sessions.begin() as session:
            for copy in range(COPIES):
                for name, body in bodies.items():
                    key = f"crawl_jobs/{job}/cat/{copy}-{name}"
                    # Bytes behind a JPEG's end change its digest and nothing else.
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


def verdicts(stack: Stack, validation: int) -> list[tuple[Any, ...]]:
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


def holders(stack: Stack, validation: int, *, comparing: bool) -> set[int]:
    """Processes at work on a chunk that nobody has died of yet."""
    return {
        pid
        for (pid,) in stack.query(
            "SELECT split_part(owner, ':', 2)::int FROM pixcrawler.chunks WHERE validation_job_id = %s"
            " AND state = 'running' AND crash_count = 0 AND (payload ? 'step') = %s",
            validation,
            comparing,
        )
    }


def strike(stack: Stack, validation: int, main_pid: int, *, comparing: bool) -> None:
    deadline = time.monotonic() + 60
    while not (found := holders(stack, validation, comparing=comparing) & set(children(main_pid))):
        assert time.monotonic() < deadline, "nobody is at work"
        assert row(stack, validation)[0] in {"pending", "running"}, "it ended before anybody was struck"
        time.sleep(0.002)
    os.kill(min(found), signal.SIGKILL)


def slow_down_comparing(stack: Stack) -> None:
    """Let the end of the comparing step take so long that it can be met: it is a matter of milliseconds here."""
    with psycopg.connect(stack.database_url) as connection:
        connection.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(0.7); RETURN NEW; END'"
        )
        connection.execute(
            "CREATE TRIGGER dawdle BEFORE UPDATE ON pixcrawler.chunks FOR EACH ROW"
            " WHEN (NEW.state = 'completed' AND NEW.payload ? 'step') EXECUTE FUNCTION dawdle()"
        )


def test_verdicts_are_the_same_whoever_is_killed_and_there_is_one_end(stack: Stack, crawled: int) -> None:
    undisturbed, struck = make(stack, crawled), make(stack, crawled)
    slow_down_comparing(stack)
    with stack.worker() as worker:
        send(stack, Task.VALIDATION_START, undisturbed, queue="validation", times=2)
        wait(stack, undisturbed)
        send(stack, Task.VALIDATION_START, struck, queue="validation")
        strike(stack, struck, worker.pid, comparing=False)
        with redis.Redis.from_url(stack.redis_url) as server:
            server.flushall()
        strike(stack, struck, worker.pid, comparing=False)
        strike(stack, struck, worker.pid, comparing=True)
        wait(stack, struck)
        for (chunk_id,) in stack.query("SELECT id FROM pixcrawler.chunks WHERE validation_job_id = %s", struck):
            send(stack, Task.VALIDATION_CHUNK, chunk_id, queue="validation")
        time.sleep(1)
    assert row(stack, struck)[0] == "completed"
    assert verdicts(stack, struck) == verdicts(stack, undisturbed)
    assert row(stack, struck) == row(stack, undisturbed)
    ends = "SELECT count(*) FROM activity_logs WHERE action = 'validation_job.completed' AND resource_id = %s"
    assert stack.query(ends, str(struck)) == [(1,)]
    (counted,) = stack.query("SELECT valid_images FROM crawl_jobs WHERE id = %s", crawled)
    assert counted[0] == row(stack, struck)[3]


def test_the_main_process_may_be_killed_as_well(stack: Stack, crawled: int) -> None:
    validation = make(stack, crawled)
    with stack.worker() as worker:
        send(stack, Task.VALIDATION_START, validation, queue="validation")
        while not holders(stack, validation, comparing=False):
            time.sleep(0.01)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with stack.worker():
        wait(stack, validation)
    status, progress, total, valid, invalid = row(stack, validation)
    assert (status, progress, total) == ("completed", 100, valid + invalid)
    assert len(verdicts(stack, validation)) == total

"""Jobs that complete although workers are killed, Redis is flushed, or the job is cancelled meanwhile."""

import os
import signal
import time

import redis
from acceptance_stack import Stack, children, send, url_list

from pixcrawler_worker.domain.messages import Task


def start(stack: Stack, slow_host: str, *, good: int = 400, **options: object) -> tuple[int, set[str]]:
    """Start a long job; return its id and the URLs that must become rows."""
    listed, _ = url_list(slow_host, good=good, broken=20)
    listed = [url for url in listed if "/slow/" not in url]
    job_id = stack.make_job(max_images=len(listed))
    send(stack, Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": 20, **options})
    return job_id, {url for url in listed if "/good/" in url}


def kill_worker(stack: Stack, job_id: int, main_pid: int) -> None:
    """Kill a child process that runs a chunk without a crash so far: a second crash would make it a poison chunk."""
    held = (
        "SELECT split_part(owner, ':', 2)::int FROM pixcrawler.chunks"
        " WHERE crawl_job_id = %s AND state = 'running' AND crash_count = 0"
    )
    deadline = time.monotonic() + 30
    while not (found := {pid for (pid,) in stack.query(held, job_id)} & set(children(main_pid))):
        assert time.monotonic() < deadline, "no worker process is at work"
        time.sleep(0.01)
    os.kill(min(found), signal.SIGKILL)


def assert_complete(stack: Stack, job_id: int, expected: set[str]) -> None:
    job = stack.job(job_id)
    assert (job["status"], job["active_chunks"]) == ("completed", 0), job
    assert job["completed_chunks"] + job["failed_chunks"] == job["total_chunks"]
    assert {row[0] for row in stack.rows(job_id)} == expected
    assert stack.named_files(job_id) <= stack.files(job_id), "a row without a file"


def test_a_job_survives_children_that_are_killed_and_a_flushed_redis(stack: Stack, slow_host: str) -> None:
    with stack.worker(concurrency=3, PIXCRAWLER_FETCH_CONCURRENCY="4") as worker:
        job_id, expected = start(stack, slow_host)
        with stack.watched(job_id):
            stack.wait(job_id, until=lambda row: row["completed_chunks"] > 0)
            kill_worker(stack, job_id, worker.pid)
            stack.wait(job_id, until=lambda row: row["completed_chunks"] > 4)
            with redis.Redis.from_url(stack.redis_url) as server:
                server.flushall()
            stack.wait(job_id, until=lambda row: row["completed_chunks"] > 8)
            kill_worker(stack, job_id, worker.pid)
            stack.wait(job_id, seconds=120)
    assert_complete(stack, job_id, expected)


def test_a_job_survives_the_main_process_being_killed(stack: Stack, slow_host: str) -> None:
    with stack.worker(PIXCRAWLER_FETCH_CONCURRENCY="4") as worker:
        job_id, expected = start(stack, slow_host, good=200)
        stack.wait(job_id, until=lambda row: row["completed_chunks"] > 1 and row["active_chunks"] > 1)
        os.killpg(worker.pid, signal.SIGKILL)
    left = stack.job(job_id)
    assert left["status"] == "running"
    assert left["active_chunks"] > 0
    with stack.watched(job_id), stack.worker():
        stack.wait(job_id, seconds=120)
    assert_complete(stack, job_id, expected)


def test_after_a_cancel_no_image_is_inserted_and_a_retry_gets_the_rest(stack: Stack, slow_host: str) -> None:
    with stack.worker(PIXCRAWLER_FETCH_CONCURRENCY="4"):
        job_id, expected = start(stack, slow_host, good=200)
        stack.wait(job_id, until=lambda row: row["completed_chunks"] > 1)
        send(stack, Task.CRAWL_CANCEL, job_id, queue="maintenance", times=2)
        stack.wait(job_id)
        had = stack.rows(job_id)
        time.sleep(2)
        job = stack.job(job_id)
        assert (job["status"], job["active_chunks"]) == ("cancelled", 0)
        assert stack.rows(job_id) == had
        assert 0 < len(had) < len(expected)
        assert not stack.query(
            "SELECT 1 FROM pixcrawler.chunks WHERE crawl_job_id = %s AND state IN ('queued', 'running')", job_id
        )
        send(stack, Task.CRAWL_RETRY, job_id, times=2)
        stack.wait(job_id, until=lambda row: row["status"] == "running")
        with stack.watched(job_id):
            stack.wait(job_id, seconds=120)
    assert_complete(stack, job_id, expected)


def test_a_cancel_that_an_api_writes_into_the_row_takes_effect(stack: Stack, slow_host: str) -> None:
    with stack.worker(PIXCRAWLER_FETCH_CONCURRENCY="4"):
        job_id, _ = start(stack, slow_host, good=200)
        stack.wait(job_id, until=lambda row: row["active_chunks"] > 0)
        stack.query("UPDATE crawl_jobs SET status = 'cancelled' WHERE id = %s RETURNING id", job_id)
        stack.wait(job_id, until=lambda row: row["active_chunks"] == 0)
        assert not stack.query(
            "SELECT 1 FROM pixcrawler.chunks WHERE crawl_job_id = %s AND state IN ('queued', 'running')", job_id
        )


def test_deleting_a_running_job_does_not_affect_other_jobs(stack: Stack, slow_host: str) -> None:
    with stack.worker(PIXCRAWLER_FETCH_CONCURRENCY="4") as worker:
        job_id, _ = start(stack, slow_host, good=200)
        other, expected = start(stack, slow_host, good=60)
        stack.wait(job_id, until=lambda row: row["completed_chunks"] > 0)
        stack.query("DELETE FROM crawl_jobs WHERE id = %s RETURNING id", job_id)
        stack.wait(other)
        assert worker.poll() is None
    assert_complete(stack, other, expected)
    assert "Traceback" not in stack.log()

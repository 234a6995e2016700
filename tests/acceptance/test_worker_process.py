"""A worker as operators start it: pools, log files, a full Redis, children that die at once, remote control."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import redis
from acceptance_stack import Stack, children, send, url_list
from celery import Celery

from pixcrawler_worker.domain.messages import Task

CELERY = (sys.executable, "-m", "celery", "-A", "pixcrawler_worker")


def celery(stack: Stack, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return stack.run("celery", "-A", "pixcrawler_worker", *words, **env)


@contextlib.contextmanager
def worker(stack: Stack, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker as operators type it, with these options."""
    with (stack.data_dir / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [*CELERY, "worker", *words],
            env=stack.env,
            stdout=log,
            stderr=log,
            cwd=stack.data_dir,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], object], *, what: Callable[[], str], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def start_job(stack: Stack, *, images: int = 4) -> int:
    listed, _ = url_list(stack.host, good=images, broken=0)
    job_id = stack.make_job(max_images=images)
    send(stack, Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": max(images // 4, 1)})
    return job_id


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_pool_of_threads_is_refused_in_one_line_and_in_the_log_file(stack: Stack) -> None:
    done = celery(stack, "worker", "--pool", "threads", "--logfile", "worker.log")
    reason = "chunks cannot run in the pool thread: leave out --pool, or use --pool prefork or solo"
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == f"pixcrawler: {reason}"
    assert "Traceback" not in done.stderr
    assert reason in stack.log()


def test_the_pool_solo_downloads_every_image(stack: Stack) -> None:
    job_id = start_job(stack, images=20)
    with worker(stack, "--pool", "solo", "--loglevel", "INFO"):
        stack.wait(job_id)
    assert stack.job(job_id)["valid_images"] == 20


def test_a_full_redis_is_waited_for_at_the_start_and_later(stack: Stack) -> None:
    with redis.Redis.from_url(stack.redis_url) as server:
        first, second = start_job(stack), None
        server.config_set("maxmemory", "1")
        try:
            with worker(stack, "--concurrency", "1", "--loglevel", "INFO") as process:
                wait_for(lambda: "Redis is full; waiting until it has room" in stack.log(), what=stack.log)
                assert process.poll() is None
                server.config_set("maxmemory", "0")
                stack.wait(first)
                # Whatever the worker writes now is rejected.
                server.config_set("maxmemory", "1")
                time.sleep(3)
                server.config_set("maxmemory", "0")
                second = start_job(stack)
                stack.wait(second)
                assert process.poll() is None
        finally:
            server.config_set("maxmemory", "0")
    assert stack.job(first)["valid_images"] == stack.job(second)["valid_images"] == 4
    assert "Traceback" not in stack.log()


def test_a_child_that_is_killed_at_once_is_replaced(stack: Stack) -> None:
    with worker(stack, "--concurrency", "2", "--loglevel", "INFO") as process:
        wait_for(lambda: children(process.pid), what=stack.log)
        for child in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        job_id = start_job(stack)
        stack.wait(job_id)
        assert process.poll() is None
        wait_for(lambda: len(children(process.pid)) >= 2, what=stack.log)
    assert "Could not start worker processes" not in stack.log()


def test_a_child_is_not_forked_during_a_sweep(stack: Stack) -> None:
    """What the sweeper has locked would be locked in the child for ever, and it would hang with its first task."""

    def waiting() -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return int(stack.query(query)[0][0])

    with worker(stack, "--concurrency", "2", "--loglevel", "INFO") as process:
        wait_for(lambda: "ready." in stack.log(), what=stack.log)
        before = set(children(process.pid))
        with psycopg.connect(stack.database_url) as connection:
            connection.execute("LOCK TABLE pixcrawler.chunks")
            wait_for(waiting, what=stack.log)
            os.kill(min(before), signal.SIGKILL)
            wait_for(lambda: "exited with" in stack.log(), what=stack.log)
            # The sweep waits for three seconds at most, of which a busy machine may have used two.
            looks = 0
            while (found := set(children(process.pid))) and waiting() and looks < 20:
                assert found < before
                looks += 1
                time.sleep(0.05)
            assert looks > 3
        wait_for(lambda: len(children(process.pid)) == 2, what=stack.log, seconds=5)
        job_id = start_job(stack)
        stack.wait(job_id)


def test_a_worker_in_the_background_writes_its_log_file(stack: Stack) -> None:
    options = ("--concurrency", "1", "--loglevel", "INFO", "--logfile", "%n.log", "--pidfile", "%n.pid")
    done = celery(stack, "worker", "--detach", "--hostname", "one@%h", *options)
    assert done.returncode == 0, done.stderr
    with stopped_at_the_end(stack.data_dir / "one.pid"):
        job_id = start_job(stack)
        stack.wait(job_id)
        log = stack.data_dir / "one.log"
        wait_for(lambda: " succeeded in " in log.read_text(), what=log.read_text)
        # Rotated, as logrotate does it.
        log.rename(stack.data_dir / "old.log")
        stack.wait(start_job(stack))
        wait_for(lambda: log.exists() and " succeeded in " in log.read_text(), what=lambda: "no new log file")
        assert "\x1b" not in log.read_text()


def test_a_worker_of_celery_multi_writes_its_log_file(stack: Stack) -> None:
    options = ("--pidfile=%n.pid", "--logfile=%n.log", "--loglevel=INFO", "--concurrency=1")
    done = celery(stack, "multi", "start", "two", "-A", "pixcrawler_worker", *options)
    assert done.returncode == 0, done.stderr
    with stopped_at_the_end(stack.data_dir / "two.pid"):
        log = stack.data_dir / "two.log"
        wait_for(lambda: log.exists() and " ready." in log.read_text(), what=log.read_text)


def test_a_worker_in_the_background_is_restarted_by_sighup(stack: Stack) -> None:
    options = ("--concurrency", "1", "--loglevel", "INFO", "--logfile", "%n.log", "--pidfile", "%n.pid")
    done = celery(stack, "worker", "--detach", "--hostname", "three@%h", *options)
    assert done.returncode == 0, done.stderr
    with stopped_at_the_end(stack.data_dir / "three.pid") as pid:
        log = stack.data_dir / "three.log"
        for starts in (1, 2):
            wait_for(lambda: log.exists() and log.read_text().count(" ready.") == starts, what=log.read_text)  # noqa: B023 - is called in this turn
            os.kill(pid, signal.SIGHUP)
        wait_for(lambda: log.read_text().count(" ready.") == 3, what=log.read_text)
        stack.wait(start_job(stack))


@contextlib.contextmanager
def stopped_at_the_end(pid_file: Path) -> Iterator[int]:
    """Stop a worker in the background, which has written its process id into a file; yield that."""
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip(), what=lambda: f"no {pid_file}")
    pid = int(pid_file.read_text())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: gone(pid), what=lambda: "it does not stop")


def test_a_worker_is_seen_and_controlled(stack: Stack) -> None:
    with worker(stack, "--concurrency", "1", "--loglevel", "INFO") as process, Celery(broker=stack.broker_url) as api:
        wait_for(lambda: " ready." in stack.log(), what=stack.log)
        assert list(json.loads(celery(stack, "inspect", "ping", "--json").stdout).values()) == [{"ok": "pong"}]
        inspect = api.control.inspect(timeout=3, limit=1)
        assert "pixcrawler.crawl.start" in str(inspect.registered())
        assert str(process.pid) in str(inspect.stats())
        types: list[str] = []

        def seen(event: dict[str, Any]) -> None:
            types.append(event["type"])
            if len(types) == 1:
                start_job(stack)
            receiver.should_stop = "task-succeeded" in types

        # As Flower listens.
        with api.connection() as connection:
            receiver = api.events.Receiver(connection, handlers={"*": seen})
            receiver.capture(limit=None, timeout=30, wakeup=True)
        assert set(types) >= {"worker-heartbeat", "task-received", "task-started", "task-succeeded"}
        api.control.shutdown()
        assert process.wait(timeout=30) == 0
    assert "Traceback" not in stack.log()

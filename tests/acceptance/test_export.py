"""Exports with real workers: the same archives regardless of killed processes, and one end."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from acceptance_stack import Stack, children, send
from export import exporting
from export.exporting import StoredImage

from pixcrawler_worker import runtime as connections
from pixcrawler_worker import settings
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.domain.messages import Task

#: Large enough that an archive of ten takes a while to write.
IMAGES, BYTES, PER_PART = 40, 12_000_000, 10


@pytest.fixture
def crawled(stack: Stack) -> Iterator[int]:
    """A crawl job with a few large files."""
    configured = settings.load(
        database_url=stack.database_url, data_dir=stack.data_dir, storage_url=(stack.data_dir / "storage").as_uri()
    )
    opened = connections.connect(configured)
    try:
        # Bytes after the end of a JPEG change only its size and checksum.
        bodies = [exporting.image_bytes(number) + bytes([number]) * BYTES for number in range(IMAGES)]
        yield exporting.crawl_of(opened, [StoredImage(body) for body in bodies])
    finally:
        opened.close()


def make(stack: Stack, job: int) -> int:
    with stack.sessions.begin() as session:
        made = job_rows.create_export_job(
            session,
            crawl_job_id=job,
            name="killed",
            format_="zip",
            options={"archive": {"part_max_images": PER_PART}},
        )
    assert made is not None
    return made


def row(stack: Stack, export: int) -> tuple[Any, ...]:
    (found,) = stack.query(
        "SELECT status, progress, total_images, exported_images, file_size, error_message FROM export_jobs"
        " WHERE id = %s",
        export,
    )
    return found


def digests(stack: Stack, export: int) -> dict[str, str]:
    """Checksums of all files in storage of an export."""
    folder = stack.data_dir / "storage" / "exports" / str(export)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def names(stack: Stack) -> list[str]:
    """Names of all files in storage of all exports."""
    folder = stack.data_dir / "storage" / "exports"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def wait(stack: Stack, until: Callable[[], bool], *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"{names(stack)}\n{stack.log()[-3000:]}"
        time.sleep(0.005)


def slow_down(stack: Stack, name: str, event: str, condition: str = "") -> None:
    """Slow down a statement, which takes milliseconds, so that the test can hit it."""
    with psycopg.connect(stack.database_url) as connection:
        connection.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(1.5); RETURN NEW; END'"
        )
        connection.execute(f"CREATE TRIGGER {name} {event} {condition} EXECUTE FUNCTION {name}()")


def asleep(stack: Stack, table: str) -> bool:
    """Whether a statement on that table is slowed down."""
    return bool(
        stack.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE %s", f"%{table}%")
    )


def kill_worker(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def half_written(stack: Stack, export: int) -> list[Path]:
    return list((stack.data_dir / "storage" / "exports" / str(export)).glob("*.unfinished-*"))


@pytest.mark.slow
def test_archives_are_the_same_regardless_of_killed_processes_and_there_is_one_end(stack: Stack, crawled: int) -> None:
    undisturbed = make(stack, crawled)
    with stack.worker() as worker:
        send(stack, Task.EXPORT_START, undisturbed, queue="export", times=2)
        wait(stack, lambda: row(stack, undisturbed)[0] == "completed")

        # While it is planned.
        slow_down(stack, "slow_plan", "AFTER INSERT ON pixcrawler.export_items FOR EACH STATEMENT")
        killed = make(stack, crawled)
        send(stack, Task.EXPORT_START, killed, queue="export")
        wait(stack, lambda: asleep(stack, "export_items"))
        kill_worker(list(children(worker.pid)))
        # While an archive is written, with all messages lost as well.
        wait(stack, lambda: bool(half_written(stack, killed)))
        kill_worker(list(children(worker.pid)))
        with redis.Redis.from_url(stack.redis_url) as server:
            server.flushall()
        # While the manifest is written and not yet recorded in the ledger.
        slow_down(
            stack,
            "slow_publish",
            "BEFORE UPDATE ON pixcrawler.chunks FOR EACH ROW",
            "WHEN (NEW.state = 'completed' AND NEW.payload ? 'step' AND NEW.crash_count = 0)",
        )
        wait(stack, lambda: asleep(stack, "UPDATE pixcrawler.chunks"))
        kill_worker(list(children(worker.pid)))
        # While its row is completed.
        slow_down(stack, "slow_end", "BEFORE UPDATE ON export_jobs FOR EACH ROW", "WHEN (NEW.download_url IS NOT NULL)")
        wait(stack, lambda: asleep(stack, "UPDATE export_jobs"))
        kill_worker(list(children(worker.pid)))
        wait(stack, lambda: row(stack, killed)[0] not in {"pending", "running"})
        for (chunk_id,) in stack.query("SELECT id FROM pixcrawler.chunks WHERE export_job_id = %s", killed):
            send(stack, Task.EXPORT_PART, chunk_id, queue="export")
        send(stack, Task.EXPORT_START, killed, queue="export")
        send(stack, Task.SWEEP, queue="maintenance")
        wait(stack, lambda: not half_written(stack, killed))
        time.sleep(1)
    assert row(stack, killed)[:4] == ("completed", 100, IMAGES, IMAGES)
    assert row(stack, killed) == row(stack, undisturbed)
    one, other = digests(stack, undisturbed), digests(stack, killed)
    assert len(one) == IMAGES // PER_PART + 4
    # Its links are those of another export.
    del one["manifest.json"], other["manifest.json"]
    assert other == one
    ends = "SELECT count(*) FROM activity_logs WHERE action = 'export_job.completed' AND resource_id = %s"
    assert stack.query(ends, str(killed)) == [(1,)]

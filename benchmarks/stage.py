"""Helpers of the benchmarks: images, a worker on its own services, and the duration of a job."""

import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
from PIL import Image

from pixcrawler_worker import runtime, settings
from pixcrawler_worker.db import job_views, server
from pixcrawler_worker.db.job_views import View
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.runtime import Runtime

#: Processes of a worker, and of the baseline that it is compared with.
PROCESSES = 2


def jpeg(number: int, size: int) -> bytes:
    """Return a JPEG of about `size` bytes that differs for every number."""
    noise = random.Random(number)
    side = int((size / 1.07) ** 0.5)
    small = Image.frombytes("RGB", (side // 4, side // 4), noise.randbytes(3 * (side // 4) ** 2))
    written = io.BytesIO()
    small.resize((side * 2, side * 2), Image.Resampling.BICUBIC).save(written, "JPEG", quality=85)
    return written.getvalue()


@contextmanager
def service(**env: str) -> Iterator[Runtime]:
    """Run migrated services in a temporary folder, set the environment for them, and yield a runtime."""
    with tempfile.TemporaryDirectory() as folder, launcher.running(Path(folder)) as services:
        os.environ |= env | {
            "PIXCRAWLER_DATABASE_URL": services.database_url,
            "PIXCRAWLER_BROKER_URL": services.broker_url,
            "PIXCRAWLER_DATA_DIR": folder,
        }
        server.upgrade(services.database_url)
        with closing(runtime.connect(settings.load())) as opened:
            yield opened


@contextmanager
def worker(processes: int = PROCESSES) -> Iterator[int]:
    """Run a worker with so many processes; yield the id of its main process."""
    command = [sys.executable, "-m", "celery", "--app", "pixcrawler_worker", "--quiet", "worker"]
    command += ["--concurrency", str(processes), "--without-gossip", "--without-mingle", "--loglevel", "ERROR"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def families(data_dir: Path) -> list[int]:
    """Return the ids of the main processes of PostgreSQL and Redis that run in a folder."""
    mine = str(data_dir.resolve())
    servers = ("postgres", "redis-server", "valkey-server")
    return [
        process.pid
        for process in psutil.process_iter(["name", "cwd", "cmdline"])
        if process.info["name"] in servers
        and any(str(text or "").startswith(mine) for text in [process.info["cwd"], *(process.info["cmdline"] or [])])
    ]


def ended(opened: Runtime, view: type[View], job_id: int) -> tuple[View, float]:
    """Wait for the end of a job; return it, and its duration in seconds by the clock of the database."""
    while True:
        job = transact(opened.sessions, lambda session: job_views.job(session, view, job_id))
        assert job is not None
        if job.ended:
            assert job.status == "completed", job
            assert job.started_at is not None
            assert job.completed_at is not None
            return job, (job.completed_at - job.started_at).total_seconds()
        time.sleep(0.25)

"""What benchmarks share: pictures, a worker on services of its own, and the time that a job takes."""

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

from PIL import Image

from pixcrawler_worker import runtime, settings
from pixcrawler_worker.db import job_views, server
from pixcrawler_worker.db.job_views import View
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.runtime import Runtime

#: Processes of a worker, and of the floor that it is measured against.
PROCESSES = 2


def picture(number: int, size: int) -> bytes:
    """A JPEG of about `size` bytes that differs for every number."""
    noise = random.Random(number)
    side = int((size / 1.07) ** 0.5)
    small = Image.frombytes("RGB", (side // 4, side // 4), noise.randbytes(3 * (side // 4) ** 2))
    written = io.BytesIO()
    small.resize((side * 2, side * 2), Image.Resampling.BICUBIC).save(written, "JPEG", quality=85)
    return written.getvalue()


@contextmanager
def service(**env: str) -> Iterator[Runtime]:
    """Migrated services in a folder of their own, named in the environment, with a runtime on them."""
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
def worker() -> Iterator[int]:
    """A worker with as many processes as the floor has; its main process."""
    command = [sys.executable, "-m", "celery", "--app", "pixcrawler_worker", "--quiet", "worker"]
    command += ["--concurrency", str(PROCESSES), "--without-gossip", "--without-mingle", "--loglevel", "ERROR"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def ended(opened: Runtime, view: type[View], job_id: int) -> tuple[View, float]:
    """Wait for a job's end; return it, and its seconds from start to end as the database's clock has them."""
    while True:
        job = transact(opened.sessions, lambda session: job_views.job(session, view, job_id))
        assert job is not None
        if job.ended:
            assert job.status == "completed", job
            assert job.started_at is not None
            assert job.completed_at is not None
            return job, (job.completed_at - job.started_at).total_seconds()
        time.sleep(0.25)

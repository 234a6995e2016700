"""The Procfile, started as a process manager starts it: migrations, a worker, and Flower in a browser."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from acceptance_stack import Stack, send, url_list, wait_for_server
from browser import look, requires_chromium
from sqlalchemy import Engine

from pixcrawler_worker.db import session
from pixcrawler_worker.domain.messages import Task

ROOT = Path(__file__).parents[2]
PASSWORD = "pass-of-flower"
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def honcho(env: dict[str, str], *names: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            [BIN / "honcho", "--procfile", ROOT / "Procfile", "start", *names],
            env=env,
            cwd=log.parent,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=40)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def empty(stack: Stack, empty_database_url: str) -> Iterator[Stack]:
    """The same, with an empty database."""
    engine: Engine = session.connect(empty_database_url, pool_size=2)
    other = replace(stack, database_url=empty_database_url, sessions=session.sessions(engine)).of_owner()
    with contextlib.closing(other):
        yield other
    engine.dispose()


@requires_chromium
def test_the_procfile_migrates_runs_jobs_and_shows_them_in_flower(empty: Stack) -> None:
    port, log = free_port(), empty.data_dir / "honcho.log"
    env = empty.env | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FLOWER_PORT": str(port),
        "FLOWER_BASIC_AUTH": f"pixcrawler:{PASSWORD}",
        "HOSTNAME": socket.gethostname(),
        "PIXCRAWLER_HEALTH_FILE": str(empty.data_dir / "health"),
    }
    with honcho(env, "release", log=log) as release:
        assert release.wait(timeout=60) == 0, log.read_text()
    listed, _ = url_list(empty.host, good=40, broken=5)
    job_id = empty.make_job(max_images=45)
    flower = f"http://127.0.0.1:{port}"
    with honcho(env, "worker", "flower", log=log):
        wait_for_server(f"{flower}/healthcheck")
        # The health check of the container, as written in docker-compose.yml, succeeds.
        service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]
        _, *check = service["healthcheck"]["test"]
        deadline = time.monotonic() + 30
        while True:
            checked = subprocess.run(check, env=env, cwd=empty.data_dir, capture_output=True, check=False)
            if checked.returncode == 0 or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        send(empty, Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": 9})
        empty.wait(job_id)
        assert empty.job(job_id)["valid_images"] == 40
        inside = flower.replace("://", f"://pixcrawler:{PASSWORD}@")
        workers = look(f"{inside}/workers", "flower-workers")
        assert f"celery@{socket.gethostname()}" in workers
        tasks = look(f"{inside}/tasks", "flower-tasks")
        assert {"pixcrawler.crawl.start", "pixcrawler.crawl.chunk"} <= set(re.findall(r"pixcrawler\.[\w.]+", tasks))
        assert tasks.count("SUCCESS") >= 6
        queues = look(f"{inside}/broker", "flower-queues")
        assert all(f">{queue}<" in queues.replace(" ", "").replace("\n", "") for queue in ("crawl", "maintenance"))

"""`pixcrawler health` beside a real worker: alive, ready, not ready, and ended."""

import os
import subprocess
import time
from pathlib import Path

import preloaded
from acceptance_stack import Stack

NOWHERE = {
    "PIXCRAWLER_BROKER_URL": "redis://127.0.0.1:1/0",
    "PIXCRAWLER_DATABASE_URL": "postgresql://pixcrawler@127.0.0.1:1/pixcrawler?connect_timeout=1",
}


def probe(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run(
        ["pixcrawler", "health", "--file", str(path), *words], env=os.environ, cwd=path.parent, timeout=30
    )


def wait_for(path: Path, text: str, *words: str) -> int:
    """Wait until a probe says something, and return its exit code."""
    deadline = time.monotonic() + 40
    while text not in (done := probe(path, *words)).stdout:
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)
    return done.returncode


def test_a_worker_is_ready_while_it_consumes_and_gone_when_it_has_ended(stack: Stack) -> None:
    path = stack.data_dir / "health"
    with stack.worker(concurrency=1, PIXCRAWLER_HEALTH_FILE=str(path)) as process:
        assert wait_for(path, "is alive and ready", "--ready") == 0
        assert wait_for(path, "is alive and ready") == 0
        process.kill()
        process.wait()
        assert wait_for(path, f"has ended: there is no process {process.pid}") == 1
    with stack.worker(concurrency=1, PIXCRAWLER_HEALTH_FILE=str(path)):
        assert wait_for(path, "is alive and ready", "--ready") == 0
    assert not path.exists()


def test_an_outage_makes_a_worker_not_ready_and_is_no_reason_to_restart_it(stack: Stack) -> None:
    for name, reason in (
        ("PIXCRAWLER_BROKER_URL", "not ready: the broker does not answer"),
        ("PIXCRAWLER_DATABASE_URL", "not ready: the database"),
    ):
        path = stack.data_dir / name
        with stack.worker(concurrency=1, PIXCRAWLER_HEALTH_FILE=str(path), **{name: NOWHERE[name]}):
            assert wait_for(path, reason) == 0
            before = path.stat().st_mtime
            assert wait_for(path, reason, "--ready") == 1
            deadline = time.monotonic() + 20
            while path.stat().st_mtime == before:
                assert time.monotonic() < deadline, "it is written once only"
                time.sleep(0.2)

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from pixcrawler_worker import metrics

#: Serves metrics and starts a child.
SERVING = """
import os, signal, sys
from pixcrawler_worker import metrics
assert metrics.serve(int(sys.argv[1]))
metrics.CHUNKS_REAPED.labels("crawl").inc(2)
if os.fork() == 0:
    print("ready", flush=True)
    sys.stdin.read()
else:
    signal.pause()
"""

#: The steps of a worker that serve metrics, with two children: one counts, the other fills the way to the main process.
COUNTING = """
import os, signal, sys
from pixcrawler_worker import metrics
from pixcrawler_worker.celery import MetricsServer
step = MetricsServer(None)
ends = []
for count in (3, 100_000):
    if (pid := os.fork()) == 0:
        for _ in range(count):
            metrics.count_internal_error("crawl" if count == 3 else "export")
        os._exit(0)
    # What the second one sends too fast is lost, and nothing of the first one.
    ends.append(os.waitpid(pid, 0)[1])
step.start(None)
metrics.count_internal_error("validation")
assert ends == [0, 0]
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        found: int = probe.getsockname()[1]
        return found


@pytest.fixture
def other(port: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that serves metrics, with a child."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVING, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert "ready\n" in process.stdout
        yield process
        process.kill()


def served(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text: str = response.read().decode()
        return text


def test_the_counters_of_the_process_are_served_and_a_taken_port_is_only_logged(
    port: int, other: "subprocess.Popen[str]"
) -> None:
    assert 'pixcrawler_chunks_reaped_total{kind="crawl"} 2.0' in served(port)
    with capture_logs() as logs:
        assert not metrics.serve(port)
    assert [line["event"] for line in logs] == ["metrics are not served"]
    assert other.poll() is None


def test_a_child_that_outlives_the_main_process_does_not_keep_the_port(
    port: int, other: "subprocess.Popen[str]"
) -> None:
    other.kill()
    other.wait(timeout=10)
    assert metrics.serve(port)
    assert "pixcrawler_chunks_reaped" in served(port)


def test_what_children_count_is_served_by_their_main_process(port: int) -> None:
    env = os.environ | {"PIXCRAWLER_METRICS_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-c", COUNTING], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert "ready\n" in process.stdout
            deadline = time.monotonic() + 10
            while 'errors_total{kind="crawl"} 3.0' not in (found := served(port)):
                assert time.monotonic() < deadline, found
                time.sleep(0.05)
            assert 'pixcrawler_internal_errors_total{kind="validation"} 1.0' in found
        finally:
            process.kill()

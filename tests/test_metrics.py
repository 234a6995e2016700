import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pixcrawler_worker import metrics
from pixcrawler_worker.web.hosts import Hosts

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
from pixcrawler_worker.celery.metrics_server import MetricsServer
step = MetricsServer(None)
ends = []
for count in (3, 100_000):
    if (pid := os.fork()) == 0:
        for _ in range(count):
            metrics.count_internal_error("crawl" if count == 3 else "export")
        os._exit(0)
    # What the second one sends too fast waits for its next count, and is lost with its end.
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


#: A child counts faster than its main process reads, then a little more from time to time, until all has arrived.
CATCHING_UP = """
import os, select, time
from prometheus_client import REGISTRY
from pixcrawler_worker import metrics
metrics.collect()
arrived, note = os.pipe()
if os.fork() == 0:
    for number in range(20_000):
        metrics.REJECTIONS.add("crawl", str(number % 100), amount=2)
    while not select.select([arrived], [], [], 0.5)[0]:
        metrics.CHUNK_SECONDS.add("crawl", amount=0.25)
    os._exit(0)
def counted(reason):
    return REGISTRY.get_sample_value("pixcrawler_rejections_total", {"kind": "crawl", "reason": reason})
def seconds():
    return REGISTRY.get_sample_value("pixcrawler_chunk_attempt_seconds_total", {"kind": "crawl"})
until = time.monotonic() + 30
while not seconds() or {counted(str(number)) for number in range(100)} != {400}:
    if time.monotonic() > until:
        break
    time.sleep(0.01)
os.write(note, b"x")
os.wait()
print(counted("0"), counted("50"), counted("99"), seconds() % 0.25)
"""


def test_what_a_child_could_not_send_at_once_comes_with_its_next_count() -> None:
    found = subprocess.run([sys.executable, "-c", CATCHING_UP], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["400.0", "400.0", "400.0", "0.0"]


def test_a_metric_has_a_bounded_number_of_series() -> None:
    for number in range(metrics.MAX_SERIES + 50):
        metrics.MESSAGES_QUARANTINED.add(f"reason {number}")
    (family,) = metrics.MESSAGES_QUARANTINED.collect()
    totals = {sample.labels["reason"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert len(totals) <= metrics.MAX_SERIES + 1
    assert totals[metrics.OTHER] >= 50
    assert "reason 0" in totals
    metrics.MESSAGES_QUARANTINED.clear()


def test_responses_that_limit_requests_are_counted_by_source_and_by_hosts_of_the_settings() -> None:
    def count(source: str, host: str) -> float:
        labels = {"source": source, "host": host}
        return REGISTRY.get_sample_value("pixcrawler_requests_limited_total", labels) or 0

    async def limit(source: str | None, *hosts: str) -> None:
        if source:
            metrics.set_source(source)
        known = Hosts({"cdn.example": 3})
        for host in hosts:
            await asyncio.create_task(_limited(known, host))

    expected = {
        ("openverse", "cdn.example"): 2,
        ("openverse", "upload.wikimedia.org"): 1,
        ("openverse", "other"): 2,
        ("none", "other"): 1,
    }
    # Other tests of this process may have counted, too.
    before = {labels: count(*labels) for labels in expected}
    asyncio.run(limit("openverse", "cdn.example", "cdn.example:8080", "upload.wikimedia.org", "a.example", "b.example"))
    asyncio.run(limit(None, "c.example"))
    assert {labels: count(*labels) - before[labels] for labels in expected} == expected


async def _limited(known: Hosts, host: str) -> None:
    await known.limited(host, None, sent=0)


def test_a_worker_that_has_not_swept_yet_has_not_been_without_a_sweep_since_1970() -> None:
    metrics.LAST_SWEEP.set(0)
    metrics.prepare((), steps=(), faults=())
    swept = REGISTRY.get_sample_value("pixcrawler_last_sweep_timestamp_seconds")
    assert swept is not None
    assert time.time() - swept < 100

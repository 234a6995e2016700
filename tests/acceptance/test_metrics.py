"""The endpoints of metrics during a job: that of a worker, and `pixcrawler metrics`."""

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping

from acceptance_stack import PIXCRAWLER, Stack, send, url_list
from prometheus_client.parser import text_string_to_metric_families

from pixcrawler_worker.domain.messages import Task

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def scrape(port: int, *, seconds: float = 20) -> Samples:
    """Return the samples of an endpoint, as Prometheus' own parser reads them."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                text = response.read().decode()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"pixcrawler_{name}", tuple(sorted(labels.items()))))


@contextlib.contextmanager
def exporter(stack: Stack, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `pixcrawler metrics`."""
    with (stack.data_dir / "metrics.log").open("wb") as log:
        process = subprocess.Popen(
            [PIXCRAWLER, "metrics", "--port", str(port)], env=stack.env, cwd=stack.data_dir, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_a_job_is_seen_in_both_endpoints_and_in_one_line_of_the_log_per_chunk(stack: Stack) -> None:
    urls, reasons = url_list(stack.host, good=8, broken=10)
    urls.append(f"{stack.host}/good/0.jpg")
    job_id = stack.make_job(max_images=100)
    worker_port, port = free_port(), free_port()
    with exporter(stack, port) as process:
        before = scrape(port)
        assert value(before, "jobs", kind="crawl", state="pending") == 1
        assert value(before, "queue_consumers", queue="crawl") == 0
        assert value(before, "state_read_failed", part="workers") == 0
        with stack.worker(PIXCRAWLER_METRICS_PORT=str(worker_port), PIXCRAWLER_LOG_FORMAT="json"):
            send(stack, Task.CRAWL_START, job_id, {"sources": ["urls"], "urls": urls, "chunk_size": 60})
            stack.wait(job_id, until=lambda row: row["active_chunks"] > 0)
            during = scrape(worker_port)
            assert value(during, "jobs", kind="crawl", state="running") == 1
            assert value(during, "chunks", kind="crawl", state="running") == 1
            stack.wait(job_id)
            # What was read for the last request is fresh for 5 seconds, and for 20 times as long as reading took;
            # children send without waiting.
            read_seconds = value(during, "state_read_seconds", part="jobs")
            assert read_seconds is not None
            deadline = time.monotonic() + max(5, 20 * read_seconds) + 10
            while value(after := scrape(worker_port), "jobs", kind="crawl", state="running"):
                assert time.monotonic() < deadline
                time.sleep(0.3)
        assert process.poll() is None
    assert process.returncode == 0
    check_samples(stack, job_id, after, reasons)
    check_log(stack, job_id, reasons)


def check_samples(stack: Stack, job_id: int, after: Samples, reasons: Mapping[str, int]) -> None:
    assert value(after, "jobs", kind="crawl", state="completed") == 1
    assert value(after, "images_total", kind="crawl", outcome="stored") == 8
    assert value(after, "images_total", kind="crawl", outcome="rejected") == 11
    found = {
        dict(labels)["reason"]: number
        for (name, labels), number in after.items()
        if name == "pixcrawler_rejections_total"
    }
    assert found == {**reasons, "duplicate_url": 1}
    assert value(after, "chunk_attempts_total", kind="crawl", outcome="completed") == 1
    seconds = value(after, "chunk_attempt_seconds_total", kind="crawl")
    assert seconds is not None
    assert seconds > 0
    downloaded = value(after, "bytes_total", kind="crawl")
    (stored,) = stack.query("SELECT sum(file_size) FROM images WHERE crawl_job_id = %s", job_id)[0]
    assert downloaded is not None
    assert downloaded >= stored
    swept = value(after, "last_sweep_timestamp_seconds")
    assert swept is not None
    assert time.time() - swept < 30
    # Counters that alerts watch are there before the first of what they count.
    assert value(after, "chunks_reaped_total", kind="export") == 0
    assert value(after, "decoder_deaths_total", cause="crash") == 0
    assert value(after, "host_closings_total", cause="limited") == 0
    assert value(after, "requests_limited_total", source="none", host="other") == 0
    host = re.escape(stack.host.removeprefix("http://"))
    # Neither hosts nor ids of jobs become labels.
    assert not [labels for _, labels in after if any(re.search(host, text) for _, text in labels)]


def check_log(stack: Stack, job_id: int, reasons: Mapping[str, int]) -> None:
    lines = [json.loads(line) for line in stack.log().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["event"] == "chunk completed"]
    assert line["level"] == "warning"
    assert line["why"] == "most of it was rejected"
    assert (line["kind"], line["job"], line["stored"], line["rejected"]) == ("crawl", job_id, 8, 11)
    assert line["top_reason"] == "not_an_image"
    assert line["reasons"][line["top_reason"]] == max([*reasons.values(), 1])
    assert list(line["slowest_hosts"]) == [stack.host.removeprefix("http://")]
    assert 0 < line["seconds"] < 60

"""Hosts of every temper and two real workers with the default limits: `make test-scale`."""

import contextlib
import json
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
from acceptance_stack import Stack, send
from fakes import polite
from preloaded import Process

from pixcrawler_worker.domain.messages import Task

pytestmark = pytest.mark.scale

#: As operators have it, but for sweeps that find due chunks sooner.
DEFAULTS = {"PIXCRAWLER_FETCH_SECONDS": "30", "PIXCRAWLER_LEASE_SECONDS": "60", "PIXCRAWLER_SWEEP_SECONDS": "1"}


@contextlib.contextmanager
def two_workers(stack: Stack, **env: str) -> Iterator[None]:
    with worker(stack, **env), worker(stack, **env):
        yield


def worker(stack: Stack, **env: str) -> contextlib.AbstractContextManager[Process]:
    return stack.worker(concurrency=2, **{**DEFAULTS, **env})


def start(stack: Stack, urls: Sequence[str], *, chunk_size: int = 100, max_images: int | None = None) -> int:
    job_id = stack.make_job(max_images=max_images or len(urls))
    send(stack, Task.CRAWL_START, job_id, {"urls": list(urls), "chunk_size": chunk_size, "max_rounds": 1})
    return job_id


def stored(stack: Stack, job_id: int) -> set[str]:
    return {url for (url,) in stack.query("SELECT original_url FROM images WHERE crawl_job_id = %s", job_id)}


def seconds(stack: Stack, urls: Sequence[str], *, images: int, chunk_size: int = 100) -> float:
    begun = time.monotonic()
    job_id = start(stack, urls, chunk_size=chunk_size)
    stack.wait(job_id, seconds=250)
    assert stack.job(job_id)["valid_images"] == images, stack.reasons(job_id)
    return time.monotonic() - begun


def report(capsys: pytest.CaptureFixture[str], **measured: object) -> None:
    with capsys.disabled():
        sys.stdout.write(f"{json.dumps(measured)}\n")


def test_a_host_that_asks_for_20_seconds_beside_a_healthy_one(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    with polite.serving(polite.closed_after(30, seconds=20)) as busy, polite.serving() as healthy, two_workers(stack):
        urls = busy.urls("busy", 200) + healthy.urls("healthy", 200)
        random.Random(1).shuffle(urls)
        job_id = start(stack, urls)
        stack.wait(job_id, until=lambda _: stored(stack, job_id) >= set(healthy.urls("healthy", 200)))
        assert time.monotonic() < busy.closed_until, "the healthy one's images are in before the first retry"
        # No process waits for the host: every chunk is queued.
        stack.wait(job_id, until=lambda row: not row["active_chunks"])
        assert time.monotonic() < busy.closed_until
        stack.wait(job_id)
        assert stored(stack, job_id) == set(urls)
        assert busy.forbidden == []
        report(capsys, requests=len(busy.requests), forbidden=busy.forbidden)


def test_two_workers_and_a_limit_of_two_connections(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    with polite.serving(seconds=0.02) as host:
        limit = f"{host.base.removeprefix('http://')}=2"
        with two_workers(stack, PIXCRAWLER_HOST_CONNECTIONS=limit):
            took = seconds(stack, host.urls("limited", 400), images=400, chunk_size=25)
        assert host.most_connections == 2
        report(capsys, seconds=round(took, 1), most_connections=host.most_connections)


@pytest.mark.parametrize("kind", ["silent", "refused"])
def test_a_dead_host_among_100_does_not_make_a_job_much_longer(
    stack: Stack, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Each host takes so long for its images that the job takes as long as one of that many hosts does."""
    with contextlib.ExitStack() as opened:
        hosts = [opened.enter_context(polite.serving(seconds=2.0)) for _ in range(99)]
        dead = opened.enter_context(polite.serving(dead=True))
        base = dead.base if kind == "silent" else "http://127.0.0.1:1"
        with two_workers(stack):
            seconds(stack, hosts[0].urls("warm", 4), images=4)
            alone = seconds(stack, mixed(host.urls("alone", 10) for host in hosts), images=990)
            lists = [*(host.urls("beside", 10) for host in hosts), [f"{base}/{number}.jpg" for number in range(10)]]
            beside = seconds(stack, mixed(lists), images=990)
    report(capsys, kind=kind, alone=round(alone, 1), beside=round(beside, 1), ratio=round(beside / alone, 2))
    assert beside <= 1.3 * alone


def test_90_dripping_files_and_10_good_ones(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    with polite.serving() as host, worker(stack):
        urls = host.urls("drip", 90) + host.urls("good", 10)
        begun = time.monotonic()
        job_id = start(stack, urls)
        stack.wait(job_id, until=lambda row: row["valid_images"] == 10 or row["completed_chunks"], seconds=250)
        first = time.monotonic() - begun
        stack.wait(job_id, seconds=290)
        assert stored(stack, job_id) == set(host.urls("good", 10))
        assert stack.reasons(job_id) == {"timeout": 90}
        (attempts,) = stack.query("SELECT fence FROM pixcrawler.chunks WHERE crawl_job_id = %s", job_id)[0]
        report(capsys, images_after=round(first, 1), ended_after=round(time.monotonic() - begun, 1), fence=attempts)


def test_10000_files_of_a_dead_host_end_soon(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    with polite.serving(dead=True) as host, two_workers(stack):
        took = seconds(stack, host.urls("dead", 10_000), images=0)
        report(capsys, seconds=round(took, 1), requests=len(host.requests))
    assert took < 120


def test_3000_hosts_with_1024_open_files(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with polite.serving(seconds=0.2, everywhere=True) as host:
        port = host.base.rpartition(":")[2]
        urls = [f"http://127.{number // 250 + 1}.{number % 250 + 1}.7:{port}/a.jpg?{number}" for number in range(3000)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        try:
            with worker(stack) as process:
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                took = seconds(stack, urls, images=3000, chunk_size=1000)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        report(capsys, seconds=round(took, 1), most_connections=host.most_connections)


def mixed(lists: Iterator[list[str]] | list[list[str]]) -> list[str]:
    """Return the URLs of all lists, one of each after the other."""
    return [url for row in zip(*lists, strict=True) for url in row]

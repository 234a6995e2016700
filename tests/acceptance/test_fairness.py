"""Jobs side by side on the two processes of a real worker: `make test-scale`.

Every image takes its host 0.2 s, so that what is measured are turns and not cores.
"""

import itertools
import json
import sys
import time
from collections.abc import Sequence

import pytest
from acceptance_stack import Stack, send

from pixcrawler_worker.domain.messages import Task

pytestmark = pytest.mark.scale

_numbers = itertools.count()


def good(host: str, count: int) -> list[str]:
    """URLs that no other job has."""
    return [f"{host}/good/{next(_numbers)}.jpg" for _ in range(count)]


def start(stack: Stack, urls: Sequence[str], *, chunk_size: int = 1, project: int | None = None) -> int:
    """Start a job of as many chunks as there are URLs, unless the chunks are larger; return its id."""
    values = {} if project is None else {"project_id": project}
    job_id = stack.make_job(max_images=len(urls), **values)
    send(stack, Task.CRAWL_START, job_id, {"urls": list(urls), "chunk_size": chunk_size, "max_rounds": 1})
    return job_id


def seconds(stack: Stack, urls: Sequence[str], *, chunk_size: int = 1) -> float:
    """Seconds that a job takes from its message to its end."""
    begun = time.monotonic()
    job_id = start(stack, urls, chunk_size=chunk_size)
    stack.wait(job_id, seconds=100)
    assert stack.job(job_id)["valid_images"] == len(urls)
    return time.monotonic() - begun


def report(capsys: pytest.CaptureFixture[str], **measured: float) -> None:
    with capsys.disabled():
        sys.stdout.write(f"{json.dumps({name: round(value, 2) for name, value in measured.items()})}\n")


def test_a_job_of_10_chunks_beside_one_of_5000_takes_less_than_twice_its_time(
    stack: Stack, slow_host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with stack.worker():
        seconds(stack, good(slow_host, 10))
        alone = [seconds(stack, good(slow_host, 10)) for _ in range(3)]
        large = start(stack, good(slow_host, 5000))
        stack.wait(large, until=lambda row: row["completed_chunks"] >= 4)
        beside = [seconds(stack, good(slow_host, 10)) for _ in range(5)]
        done = stack.job(large)["completed_chunks"]
        send(stack, Task.CRAWL_CANCEL, large, queue="maintenance")
        stack.wait(large)
    report(capsys, alone=min(alone), slowest=max(beside), median=sorted(beside)[2], done_of_large=done)
    assert sorted(beside)[2] < 2 * min(alone)


def test_one_job_of_a_user_beside_100_of_another_takes_less_than_twice_its_time(
    stack: Stack, slow_host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with stack.worker():
        seconds(stack, good(slow_host, 10))
        alone = [seconds(stack, good(slow_host, 10)) for _ in range(3)]
        first = start(stack, good(slow_host, 20))
        (project,) = stack.query("SELECT project_id FROM crawl_jobs WHERE id = %s", first)[0]
        many = [first, *(start(stack, good(slow_host, 20), project=project) for _ in range(99))]
        stack.wait(many[-1], until=lambda row: row["status"] == "running")
        beside = [seconds(stack, good(slow_host, 10)) for _ in range(5)]
        for job_id in many:
            send(stack, Task.CRAWL_CANCEL, job_id, queue="maintenance")
        for job_id in many:
            stack.wait(job_id)
    report(capsys, alone=min(alone), slowest=max(beside), median=sorted(beside)[2])
    assert sorted(beside)[2] < 2 * min(alone)

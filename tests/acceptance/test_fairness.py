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


def test_a_job_beside_one_whose_hosts_are_dead_takes_less_than_twice_its_time(
    stack: Stack, slow_host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dead hosts accept connections and send nothing after the first bytes: a chunk of theirs takes 21 s."""
    with stack.worker(PIXCRAWLER_FETCH_SECONDS="30"):
        seconds(stack, good(slow_host, 40), chunk_size=4)
        alone = [seconds(stack, good(slow_host, 40), chunk_size=4) for _ in range(3)]
        dead = start(stack, [f"{stack.host}/fault/slow/{number}" for number in range(400)], chunk_size=4)
        beside = []
        for _ in range(5):
            stack.wait(dead, until=lambda row: row["active_chunks"] == 2)
            time.sleep(2)
            beside.append(seconds(stack, good(slow_host, 40), chunk_size=4))
        send(stack, Task.CRAWL_CANCEL, dead, queue="maintenance")
        stack.wait(dead)
    report(capsys, alone=min(alone), slowest=max(beside), median=sorted(beside)[2])
    assert sorted(beside)[2] < 2 * min(alone)


def test_candidates_of_slow_hosts_are_tried_to_the_end_although_other_jobs_wait(
    stack: Stack, slow_host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hosts keep giving the process away to jobs that come and go, and still nothing of it is lost."""
    with stack.worker(PIXCRAWLER_FETCH_SECONDS="4"):
        urls = [f"{stack.host}/fault/slow/{number}" for number in range(8)] + good(slow_host, 8)
        mixed = start(stack, urls, chunk_size=4)
        begun = time.monotonic()
        others = 0
        while stack.job(mixed)["status"] in {"pending", "running"}:
            seconds(stack, good(slow_host, 10))
            others += 1
            assert time.monotonic() - begun < 100
    yielded = stack.query(
        "SELECT count(*) FROM pixcrawler.chunks WHERE crawl_job_id = %s AND payload->>'yields' IS NOT NULL", mixed
    )[0][0]
    report(capsys, seconds=time.monotonic() - begun, others=others, yielded=yielded)
    assert yielded > 0
    assert stack.reasons(mixed) == {"timeout": 8}
    assert stack.job(mixed)["valid_images"] == 8


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

"""Chunks whose hosts are silent: they leave their candidates to a later chunk while other jobs wait, and lose none."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import ledger
import pytest
from doubles import first, image_urls, start, status, the_chunk, urls_of
from factories import start_job
from fakes.hosts import HostileServer

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import crawl_history
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef, JobTable
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.jobs import executor
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.policy import Policy

pytestmark = pytest.mark.usefixtures("sound")

#: Seconds after which a silent host is given up.
GIVEN_UP = 3.0


@pytest.fixture
def hurried(runtime: Runtime) -> Iterator[Runtime]:
    """A runtime whose downloads may take three seconds."""
    policy = Policy(
        user_agent="tests", allowed_networks=runtime.settings.allowed_networks, deadline=timedelta(seconds=GIVEN_UP)
    )
    downloader = Downloader(policy)
    yield replace(runtime, downloader=downloader)
    runtime.run(downloader.aclose())


def silent(host: HostileServer, count: int) -> list[str]:
    return [host.url(f"/fault/slow/{number}") for number in range(count)]


def seconds(runtime: Runtime, message: ChunkMessage) -> float:
    """Run a chunk and return how long it took."""
    begun = time.monotonic()
    executor.run(runtime, CRAWL, message.chunk_id)
    return time.monotonic() - begun


def payload(runtime: Runtime, ref: JobRef) -> dict[str, Any]:
    """What the job's only chunk has still to do."""
    return the_chunk(runtime, ref).payload


def result(runtime: Runtime, ref: JobRef) -> dict[str, Any]:
    """What the job's only chunk has brought."""
    return the_chunk(runtime, ref).result or {}


def drive(runtime: Runtime, messages: list[ChunkMessage], *, limits: JobLimits = LIMITS) -> None:
    waiting = deque(messages)
    while waiting:
        waiting.extend(executor.run(runtime, CRAWL, waiting.popleft().chunk_id, limits=limits))


@pytest.mark.parametrize("kind", [CRAWL_JOBS, EXPORT_JOBS], ids=repr)
def test_a_chunk_of_silent_hosts_ends_when_another_job_waits(
    hurried: Runtime, host: HostileServer, kind: JobTable
) -> None:
    ref, messages = start(hurried, [*silent(host, 2), *image_urls(host, f"waits-{kind.name}", 1)])
    start_job(hurried.sessions, kind=kind)
    seconds(hurried, first(messages))
    chunk = the_chunk(hurried, ref)
    assert (chunk.state, chunk.attempt) == ("queued", 0)
    assert (result(hurried, ref)["stored"], result(hurried, ref)["offered"]) == (1, 1)
    assert (chunk.payload["only"], chunk.payload["quota"], chunk.payload["yields"]) == ([0, 1], 99, 1)


def test_it_ends_when_a_message_about_a_job_waits(hurried: Runtime, host: HostileServer) -> None:
    ref, messages = start(hurried, silent(host, 2))
    seconds(replace(hurried, requests_wait=lambda: True), first(messages))
    assert payload(hurried, ref)["yields"] == 1


def test_it_stays_when_no_other_job_could_use_the_process(hurried: Runtime, host: HostileServer) -> None:
    ref, messages = start(hurried, silent(host, 2), chunk_size=2)
    delayed, ended = start_job(hurried.sessions), start_job(hurried.sessions)
    with hurried.sessions.begin() as session:
        claim = ledger.claim(hurried.sessions, ledger.ids_of(hurried.sessions, delayed)[0])
        chunks.release(session, claim, error="busy", jitter=0.5)
    ledger.cancel(hurried.sessions, ended)
    assert seconds(hurried, first(messages)) >= GIVEN_UP
    chunk = the_chunk(hurried, ref)
    assert chunk.state == "completed"
    assert (result(hurried, ref)["reasons"], result(hurried, ref)["left"]) == ({"timeout": 2}, [])


def test_every_candidate_is_tried_in_the_end_in_the_same_round(hurried: Runtime, host: HostileServer) -> None:
    good = image_urls(host, "tried", 2)
    ref, messages = start(hurried, [*silent(host, 3), *good], job={"max_images": 5}, max_rounds=1)
    start_job(hurried.sessions)
    drive(hurried, messages)
    assert status(hurried, ref) is JobStatus.COMPLETED
    assert urls_of(hurried, ref) == set(good)
    with hurried.sessions.begin() as session:
        assert crawl_history.reasons(session, ref.id) == {"timeout": 3}
    assert (result(hurried, ref)["stored"], payload(hurried, ref)["yields"]) == (2, 1)


def test_the_next_chunk_of_such_a_job_waits_less(hurried: Runtime, host: HostileServer) -> None:
    ref, messages = start(hurried, silent(host, 4), chunk_size=2)
    start_job(hurried.sessions)
    slow, fast = (seconds(hurried, message) for message in messages)
    assert fast < slow
    assert [chunk.payload["yields"] for chunk in ledger.chunks_of(hurried.sessions, ref)] == [1, 1]


def test_a_chunk_that_has_made_way_often_enough_stays(hurried: Runtime, host: HostileServer) -> None:
    ref, messages = start(hurried, silent(host, 2), max_rounds=1)
    other = start_job(hurried.sessions)
    executor.run(hurried, CRAWL, first(messages).chunk_id)
    ledger.execute(hurried.sessions, "UPDATE pixcrawler.chunks SET payload = payload || '{\"yields\": 3}'")
    with hurried.sessions.begin() as session:
        claim = chunks.claim(session, CRAWL_JOBS, first(messages).chunk_id, owner="test", lease=timedelta(minutes=1))
        assert claim is not None
        assert CRAWL.prepare(hurried, session, claim).stall is None
        session.rollback()
    ledger.execute(hurried.sessions, "DELETE FROM crawl_jobs WHERE id IN (:one, :two)", one=ref.id, two=other.id)


def test_what_the_budget_does_not_last_for_is_left_to_another_chunk(runtime: Runtime, host: HostileServer) -> None:
    good = image_urls(host, "budget", 12)
    narrow = replace(runtime, settings=runtime.settings.model_copy(update={"fetch_concurrency": 2}))
    ref, messages = start(narrow, good, job={"max_images": 12}, max_rounds=1)
    drive(narrow, messages, limits=JobLimits(chunk_budget=timedelta(0)))
    assert urls_of(narrow, ref) == set(good)
    chunk = the_chunk(narrow, ref)
    assert (chunk.state, chunk.attempt, result(narrow, ref)["stored"]) == ("completed", 1, 12)
    assert chunk.payload["only"] is not None, "it was done in parts"


@pytest.mark.parametrize("looks", [0, 6])
def test_a_process_that_is_to_end_leaves_the_rest_at_no_cost(runtime: Runtime, host: HostileServer, looks: int) -> None:
    good = image_urls(host, f"stopping-{looks}", 12)
    narrow = replace(runtime, settings=runtime.settings.model_copy(update={"fetch_concurrency": 2}))
    ref, messages = start(narrow, good, job={"max_images": 12}, max_rounds=1)
    looked = 0

    def is_stopping() -> bool:
        nonlocal looked
        looked += 1
        return looked > looks

    executor.run(replace(narrow, is_stopping=is_stopping), CRAWL, first(messages).chunk_id)
    chunk = the_chunk(narrow, ref)
    assert (chunk.state, chunk.attempt, chunk.crash_count) == ("queued", 0, 0)
    stored = len(urls_of(narrow, ref))
    assert stored == 0 if looks == 0 else 0 < stored < 12
    drive(narrow, messages)
    assert urls_of(narrow, ref) == set(good)

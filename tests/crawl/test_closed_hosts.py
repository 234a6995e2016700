"""Hosts that limit requests, are down, drip, or allow few connections: no image is lost, and no host is pressed."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import ledger
import pytest
from aiohttp import web
from doubles import (
    StubSource,
    WatchedDecoder,
    WatchedStorage,
    counted,
    image_urls,
    query,
    start,
    status,
    the_chunk,
    urls_of,
    with_sources,
)
from fakes import polite
from fakes.hosts import HostileServer, jpeg
from fakes.polite import PoliteHost
from ledger import at_once
from pydantic import SecretStr

from pixcrawler_worker.crawl.display import CRAWL_DISPLAY
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import candidates, crawl_history, job_views
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import OutageError, TransientError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.jobs import executor, submission, sweeper
from pixcrawler_worker.jobs.limits import LIMITS, JobLimits
from pixcrawler_worker.runtime import Runtime, connect
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.policy import Policy

pytestmark = pytest.mark.usefixtures("sound")


@pytest.fixture
def fresh(runtime: Runtime) -> Iterator[Runtime]:
    """A runtime that knows no host yet."""
    downloader = Downloader(Policy(user_agent="tests", allowed_networks=runtime.settings.allowed_networks))
    yield replace(runtime, downloader=downloader)
    runtime.run(downloader.aclose())


def impatient(runtime: Runtime, **changes: Any) -> Runtime:
    policy = Policy(user_agent="tests", allowed_networks=runtime.settings.allowed_networks, **changes)
    return replace(runtime, downloader=Downloader(policy))


def drive(
    runtime: Runtime, ref: JobRef, messages: list[ChunkMessage], *, seconds: float = 60, limits: JobLimits = LIMITS
) -> None:
    """Run a job to its end as workers do, with sweeps for what is due later."""
    waiting = deque(messages)
    until = time.monotonic() + seconds
    while status(runtime, ref) is JobStatus.RUNNING:
        assert time.monotonic() < until, "the job does not end"
        if not waiting:
            time.sleep(0.05)
            waiting.extend(sweeper.sweep(runtime, [CRAWL]).messages)
        else:
            waiting.extend(executor.run(runtime, CRAWL, waiting.popleft().chunk_id, limits=limits))


def reasons(runtime: Runtime, ref: JobRef) -> dict[str, int]:
    with runtime.sessions.begin() as session:
        return crawl_history.reasons(session, ref.id)


# Rate limits


@pytest.mark.parametrize("retry_after", ["1", "0.3", "0", None])
def test_every_image_of_a_host_that_allows_ten_a_second_arrives(fresh: Runtime, retry_after: str | None) -> None:
    with polite.serving(polite.per_second(20, retry_after)) as host:
        ref, messages = start(fresh, host.urls(f"rate-{retry_after}", 40), job={"max_images": 40})
        drive(fresh, ref, messages)
        assert urls_of(fresh, ref) == set(host.urls(f"rate-{retry_after}", 40))
        assert reasons(fresh, ref) == {}
        assert len(host.requests) < 2 * 40, "it is not asked again and again"


@pytest.mark.parametrize("status_code", [429, 503])
def test_a_host_that_asks_for_a_pause_gets_it_and_no_process_waits(
    fresh: Runtime, host: HostileServer, status_code: int
) -> None:
    with polite.serving(polite.closed_after(3, seconds=12, status=status_code)) as busy:
        good, late = image_urls(host, f"beside-{status_code}", 20), busy.urls("late", 20)
        mixed = [url for pair in zip(late, good, strict=True) for url in pair]
        ref, messages = start(fresh, mixed, job={"max_images": 40})
        begun = time.monotonic()
        assert executor.run(fresh, CRAWL, messages[0].chunk_id) == []
        assert time.monotonic() - begun < 8, "no process sleeps until the host opens"
        assert urls_of(fresh, ref) >= set(good), "the others are in before its first retry"
        chunk = the_chunk(fresh, ref)
        assert (chunk.state, chunk.attempt) == ("queued", 0)
        drive(fresh, ref, [])
        assert urls_of(fresh, ref) == set(mixed)
        assert busy.forbidden == []


def test_what_waits_for_whom_is_shown(fresh: Runtime) -> None:
    with polite.serving(polite.closed_after(1, seconds=60)) as busy:
        ref, messages = start(fresh, busy.urls("shown", 12), job={"max_images": 12})
        executor.run(fresh, CRAWL, messages[0].chunk_id)
        with fresh.sessions.begin() as session:
            job = job_views.job(session, CRAWL_DISPLAY.view, ref.id)
            assert job is not None
            details = CRAWL_DISPLAY.details(session, job)
            rows = dict(CRAWL_DISPLAY.rows(job, details))
        (waiting,) = details["waiting"]
        stored = len(urls_of(fresh, ref))
        assert (waiting["host"], waiting["candidates"]) == (busy.base.removeprefix("http://"), 12 - stored)
        assert f"{12 - stored}  for {waiting['host']} until " in rows["waiting"][0]


def test_a_host_that_asks_for_too_long_a_pause_is_not_waited_for(fresh: Runtime, host: HostileServer) -> None:
    with polite.serving(polite.closed_after(0, seconds=3600)) as busy:
        good = image_urls(host, "too-long", 3)
        ref, messages = start(fresh, [*busy.urls("too-long", 10), *good])
        drive(fresh, ref, messages)
        assert urls_of(fresh, ref) == set(good)
        assert reasons(fresh, ref) == {"rate_limited": 10}
        assert len(busy.requests) <= 8


def test_a_host_that_only_ever_limits_is_given_up(fresh: Runtime) -> None:
    with polite.serving(polite.per_second(0, "0.1")) as host:
        ref, messages = start(fresh, host.urls("never", 5))
        drive(fresh, ref, messages)
        assert reasons(fresh, ref) == {"rate_limited": 5}
        assert len(host.requests) <= 30


# Hosts that are down


def test_a_dead_host_costs_the_others_nothing_and_its_candidates_may_be_retried(
    fresh: Runtime, host: HostileServer
) -> None:
    dead = [f"http://127.0.0.1:1/{number}.jpg" for number in range(50)]
    good = image_urls(host, "beside-dead", 20)
    ref, messages = start(fresh, [*dead, *good], max_rounds=1, respect_robots=False)
    begun = time.monotonic()
    drive(fresh, ref, messages)
    assert time.monotonic() - begun < 10
    assert urls_of(fresh, ref) == set(good)
    assert sum(reasons(fresh, ref).values()) == 50
    assert set(reasons(fresh, ref)) <= {"host_unavailable", "connect_failed"}
    assert set(query(fresh, "SELECT DISTINCT retriable FROM pixcrawler.crawl_candidates WHERE reason IS NOT NULL")) == {
        (True,)
    }


def test_a_silent_host_is_asked_a_few_times_and_not_for_each_candidate(runtime: Runtime) -> None:
    hurried = impatient(runtime, idle_timeout=timedelta(seconds=1))
    with polite.serving(seconds=60) as host:
        ref, messages = start(hurried, host.urls("silent", 40), max_rounds=1, respect_robots=False)
        drive(hurried, ref, messages)
        assert sum(reasons(hurried, ref).values()) == 40
        assert set(reasons(hurried, ref)) <= {"host_unavailable", "timeout"}
        assert len(host.requests) <= 20
    runtime.run(hurried.downloader.aclose())


@pytest.mark.parametrize("prefix", ["drip", "silent"])
def test_slow_files_do_not_keep_the_others_of_their_host_waiting(fresh: Runtime, prefix: str) -> None:
    """With the default limits, and the slow ones first."""
    with polite.serving() as host:
        ref, messages = start(fresh, [*host.urls(prefix, 30), *host.urls("good", 10)], job={"max_images": 10})
        begun = time.monotonic()
        drive(fresh, ref, messages)
        assert urls_of(fresh, ref) == set(host.urls("good", 10))
        assert time.monotonic() - begun < 25


def test_a_host_that_comes_back_soon_loses_nothing(fresh: Runtime) -> None:
    def away(host: PoliteHost, request: Any) -> None:
        if time.monotonic() < host.closed_until:
            request.transport.abort()

    with polite.serving(away) as host:
        listed = host.urls("restarts", 30)
        host.closed_until = time.monotonic() + 1.5
        ref, messages = start(fresh, listed, job={"max_images": 30})
        drive(fresh, ref, messages)
        assert urls_of(fresh, ref) == set(listed)


def test_dripping_files_end_as_timeouts_within_the_first_attempt(runtime: Runtime) -> None:
    with polite.serving() as host:
        ref, messages = start(runtime, [*host.urls("drip", 20), *host.urls("good", 5)], max_rounds=1)
        hurried = impatient(runtime, deadline=timedelta(seconds=6))
        executor.run(hurried, CRAWL, messages[0].chunk_id)
        assert urls_of(hurried, ref) == set(host.urls("good", 5))
        assert reasons(hurried, ref) == {"timeout": 20}
        assert status(hurried, ref) is JobStatus.COMPLETED
        runtime.run(hurried.downloader.aclose())


# Limits that workers share


def test_two_workers_never_open_more_connections_than_a_host_allows(runtime: Runtime, services: Services) -> None:
    with polite.serving(seconds=0.02) as host:
        name = host.base.removeprefix("http://")
        settings = runtime.settings.model_copy(
            update={"broker_url": SecretStr(services.broker_url), "host_connections": {name: 2}}
        )
        ref, messages = start(runtime, host.urls("shared", 60), job={"max_images": 60}, chunk_size=15)
        queue = deque(messages)

        def work() -> None:
            with closing(connect(settings)) as own:
                until = time.monotonic() + 60
                while status(own, ref) is JobStatus.RUNNING and time.monotonic() < until:
                    try:
                        message = queue.popleft()
                    except IndexError:
                        time.sleep(0.05)
                        queue.extend(sweeper.sweep(own, [CRAWL]).messages)
                    else:
                        queue.extend(executor.run(own, CRAWL, message.chunk_id))

        at_once(work, work)
        assert urls_of(runtime, ref) == set(host.urls("shared", 60))
        assert host.most_connections == 2


@pytest.mark.scale
@pytest.mark.timeout(400)
@pytest.mark.parametrize("retry_after", ["1", None])
def test_what_fails_once_costs_no_image_in_the_end(fresh: Runtime, retry_after: str | None) -> None:
    """60 URLs answer 429 the first time, 40 do not answer: what is missing then is listed, and a retry brings it."""

    def rule(host: PoliteHost, request: web.BaseRequest) -> web.Response | None:
        headers = {"Retry-After": retry_after} if retry_after else {}
        is_first = host.count(request.path) == 1
        return web.Response(status=429, headers=headers) if "/limited" in request.path and is_first else None

    with polite.serving(rule) as host:
        listed = [
            url
            for name, count in (("good", 60), ("limited", 60), ("once-silent", 40))
            for url in host.urls(name, count)
        ]
        ref, messages = start(fresh, listed, job={"max_images": 160})
        drive(fresh, ref, messages, seconds=300)
        with fresh.sessions.begin() as session:
            missing = {one.url: one.reason for one in candidates.failures(session, ref.id)}
        assert missing == dict.fromkeys(set(listed) - urls_of(fresh, ref), "timeout")
        assert all("/once-silent" in url for url in missing if url)
        drive(fresh, ref, submission.retry(fresh, CRAWL, ref.id))
        assert (urls_of(fresh, ref), reasons(fresh, ref)) == (set(listed), {})
        assert counted(fresh, ref) == (160, 160, 160)


# Trouble of the chunk


@pytest.mark.parametrize("error", [OutageError("the storage is full"), TransientError("out of open files")])
def test_what_a_chunk_has_is_kept_when_trouble_comes_in_the_middle(
    runtime: Runtime, host: HostileServer, error: TransientError
) -> None:
    stored = 0

    def put(_: str) -> None:
        nonlocal stored
        stored += 1
        if 3 < stored <= 6:
            raise error

    listed = image_urls(host, f"trouble-{type(error).__name__}", 10)
    narrow = runtime.settings.model_copy(update={"fetch_concurrency": 1})
    troubled = replace(runtime, settings=narrow, storage=WatchedStorage(runtime, put=put))
    ref, messages = start(troubled, listed, job={"max_images": 10})
    executor.run(troubled, CRAWL, messages[0].chunk_id)
    chunk = the_chunk(runtime, ref)
    assert (chunk.state, chunk.attempt, len(urls_of(runtime, ref))) == ("queued", 0, 3)
    assert counted(runtime, ref) == (3, 3, 3), "what was downloaded and is tried again is counted then"
    for _ in range(4):
        ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = now() WHERE state = 'queued'")
        executor.run(troubled, CRAWL, messages[0].chunk_id)
    assert urls_of(runtime, ref) == set(listed)
    assert (status(runtime, ref), reasons(runtime, ref)) == (JobStatus.COMPLETED, {})
    assert counted(runtime, ref) == (10, 10, 10)


@pytest.mark.parametrize("error", [OutageError("the storage is full"), KeyError("a bug")])
def test_an_image_is_a_duplicate_only_of_one_that_was_stored(fresh: Runtime, error: Exception) -> None:
    class Away(Storage):
        async def put(self, key: str, body: bytes) -> None:
            if body == jpeg("same") and not failures:
                failures.append(key)
                await all_here.wait()
                await asyncio.sleep(0.5)  # what is decoded has its digest by then
                raise error
            await super().put(key, body)

    def note(_: Decoder, body: bytes) -> None:
        arrived.append(body)
        if len(arrived) == len(listed):
            all_here.set()

    def rule(host: PoliteHost, request: web.BaseRequest) -> web.Response | None:
        if "twin" not in request.path:
            return None
        if host.count(request.path) > 1:
            return web.Response(status=404)
        return web.Response(body=jpeg("same"), content_type="image/jpeg")

    failures: list[str] = []
    arrived: list[bytes] = []
    all_here = asyncio.Event()
    decoder = WatchedDecoder(note)
    troubled = replace(fresh, storage=Away(fresh.settings.storage()), decoder=decoder)
    with polite.serving(rule) as host:
        # With one that is stored, the trouble is not the first thing that happens.
        name = type(error).__name__
        listed = [*host.urls(f"twin-{name}", 2), *host.urls(f"other-{name}", 1)]
        ref, messages = start(troubled, listed, job={"max_images": 3})
        executor.run(troubled, CRAWL, messages[0].chunk_id)
        ledger.execute(fresh.sessions, "UPDATE pixcrawler.chunks SET available_at = now() WHERE state = 'queued'")
        executor.run(troubled, CRAWL, messages[0].chunk_id)
    fresh.run(decoder.aclose())
    assert len(urls_of(fresh, ref)) == 2
    assert "duplicate_bytes" not in reasons(fresh, ref)


# The ledger of candidates


def test_a_retry_asks_again_for_what_was_rejected_for_now_and_for_nothing_else(fresh: Runtime) -> None:
    down = True

    def rule(_: PoliteHost, request: Any) -> Any:
        if down and "/later" in request.path:
            return web.Response(status=500)
        return web.Response(status=404) if "/gone" in request.path else None

    with polite.serving(rule) as host:
        listed = [*host.urls("later", 4), *host.urls("gone", 3), *host.urls("good", 5)]
        ref, messages = start(fresh, listed, job={"max_images": 12})
        drive(fresh, ref, messages)
        assert reasons(fresh, ref) == {"server_error": 4, "not_found": 3}
        down = False
        before = len(host.requests)
        drive(fresh, ref, submission.retry(fresh, CRAWL, ref.id))
        assert {path.partition("-")[0] for _, path in host.requests[before:]} == {"/later"}
        assert urls_of(fresh, ref) == {url for url in listed if "/gone" not in url}
        assert reasons(fresh, ref) == {"not_found": 3}
        before = len(host.requests)
        assert submission.retry(fresh, CRAWL, ref.id) == []
        assert (status(fresh, ref), len(host.requests)) == (JobStatus.COMPLETED, before)
        with fresh.sessions.begin() as session:
            ledger.check_invariants(session, ref.id)


def test_a_retry_asks_again_also_when_a_later_round_had_the_rest_of_the_page(fresh: Runtime) -> None:
    down = True

    def rule(_: PoliteHost, request: Any) -> Any:
        if "/gone" in request.path:
            return web.Response(status=404)
        return web.Response(status=500) if down and "/later" in request.path else None

    with polite.serving(rule) as host:
        # The first round meets its quota with leftovers, the second one has them.
        listed = [*host.urls("later", 4), *host.urls("good", 5), *host.urls("gone", 30)]
        ref, messages = start(fresh, listed, job={"max_images": 12})
        ledger.execute(
            fresh.sessions,
            "UPDATE pixcrawler.chunks SET payload = payload || '{\"quota\": 5}' WHERE crawl_job_id = :id",
            id=ref.id,
        )
        drive(fresh, ref, messages)
        assert len(ledger.chunks_of(fresh.sessions, ref)) > 1
        assert reasons(fresh, ref)["server_error"] == 4
        down = False
        drive(fresh, ref, submission.retry(fresh, CRAWL, ref.id))
        assert urls_of(fresh, ref) == {*host.urls("later", 4), *host.urls("good", 5)}
        assert "server_error" not in reasons(fresh, ref)


def test_a_completed_job_that_has_its_images_is_not_run_again(fresh: Runtime) -> None:
    with polite.serving(lambda _, request: web.Response(status=500) if "/bad" in request.path else None) as host:
        ref, messages = start(fresh, [*host.urls("bad", 2), *host.urls("good", 5)], job={"max_images": 5})
        drive(fresh, ref, messages)
        assert submission.retry(fresh, CRAWL, ref.id) == []
        assert status(fresh, ref) is JobStatus.COMPLETED


def test_a_completed_job_that_has_lost_images_asks_again(fresh: Runtime) -> None:
    down = True

    def rule(_: PoliteHost, request: Any) -> Any:
        return web.Response(status=500) if down and "/later" in request.path else None

    with polite.serving(rule) as host:
        listed = [*host.urls("later", 2), *host.urls("good", 6)]
        ref, messages = start(fresh, listed, job={"max_images": 6}, chunk_size=2)
        drive(fresh, ref, messages)
        assert urls_of(fresh, ref) == set(host.urls("good", 6))
        ledger.execute(fresh.sessions, "DELETE FROM images WHERE original_url = ANY(:urls)", urls=listed[2:4])
        down = False
        drive(fresh, ref, submission.retry(fresh, CRAWL, ref.id))
        assert urls_of(fresh, ref) == {*host.urls("later", 2), *listed[4:]}
        assert ledger.crawl_job(fresh.sessions, ref).valid_images == 6
        assert reasons(fresh, ref) == {}
        assert submission.retry(fresh, CRAWL, ref.id) == []


def test_what_a_retry_did_not_need_is_there_for_the_next_one(fresh: Runtime) -> None:
    down = True

    def rule(_: PoliteHost, request: Any) -> Any:
        return web.Response(status=500) if down and "/later" in request.path else None

    with polite.serving(rule) as host:
        good, later = host.urls("good", 4), host.urls("later", 3)
        ref, messages = start(fresh, [*later, *good], job={"max_images": 5})
        drive(fresh, ref, messages)
        assert urls_of(fresh, ref) == set(good)
        down = False
        for wanted in (1, 2, 3):
            drive(fresh, ref, submission.retry(fresh, CRAWL, ref.id))
            assert len(urls_of(fresh, ref) & set(later)) == wanted
            assert ledger.crawl_job(fresh.sessions, ref).valid_images == 5
            ledger.execute(fresh.sessions, "DELETE FROM images WHERE original_url = :url", url=good[wanted])


@pytest.mark.parametrize("limits", [{"max_images": 4}, {}])
def test_images_that_a_class_has_lost_are_replaced_by_those_of_the_same_class(
    fresh: Runtime, limits: dict[str, int]
) -> None:
    """Also where the class has a limit of its own."""
    down = True

    def rule(_: PoliteHost, request: Any) -> Any:
        return web.Response(status=500) if down and "/later" in request.path else None

    with polite.serving(rule) as host:
        listed = {name: [*host.urls(f"later-{name}", 3), *host.urls(name, 4)] for name in ("cat", "dog")}

        def answer(query: Query) -> Page:
            page = [listed[query.text][:3], listed[query.text][3:], *[[]] * 20][query.page]
            return Page(tuple(Candidate(url=url) for url in page), more=query.page == 0)

        there = with_sources(fresh, stub=StubSource(answer))
        keywords = [{"query": name, **limits} for name in listed]
        ref, messages = start(there, job={"max_images": 8, "keywords": keywords}, sources=["stub"], chunk_size=4)
        drive(there, ref, messages)
        assert urls_of(there, ref) == {*host.urls("cat", 4), *host.urls("dog", 4)}
        ledger.execute(there.sessions, "DELETE FROM images WHERE original_url = ANY(:urls)", urls=listed["cat"][3:6])
        down = False
        drive(there, ref, submission.retry(there, CRAWL, ref.id))
        assert urls_of(there, ref) == {*listed["cat"][:3], listed["cat"][6], *listed["dog"][3:]}
        assert submission.retry(there, CRAWL, ref.id) == []

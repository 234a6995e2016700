"""The pace of a job, from a real server, with two processes' downloaders and a real Redis between them."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest
import redis
from aiohttp import web
from downloads import LONG, Turns, policy
from fakes import providers

from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.hosts import Cause, HostClosedError, Hosts
from pixcrawler_worker.web.pace import Pace
from pixcrawler_worker.web.shared_hosts import TURNS, RedisHosts

#: Bytes of a body, and what a job may receive in a second.
SIZE, RATE = 120_000, 400_000


@contextmanager
def server() -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Serve bodies of `SIZE` bytes, and redirects to them; yield the URL and when each path was requested."""
    requested: dict[str, list[float]] = defaultdict(list)

    def handle(request: web.Request) -> web.Response:
        requested["all"].append(time.monotonic())
        if request.path.startswith("/to/"):
            return web.Response(status=302, headers={"Location": f"/{request.match_info['path'][3:]}"})
        return web.Response(body=bytes(SIZE))

    with providers.application(handle) as base:
        yield base, requested


def download(urls: Sequence[str], *, redis_url: str, limit_rate: int | None = None, wait: float = 0.0) -> float:
    """Download each URL, half of them with each of two downloaders; return the seconds since the first turn."""
    turns = [Turns(redis_url) for _ in range(2)]

    async def run() -> float:
        downloaders = [Downloader(policy(deadline=LONG), hosts=Hosts(None, one)) for one in turns]
        paces = [one.pace("crawl:1", limit_rate=limit_rate, wait=wait) for one in downloaders]

        async def one(number: int, url: str) -> None:
            downloader, pace = downloaders[number % 2], paces[number % 2]
            while True:
                with downloader.bodies.body(pace) as body:
                    try:
                        fetched = await downloader.fetch(url, taken=body)
                    except HostClosedError as closed:
                        causes.add(closed.cause)
                        await asyncio.sleep(closed.wait.total_seconds())
                        continue
                assert len(fetched.body) == SIZE
                return

        causes = {Cause.PACED}
        await asyncio.gather(*(one(number, url) for number, url in enumerate(urls)))
        seconds = time.monotonic() - min(one.begun for one in turns)
        for downloader in downloaders:
            await downloader.aclose()
        assert causes == {Cause.PACED}
        return seconds

    return asyncio.run(run())


def assert_no_turn_is_early(requested: Sequence[float], *, begun: float, wait: float) -> None:
    """Assert that each request came in its turn or later: a busy machine makes some late, and so some gaps short."""
    # A tenth of a second is for the clock of Redis, which may be set meanwhile.
    assert [number for number, at in enumerate(requested) if at < begun + number * wait - 0.1] == []


def test_two_processes_together_receive_what_the_rate_allows(redis_url: str) -> None:
    with server() as (base, _):
        seconds = download([f"{base}/{n}" for n in range(14)], redis_url=redis_url, limit_rate=RATE)
    assert RATE * 0.85 < 14 * SIZE / seconds < RATE * 1.15


def test_without_a_redis_each_process_keeps_the_rate_for_itself() -> None:
    with server() as (base, _):
        urls = [f"{base}/{n}" for n in range(14)]
        seconds = download(urls, redis_url="redis://127.0.0.1:1/0", limit_rate=RATE // 2)
    assert RATE * 0.85 < 14 * SIZE / seconds < RATE * 1.15


def test_a_rate_that_is_not_limited_has_no_effect(redis_url: str) -> None:
    assert Downloader(policy()).pace("crawl:1", limit_rate=None, wait=0.0) is None
    with server() as (base, _):
        assert download([f"{base}/{n}" for n in range(14)], redis_url=redis_url) == -math.inf, "no turn was reserved"


def test_requests_to_a_host_begin_apart_and_other_hosts_do_not_wait_for_them(redis_url: str) -> None:
    with server() as (one, of_one), server() as (other, of_other):
        urls = [f"{base}/{n}" for n in range(6) for base in (one, other)]
        begun = time.monotonic()
        seconds = download(urls, redis_url=redis_url, wait=0.6)
    for requested in (of_one["all"], of_other["all"]):
        assert len(requested) == 6
        assert_no_turn_is_early(requested, begun=begun, wait=0.6)
    assert seconds == pytest.approx(5 * 0.6, rel=0.25)


def test_a_redirect_is_a_request_too(redis_url: str) -> None:
    with server() as (base, requested):
        begun = time.monotonic()
        download([f"{base}/to/1", f"{base}/to/2"], redis_url=redis_url, wait=0.6)
    assert len(requested["all"]) == 4
    assert_no_turn_is_early(requested["all"], begun=begun, wait=0.6)


def test_a_long_wait_is_an_error_that_says_how_long_and_reserves_nothing(redis_url: str) -> None:
    async def work() -> list[float]:
        shared = RedisHosts(redis_url)
        pace = Pace("crawl:1", wait=30.0, shared=shared)
        await pace.turn("a.example")
        waits = []
        for _ in range(3):
            with pytest.raises(HostClosedError, match="the job waits between two requests to a host") as closed:
                await pace.turn("a.example")
            waits.append(closed.value.wait / timedelta(seconds=1))
        await asyncio.wait_for(pace.turn("b.example"), timeout=1)
        await asyncio.wait_for(Pace("crawl:2", wait=30.0, shared=shared).turn("a.example"), timeout=1)
        await shared.aclose()
        return waits

    assert all(29 < wait <= 30 for wait in asyncio.run(work()))


def test_what_is_in_redis_ends_with_the_wait(redis_url: str) -> None:
    async def work() -> None:
        shared = RedisHosts(redis_url)
        assert await shared.reserve("crawl:1:bytes", 0.000_5, within=0) == 0.0
        assert 0 <= (await shared.reserve("crawl:1:bytes", 0.000_5, within=1) or 0.0) < 0.001
        await shared.aclose()

    asyncio.run(work())
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.pttl(f"{TURNS}crawl:1:bytes") <= 1010

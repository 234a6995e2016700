import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytest
import redis
import structlog
from fakes import hosts
from yarl import URL

from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.web.robots import Robots
from pixcrawler_worker.web.robots_cache import PREFIX, SharedRobots, SharedRules

T = TypeVar("T")

DAY = timedelta(days=1)


@pytest.fixture(name="server")
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as server:
        yield server


def run(shared: SharedRobots, work: Callable[[SharedRobots], Coroutine[Any, Any, T]]) -> T:
    """Run something in an event loop of its own."""

    async def closing() -> T:
        try:
            return await work(shared)
        finally:
            await shared.aclose()

    return asyncio.run(closing())


def text_of(found: SharedRules | None) -> str | None:
    return None if found is None else found.text


class Host:
    """A host whose robots.txt closes it, and which counts how often that is requested."""

    asked = 0

    async def __call__(
        self, url: str, *, max_bytes: int, before_hop: Callable[[URL], Awaitable[None]]
    ) -> tuple[int, bytes]:
        del url, max_bytes, before_hop
        self.asked += 1
        return 200, b"User-agent: *\nDisallow: /closed"


def test_a_host_is_asked_once_by_all_workers(redis_url: str) -> None:
    host = Host()

    async def ask(shared: SharedRobots) -> None:
        robots = Robots(host, agent="PixCrawler/1", shared=shared)
        await robots.check(URL("https://images.example/open"))
        with pytest.raises(RejectedError, match="robots_disallowed"):
            await robots.check(URL("https://images.example/closed"))

    for _ in range(3):
        run(SharedRobots(redis_url), ask)
    assert host.asked == 1


class CountingRobots(SharedRobots):
    """What workers share, and how often this one looks there."""

    looks = 0

    async def get(self, host: str) -> SharedRules | None:
        self.looks += 1
        return await super().get(host)


def test_what_another_worker_read_holds_no_longer_than_there(redis_url: str, server: redis.Redis) -> None:
    host, now = Host(), [0.0]

    async def ask_twice(shared: SharedRobots) -> int:
        robots = Robots(host, agent="PixCrawler/1", shared=shared, clock=lambda: now[0])
        await robots.check(URL("https://images.example/open"))
        now[0] += 50
        await robots.check(URL("https://images.example/open"))
        assert isinstance(shared, CountingRobots)
        return shared.looks

    assert run(CountingRobots(redis_url), ask_twice) == 1
    (key,) = server.keys(f"{PREFIX}*")
    assert 86_300 < server.ttl(key) <= 86_400
    assert run(CountingRobots(redis_url), ask_twice) == 1
    server.expire(key, 40)
    assert run(CountingRobots(redis_url), ask_twice) == 2
    assert host.asked == 1
    server.delete(key)
    run(CountingRobots(redis_url), ask_twice)
    assert host.asked == 2


def test_only_so_many_hosts_are_kept(redis_url: str, server: redis.Redis) -> None:
    async def fill(shared: SharedRobots) -> list[str | None]:
        for number in range(8):
            await shared.put(f"host-{number}", f"rules {number}", DAY)
        return [text_of(await shared.get(f"host-{number}")) for number in range(8)]

    found = run(SharedRobots(redis_url, max_hosts=5), fill)
    assert found == [None, None, None, *(f"rules {number}" for number in range(3, 8))]
    assert server.dbsize() == 6
    assert all(server.ttl(key) > 0 for key in server.scan_iter())


def test_rules_that_take_much_room_are_not_shared(redis_url: str, server: redis.Redis) -> None:
    async def put(shared: SharedRobots) -> None:
        await shared.put("host", "".join(f"Disallow: /{number * 7919 % 100_003}\n" for number in range(5000)), DAY)

    run(SharedRobots(redis_url), put)
    assert server.dbsize() == 0


@pytest.mark.parametrize("stored", [b"", b"\xff" * 100, b"x\x9c\xff"])
def test_a_damaged_entry_is_none(redis_url: str, server: redis.Redis, stored: bytes) -> None:
    server.set(f"{PREFIX}host", stored, ex=60)

    async def renew(shared: SharedRobots) -> list[str | None]:
        before = await shared.get("host")
        await shared.put("host", "rules", DAY)
        return [text_of(before), text_of(await shared.get("host"))]

    assert run(SharedRobots(redis_url), renew)[1] == "rules"


def test_an_entry_that_would_be_kept_for_ever_is_none(redis_url: str, server: redis.Redis) -> None:
    server.set(f"{PREFIX}host", zlib.compress(b"rules"))
    assert run(SharedRobots(redis_url), lambda shared: shared.get("host")) is None


def test_connections_are_opened_again_in_another_event_loop(redis_url: str) -> None:
    shared = SharedRobots(redis_url)
    run(shared, lambda shared: shared.put("host", "rules", DAY))
    assert text_of(run(shared, lambda shared: shared.get("host"))) == "rules"


def without_redis(url: str) -> tuple[float, int]:
    """Ask ten hosts where Redis is of no use; return the seconds that it took, and the lines of the log."""
    shared, host = SharedRobots.at(url), Host()
    assert shared is not None

    async def ask(shared: SharedRobots) -> None:
        robots = Robots(host, agent="PixCrawler/1", shared=shared)
        for number in range(10):
            await robots.check(URL(f"https://{number}.example/open"))

    begun = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        run(shared, ask)
    assert host.asked == 10
    return time.monotonic() - begun, len(logs)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "redis+socket:///nowhere", "redis://127.0.0.1:x/", "redis://127.0.0.1/?kombu=1"]
)
def test_without_redis_each_process_asks_for_itself(url: str) -> None:
    seconds, lines = without_redis(url)
    assert seconds < 1
    assert lines == 1


def test_a_silent_redis_costs_one_second() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.read()

    async def work() -> tuple[float, int]:
        async with hosts.listening(converse) as port:
            return await asyncio.to_thread(without_redis, f"redis://127.0.0.1:{port}/0")

    seconds, lines = asyncio.run(work())
    assert 0.9 < seconds < 3
    assert lines == 1


def test_a_full_redis_only_reads(redis_url: str, server: redis.Redis) -> None:
    run(SharedRobots(redis_url), lambda shared: shared.put("host", "rules", DAY))
    before = server.config_get("maxmemory")["maxmemory"]
    server.config_set("maxmemory", "1")
    try:
        run(SharedRobots(redis_url), lambda shared: shared.put("other", "rules", DAY))
        assert text_of(run(SharedRobots(redis_url), lambda shared: shared.get("host"))) == "rules"
    finally:
        server.config_set("maxmemory", before or "0")

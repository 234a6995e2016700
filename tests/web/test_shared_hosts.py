"""What workers know together of hosts, in a real Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import pytest
import redis

from pixcrawler_worker.web.hosts import MEMORY, Cause, Closing, HostClosedError, Hosts
from pixcrawler_worker.web.shared_hosts import PREFIX, VERSION, RedisHosts

T = TypeVar("T")
NOW = timedelta(0)


def run(redis_url: str, work: Callable[[RedisHosts, RedisHosts], Awaitable[T]]) -> T:
    """Run something with what two workers share."""

    async def both() -> T:
        one, other = RedisHosts(redis_url), RedisHosts(redis_url)
        try:
            return await work(one, other)
        finally:
            await one.aclose()
            await other.aclose()

    return asyncio.run(both())


def about(wait: timedelta, seconds: float) -> bool:
    return seconds - 0.5 < wait.total_seconds() <= seconds


def test_a_host_that_one_worker_closes_is_closed_for_the_others(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> None:
        closed = await one.close("a.example", Cause.LIMITED, timedelta(seconds=20), age=NOW)
        found = await other.look(["b.example", "a.example"])
        assert found is not None
        assert set(found) == {"a.example"}
        for closing in (closed, found["a.example"]):
            assert closing is not None
            assert about(closing.wait, 20)
            assert (closing.strikes, closing.cause) == (1, Cause.LIMITED)
        await one.open("a.example")
        found = await other.look(["a.example"])
        assert found is not None
        assert about(found["a.example"].wait, 20), "an answer from before says nothing"

    run(redis_url, work)


def test_the_version_is_another_one_after_each_closing_and_only_then(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> None:
        before = await other.version()
        assert before is not None
        assert await other.look(["a.example"]) == {}
        await one.open("a.example")
        assert await other.version() == before
        seen = {before}
        for host in ("a.example", "b.example", "a.example"):
            await one.close(host, Cause.LIMITED, timedelta(milliseconds=1), age=NOW)
            version = await other.version()
            assert version is not None
            seen.add(version)
        assert len(seen) == 4
        await one.open("b.example")
        assert await other.version() in seen
        with redis.Redis.from_url(redis_url) as server:
            assert MEMORY / timedelta(milliseconds=1) < server.pttl(VERSION) < 1_000_000

    run(redis_url, work)


def test_a_closing_is_known_to_a_process_that_has_just_looked(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> None:
        known = Hosts(shared=other)
        await known.look(["a.example", "b.example"])
        await one.close("a.example", Cause.LIMITED, timedelta(seconds=20), age=NOW)
        await asyncio.sleep(0.05)
        await known.look(["b.example"])
        assert known.closed("a.example") is None
        await known.look(["a.example"])
        closed = known.closed("a.example")
        assert closed is not None
        assert about(closed.wait, 20)

    run(redis_url, work)


def test_the_row_ends_with_an_answer(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> None:
        await one.close("a.example", Cause.DOWN, timedelta(milliseconds=20), age=NOW)
        await asyncio.sleep(0.05)
        found = await other.look(["a.example"])
        assert found is not None
        known = found["a.example"]
        assert (known.wait, known.strikes, known.cause) == (NOW, 1, Cause.DOWN)
        assert known.lasting >= timedelta(milliseconds=40)
        await other.open("a.example")
        assert await one.look(["a.example"]) == {}

    run(redis_url, work)


def test_requests_from_before_the_closing_do_not_make_it_longer(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> list[Closing | None]:
        first = await one.close("a.example", Cause.LIMITED, None, age=NOW)
        late = [await other.close("a.example", Cause.LIMITED, None, age=timedelta(seconds=5)) for _ in range(5)]
        return [first, *late]

    for closing in run(redis_url, work):
        assert closing is not None
        assert closing.strikes == 1
        assert about(closing.wait, 1)


def test_pauses_grow_for_all_workers_together(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> list[float]:
        waits = []
        for worker in (one, other, one, other):
            closing = await worker.close("a.example", Cause.LIMITED, None, age=NOW)
            assert closing is not None
            waits.append(closing.wait.total_seconds())
            with redis.Redis.from_url(redis_url) as server:
                server.hset(PREFIX + "a.example", "until", 0)
        return waits

    assert run(redis_url, work) == pytest.approx([1, 2, 4, 8], abs=0.2)


def test_no_more_connections_are_borrowed_than_a_host_allows(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> None:
        names = await asyncio.gather(*(worker.borrow("a.example", 2) for worker in (one, other) * 5))
        got = [name for name in names if name is not None]
        assert len(got) == 2
        await one.give_back("a.example", got[0])
        assert await other.borrow("a.example", 2) is not None
        assert await other.borrow("a.example", 2) is None
        assert await other.borrow("b.example", 1) is not None

    run(redis_url, work)


def test_what_a_dead_worker_has_borrowed_is_free_again(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> None:
        name = await one.borrow("a.example", 1)
        assert name is not None
        assert await other.borrow("a.example", 1) is None
        with redis.Redis.from_url(redis_url) as server:
            key = f"{PREFIX}a.example:connections"
            assert 0 < server.pttl(key) <= 90_000
            server.zadd(key, {name: 0})
        assert await other.borrow("a.example", 1) is not None

    run(redis_url, work)


def test_without_redis_each_process_goes_by_what_it_sees_and_does_not_wait_long() -> None:
    async def work() -> None:
        shared = RedisHosts("redis://127.0.0.1:1/0")
        known = Hosts({"a.example": 1}, shared)
        begun = asyncio.get_running_loop().time()
        for _ in range(100):
            await known.look(["a.example"])
            await known.answered("a.example")
        assert await shared.borrow("a.example", 1) is not None
        closed = await known.limited("a.example", timedelta(seconds=9), sent=begun + 1e9)
        assert closed.wait >= timedelta(seconds=9)
        with pytest.raises(HostClosedError):
            async with known.place("a.example"):
                pass
        assert asyncio.get_running_loop().time() - begun < 2
        await known.aclose()

    asyncio.run(work())


def test_damaged_values_are_no_trouble(redis_url: str) -> None:
    async def work(one: RedisHosts, other: RedisHosts) -> None:
        with redis.Redis.from_url(redis_url) as server:
            server.hset(PREFIX + "a.example", mapping={"until": "soon", "strikes": "many"})
            server.set(PREFIX + "b.example", "text")
        assert await one.look(["a.example"]) is None
        assert await other.look(["b.example"]) is None

    run(redis_url, work)

import asyncio
from datetime import timedelta

import pytest
import redis

from pixcrawler_worker.broker import load, quarantine
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web.hosts import Cause
from pixcrawler_worker.web.shared_hosts import CLOSED, RedisHosts


def test_queues_quarantine_and_memory_are_read(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.lpush("crawl", "a", "b")
        server.lpush("export\x06\x163", "c")
        server.lpush(quarantine.KEY, "x", "y", "z")
    found = load.read(redis_url)
    assert found.messages == {"crawl": 2, "validation": 0, "export": 1, "maintenance": 0}
    assert found.quarantined == 3
    assert found.memory > 100_000
    assert found.max_memory is None
    assert found.closed_hosts == {"limited": 0, "down": 0}


def test_hosts_are_closed_until_their_time_is_over(redis_url: str) -> None:
    async def close() -> None:
        shared = RedisHosts(redis_url)
        await shared.close("a.example", Cause.LIMITED, timedelta(seconds=20), age=timedelta(0))
        await shared.close("a.example", Cause.LIMITED, timedelta(seconds=30), age=timedelta(0))
        await shared.close("b.example", Cause.DOWN, timedelta(seconds=20), age=timedelta(0))
        await shared.close("c.example", Cause.DOWN, timedelta(milliseconds=1), age=timedelta(0))
        await asyncio.sleep(0.02)
        await shared.aclose()

    asyncio.run(close())
    assert load.read(redis_url).closed_hosts == {"limited": 1, "down": 1}
    with redis.Redis.from_url(redis_url) as server:
        assert 0 < server.pttl(CLOSED + "LIMITED") < 3_600_000
        server.delete(CLOSED + "DOWN")
        server.set(CLOSED + "DOWN", "damaged")
    # What metrics count does not decide on what workers know.
    asyncio.run(close())
    with pytest.raises(TransientError, match="Redis does not answer"):
        load.read(redis_url)


def test_a_redis_that_is_away_is_a_transient_error() -> None:
    with pytest.raises(TransientError, match="Redis does not answer"):
        load.read("redis://127.0.0.1:1/0")

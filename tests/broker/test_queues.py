import pytest
import redis

from pixcrawler_worker.broker import queues
from pixcrawler_worker.errors import TransientError


def test_messages_about_jobs_wait_in_the_list_of_their_queue(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.lpush("crawl\x06\x163", "of a worker")
        server.lpush("crawl", '{"headers": {"task": "pixcrawler.crawl.chunk"}}')
        assert not queues.has_requests(redis_url, ["crawl", "maintenance"])
        server.lpush("maintenance", "a cancel")
        assert queues.has_requests(redis_url, ["crawl", "maintenance"])
        assert not queues.has_requests(redis_url, ["crawl"])


def test_nothing_waits_in_a_broker_that_is_away() -> None:
    assert not queues.has_requests("redis://127.0.0.1:1/0", ["crawl"])


def test_what_waits_is_counted_for_all_priorities(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        assert queues.waiting(redis_url) == {}
        for name in ("crawl", "crawl\x06\x163", "crawl\x06\x163", "export\x06\x169", "validation\x06\x166", "others"):
            server.lpush(name, "a message")
        assert queues.waiting(redis_url) == {"crawl": 3, "validation": 1, "export": 1}
    with pytest.raises(TransientError, match="Redis does not answer"):
        queues.waiting("redis://127.0.0.1:1/0")

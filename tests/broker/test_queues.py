import redis

from pixcrawler_worker.broker import queues


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

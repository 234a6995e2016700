from collections.abc import Iterator

import pytest
import redis

from pixcrawler_worker.embedded.services import Services


@pytest.fixture
def redis_url(services: Services) -> Iterator[str]:
    """The URL, for redis-py, of an empty database of Redis of this test's own."""
    url = services.redis_url.replace("db=0", "db=5")
    with redis.Redis.from_url(url) as server:
        server.flushdb()
        yield url
        server.flushdb()


@pytest.fixture
def broker_url(services: Services, redis_url: str) -> str:
    """The same for Celery."""
    return services.broker_url.replace("virtual_host=0", "virtual_host=5")


@pytest.fixture(name="server")
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as server:
        yield server

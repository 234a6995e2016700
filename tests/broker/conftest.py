from collections.abc import Iterator

import pytest
import redis

from pixcrawler_worker.embedded.services import Services


@pytest.fixture
def broker_url(services: Services, redis_url: str) -> str:
    """The same for Celery."""
    return services.broker_url.replace("virtual_host=0", "virtual_host=5")


@pytest.fixture(name="server")
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as server:
        yield server

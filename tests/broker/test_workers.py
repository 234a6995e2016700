"""Asking workers for their queues; what they respond with is tested in tests/test_health.py."""

import pytest
import redis
from fakes.workers import responding

from pixcrawler_worker.broker import workers
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError, TransientError


def test_each_worker_that_responds_names_its_queues(services: Services) -> None:
    url = services.broker_url.replace("virtual_host=0", "virtual_host=10")
    with responding(url, "crawl", "export", name="a@test"), responding(url, "crawl", name="b@test"):
        assert workers.consumed_queues(url) == {"a@test": {"crawl", "export"}, "b@test": {"crawl"}}
    assert workers.consumed_queues(url) == {}
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=10")) as server:
        server.flushdb()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("redis://:hunter2@127.0.0.1:1/0", TransientError),
        ("redis+socket:///nowhere?virtual_host=0", TransientError),
        ("unix:///nowhere?password=hunter2", PermanentError),
        ("redis://:hunter2/x@127.0.0.1:1/0", PermanentError),
    ],
)
def test_a_broker_that_cannot_be_asked_is_an_error_without_its_password(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        workers.consumed_queues(url)
    assert "hunter2" not in str(caught.value)

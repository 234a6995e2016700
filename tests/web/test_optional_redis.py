import pytest

from pixcrawler_worker.web import optional_redis


@pytest.mark.parametrize(
    ("broker", "url"),
    [
        (None, None),
        ("", None),
        ("memory://", None),
        ("amqp://guest@localhost//", None),
        ("sentinel://localhost:26379", None),
        ("redis://:pw@host:6379/3", "redis://:pw@host:6379/3"),
        ("rediss://host/0?ssl_cert_reqs=CERT_REQUIRED", "rediss://host/0?ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_cert_reqs=none", "rediss://host/0?ssl_cert_reqs=none"),
        ("redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2"),
        ("redis+socket://:pw@/run/redis.sock", "unix://:pw@/run/redis.sock"),
    ],
)
def test_a_broker_that_is_redis_has_a_url_for_redis_py(broker: str | None, url: str | None) -> None:
    assert optional_redis.of_broker(broker) == url

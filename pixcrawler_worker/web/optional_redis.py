"""A Redis that nothing waits for: workers share through it what makes them better neighbors, and work without it."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pixcrawler_worker.domain import broker_urls
from pixcrawler_worker.errors import PermanentError

T = TypeVar("T")

log = structlog.get_logger()

#: Seconds for a connection, and for each answer: a download must not wait long for it.
_TIMEOUT = 1.0
#: Connections of one process, for each thing that is shared.
_MAX_CONNECTIONS = 8
#: Seconds for which Redis is not asked again after it has failed.
_AWAY_SECONDS = 5.0
_SCHEMES = {"redis", "rediss", "redis+socket", "unix"}
#: Redis is away, full or damaged, or its URL has parts that only kombu understands.
_TROUBLE = (RedisError, OSError, ValueError, TypeError)


class OptionalRedis:
    """Connections to Redis for one event loop at a time, kept until `aclose`. No trouble with Redis is raised.

    Args:
        url: as redis-py has it; see `of_broker`.
        shared: what is not shared without it, for the log.
    """

    def __init__(self, url: str, shared: str) -> None:
        self._url = url
        self._shared = shared
        self._redis: Redis | None = None
        self._away_until = 0.0
        self._is_known_away = False

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T | None:
        """Return what Redis answers; None when it does not, or has not done so a moment ago."""
        if time.monotonic() < self._away_until:
            return None
        try:
            redis = self._redis = self._redis or _connect(self._url)
            answer = await question(redis)
        except _TROUBLE as error:
            self._went_away(error)
            return None
        self._is_known_away = False
        return answer

    async def aclose(self) -> None:
        """Close the connections. A later question opens new ones, also in another event loop."""
        redis, self._redis = self._redis, None
        if redis is not None:
            await redis.aclose()

    def _went_away(self, error: Exception) -> None:
        if not self._is_known_away:
            # Its text may hold a part of the password.
            log.warning("Redis does not answer", not_shared=self._shared, error=type(error).__name__)
        self._is_known_away = True
        self._away_until = time.monotonic() + _AWAY_SECONDS


def of_broker(broker_url: str | None) -> str | None:
    """Return the broker's URL as redis-py has it; None when that is not a Redis that can be connected to directly."""
    if not broker_url or broker_url.partition(":")[0] not in _SCHEMES:
        return None
    try:
        return broker_urls.for_redis(broker_url)
    except PermanentError:
        # The worker says so when it starts; here it is a Redis that does not answer.
        return broker_url


def _connect(url: str) -> Redis:
    # Who finds no free connection waits for one: a pool that raises would look like a Redis that is away.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=_TIMEOUT,
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)

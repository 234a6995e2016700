"""The rules of robots.txt files that workers share through Redis, so that each host is asked once a day by all of them.

Redis holds the messages too and evicts nothing, so what is kept there is bounded: hosts, and bytes of each. It is no
more than a cache: without Redis, or while it is full or away, each process asks for itself.
"""

import time
import zlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pixcrawler_worker.web import redis_url

log = structlog.get_logger()

PREFIX = "pixcrawler:robots:"
#: A sorted set of the hosts that are kept, by the time they were written.
_INDEX = "pixcrawler:robots"
#: Hosts that are kept, and bytes of the compressed rules of one; what is larger is not shared. 25 MB at most.
MAX_HOSTS, _MAX_BYTES = 10_000, 2048
#: Characters of decompressed rules: more than a robots.txt has that is not cut.
_MAX_TEXT = 1 << 20
#: Seconds without an answer after which Redis is away, and for how many it is then left alone.
_TIMEOUT, _PAUSE = 1.0, 30.0
#: Redis is away, full or damaged, or its URL has parts that only kombu understands.
_TROUBLE = (RedisError, OSError, ValueError, TypeError)


@dataclass(frozen=True, slots=True)
class SharedRules:
    """Rules that another worker read, and how long they still hold."""

    text: str
    remaining: timedelta


class SharedRobots:
    """Rules by host in Redis. No trouble with Redis is raised.

    Args:
        url: of Redis.
        max_hosts: that are kept.
    """

    def __init__(self, url: str, *, max_hosts: int = MAX_HOSTS) -> None:
        self.url = url
        self._max_hosts = max_hosts
        self._redis: Redis | None = None
        self._paused_until = 0.0

    @classmethod
    def at(cls, broker_url: str | None) -> "SharedRobots | None":
        """Return what is shared through a broker; None when that is not a Redis that can be connected to directly."""
        url = redis_url.of_broker(broker_url)
        return None if url is None else cls(url)

    async def get(self, host: str) -> SharedRules | None:
        """Return the rules that a host had when a worker asked it; None when none did, or Redis is away."""
        if not (redis := self._available()):
            return None
        try:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.get(PREFIX + host)
                pipe.pttl(PREFIX + host)
                stored, milliseconds = await pipe.execute()
        except _TROUBLE as error:
            self._pause(error)
            return None
        if stored is None or milliseconds <= 0:
            return None
        try:
            text = zlib.decompressobj().decompress(stored, _MAX_TEXT).decode()
        except (zlib.error, UnicodeDecodeError):
            return None
        return SharedRules(text, timedelta(milliseconds=milliseconds))

    async def put(self, host: str, text: str, holds: timedelta) -> None:
        """Keep a host's rules for all workers, unless they are too long. Of too many hosts the oldest is forgotten.

        Args:
            host: the key that `get` is called with.
            text: the rules.
            holds: how long they are kept.
        """
        compressed = zlib.compress(text.encode())
        if len(compressed) > _MAX_BYTES or not (redis := self._available()):
            return
        try:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.set(PREFIX + host, compressed, px=holds)
                pipe.zadd(_INDEX, {host: time.time()})
                pipe.expire(_INDEX, holds)
                pipe.zcard(_INDEX)
                *_, count = await pipe.execute()
            if count > self._max_hosts:
                oldest: Any = await redis.zpopmin(_INDEX, count - self._max_hosts)
                if oldest:
                    await redis.delete(*(PREFIX + member.decode() for member, _ in oldest))
        except _TROUBLE as error:
            self._pause(error)

    async def aclose(self) -> None:
        """Close the connections. A later call opens new ones, also in another event loop."""
        redis, self._redis = self._redis, None
        if redis:
            await redis.aclose()

    def _available(self) -> Redis | None:
        if time.monotonic() < self._paused_until:
            return None
        if self._redis is None:
            retry = Retry(NoBackoff(), 0)
            try:
                self._redis = Redis.from_url(
                    self.url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=retry
                )
            except _TROUBLE as error:
                self._pause(error)
        return self._redis

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE
        log.warning("robots.txt files are not shared", reason=str(error), seconds=_PAUSE)

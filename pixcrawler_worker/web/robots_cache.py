"""The rules of robots.txt files that workers share through Redis, so that each host is asked once a day by all of them.

Redis holds the messages too and evicts nothing, so what is kept there is bounded: hosts, and bytes of each. It is no
more than a cache: without Redis, or while it is full or away, each process asks for itself.
"""

import time
import zlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from pixcrawler_worker.web import optional_redis
from pixcrawler_worker.web.optional_redis import OptionalRedis

PREFIX = "pixcrawler:robots:"
#: A sorted set of the hosts that are kept, by the time they were written.
_INDEX = "pixcrawler:robots"
#: Hosts that are kept, and bytes of the compressed rules of one; what is larger is not shared. 25 MB at most.
MAX_HOSTS, _MAX_BYTES = 10_000, 2048
#: Characters of decompressed rules: more than a robots.txt has that is not cut.
_MAX_TEXT = 1 << 20


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
        self._redis = OptionalRedis(url, "robots.txt files")
        self._max_hosts = max_hosts

    @classmethod
    def at(cls, broker_url: str | None) -> "SharedRobots | None":
        """Return what is shared through a broker; None when that is not a Redis that can be connected to directly."""
        url = optional_redis.of_broker(broker_url)
        return None if url is None else cls(url)

    async def get(self, host: str) -> SharedRules | None:
        """Return the rules that a host had when a worker asked it; None when none did, or Redis is away."""

        async def read(redis: Redis) -> tuple[bytes | None, int]:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.get(PREFIX + host)
                pipe.pttl(PREFIX + host)
                found, milliseconds = await pipe.execute()
                return found, milliseconds

        stored, milliseconds = await self._redis.ask(read) or (None, 0)
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
        if len(compressed) > _MAX_BYTES:
            return

        async def write(redis: Redis) -> None:
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

        await self._redis.ask(write)

    async def aclose(self) -> None:
        """Close the connections. A later call opens new ones, also in another event loop."""
        await self._redis.aclose()

"""What all workers know of hosts, in Redis: which are closed, and who has the connections that a host allows.

Times are Redis' own. A worker that dies gives nothing back: what it has borrowed is free again when its time is over.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from pixcrawler_worker.web import optional_redis
from pixcrawler_worker.web.hosts import FIRST_PAUSE, LONGEST_PAUSE, MEMORY, Cause, Closing
from pixcrawler_worker.web.optional_redis import OptionalRedis

#: Keys in Redis begin with this.
PREFIX = "pixcrawler:host:"
#: Keys of the sets of closed hosts, by cause, which metrics count; the scores are when each may be tried again.
CLOSED = "pixcrawler:closed:"
#: Key of the time of the last closing of any host, in microseconds.
VERSION = "pixcrawler:hosts"
#: Keys of the turns of jobs, whose names follow.
TURNS = "pixcrawler:pace:"
#: Milliseconds after which a borrowed connection is free again: longer than a process keeps one.
_BORROWED_MS = 90_000
_MICROSECONDS = 1_000_000

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

_LOOK = (
    _NOW
    + """
local found = {}
for _, key in ipairs(KEYS) do
    local host = redis.call('HMGET', key, 'until', 'strikes', 'cause', 'since')
    table.insert(found, host[1] and
        {math.max(0, tonumber(host[1]) - now), tonumber(host[2]), host[3], now - tonumber(host[4])} or false)
end
return found
"""
)
# A request that was sent before the host was closed says nothing new.
_CLOSE = (
    _NOW
    + """
local open_at = tonumber(redis.call('HGET', KEYS[1], 'until') or '0')
local strikes = tonumber(redis.call('HGET', KEYS[1], 'strikes') or '0')
local cause, wait, age, first, longest, memory = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]),
    tonumber(ARGV[5]), tonumber(ARGV[6])
local is_new = now - age >= open_at
if is_new then strikes = strikes + 1 end
local since = strikes > 1 and tonumber(redis.call('HGET', KEYS[1], 'since')) or now
if wait < 0 then
    wait = is_new and math.min(first * 2 ^ math.min(strikes - 1, 20), longest) or 0
end
open_at = math.max(open_at, now + wait)
redis.call('HSET', KEYS[1], 'until', open_at, 'strikes', strikes, 'cause', cause, 'since', since)
redis.call('PEXPIRE', KEYS[1], open_at - now + memory)
redis.pcall('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.pcall('ZADD', KEYS[2], open_at, KEYS[1])
redis.pcall('PEXPIRE', KEYS[2], memory + longest + open_at - now)
redis.call('SET', KEYS[3], string.format('%.0f', t[1] * 1000000 + t[2]), 'PX', memory + longest + open_at - now)
return {math.max(0, open_at - now), strikes, cause, now - since}
"""
)
_OPEN = (
    _NOW
    + """
local open_at = tonumber(redis.call('HGET', KEYS[1], 'until') or '0')
if open_at <= now then redis.call('DEL', KEYS[1]) end
return 1
"""
)
_BORROW = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[3]))
return 1
"""
)
# In microseconds: some bytes take less than a millisecond. Numbers are written in full, which Lua does not by itself.
_RESERVE = """
local t = redis.call('TIME') local now = t[1] * 1000000 + t[2]
local at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0'))
local seconds, within = tonumber(ARGV[1]), tonumber(ARGV[2])
if within < 0 or at - now <= within then
    local ends = at + seconds
    redis.call('SET', KEYS[1], string.format('%.0f', ends), 'PX', math.ceil((ends - now) / 1000) + 1000)
end
return at - now
"""
_GIVE_BACK = "return redis.call('ZREM', KEYS[1], ARGV[1])"


class RedisHosts:
    """See `hosts.SharedKnowledge`.

    Args:
        url: of Redis.
    """

    def __init__(self, url: str) -> None:
        self._redis = OptionalRedis(url, "what workers know of hosts")

    @classmethod
    def at(cls, broker_url: str | None) -> "RedisHosts | None":
        """Return what is shared through a broker; None when that is not a Redis that can be connected to directly."""
        url = optional_redis.of_broker(broker_url)
        return None if url is None else cls(url)

    async def version(self) -> bytes | None:
        """Return what is another one after each closing of any host; None without Redis."""

        async def get(redis: Redis) -> bytes:
            found: Any = await redis.get(VERSION)  # text in other clients than this one
            return found or b""

        return await self._redis.ask(get)

    async def look(self, hosts: Sequence[str]) -> Mapping[str, Closing] | None:
        """Return those of the hosts that were closed lately; None without Redis."""
        found = await self._run(_LOOK, [PREFIX + host for host in hosts], [])
        return None if found is None else {host: _closing(row) for host, row in zip(hosts, found, strict=False) if row}

    async def close(self, host: str, cause: Cause, wait: timedelta | None, *, age: timedelta) -> Closing | None:
        """Close a host; without a wait, for longer each time."""
        arguments: list[str | int] = [
            cause.name,
            _ms(wait),
            _ms(age),
            _ms(FIRST_PAUSE),
            _ms(LONGEST_PAUSE),
            _ms(MEMORY),
        ]
        row = await self._run(_CLOSE, [PREFIX + host, CLOSED + cause.name, VERSION], arguments)
        return _closing(row) if row else None

    async def open(self, host: str) -> None:
        """Forget that a host was closed."""
        await self._run(_OPEN, [PREFIX + host], [])

    async def borrow(self, host: str, limit: int) -> str | None:
        """Return the name of a connection that this process may have now, None when all are in use."""
        name = uuid.uuid4().hex
        taken = await self._run(_BORROW, [f"{PREFIX}{host}:connections"], [limit, name, _BORROWED_MS])
        # Without Redis each process has the limit for itself.
        return name if taken or taken is None else None

    async def give_back(self, host: str, name: str) -> None:
        """Return a borrowed connection."""
        await self._run(_GIVE_BACK, [f"{PREFIX}{host}:connections"], [name])

    async def reserve(self, name: str, seconds: float, *, within: float) -> float | None:
        """Reserve the next `seconds` of a row of turns; see `pace.SharedTurns`."""
        limit = -1 if math.isinf(within) else round(within * _MICROSECONDS)
        found = await self._run(_RESERVE, [TURNS + name], [round(seconds * _MICROSECONDS), limit])
        return None if found is None else int(found) / _MICROSECONDS

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:  # noqa: ANN401 - as redis has it
        async def run(redis: Redis) -> Any:  # noqa: ANN401 - as redis has it
            return await redis.register_script(script)(keys=keys, args=arguments)

        return await self._redis.ask(run)


def _closing(row: Sequence[Any]) -> Closing:
    wait, strikes, cause, lasting = row
    known = Cause.__members__.get(cause.decode(), Cause.LIMITED)
    return Closing(timedelta(milliseconds=int(wait)), int(strikes), known, timedelta(milliseconds=int(lasting)))


def _ms(duration: timedelta | None) -> int:
    return -1 if duration is None else int(duration / timedelta(milliseconds=1))

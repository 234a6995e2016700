"""Whether the user of Redis may run what a worker runs; without, kombu would reconnect for ever.

Nothing is executed: each command is queued in a transaction, which is where Redis checks rights, and the transaction is
discarded.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import redis

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.domain.messages import Queue
from pixcrawler_worker.errors import PermanentError, TransientError

#: Missing rights that an error names.
_MAX_NAMED = 5
#: What is no part of a transaction, with one that has nothing in it, and the one that all other commands are queued in.
_OUTSIDE = (("PING",), ("INFO", "server"), ("WATCH", "unacked"), ("MULTI",), ("EXEC",), ("MULTI",))
#: Commands with a script and a number before their keys.
_SCRIPTS = {"EVAL", "EVALSHA"}
#: What kombu appends to the name of a queue for messages with a priority.
_PRIORITY = "\x06\x16"


def require(broker_url: str) -> None:
    """Return if the user of the broker has the rights of a worker, else raise.

    Raises:
        PermanentError: when rights are missing; the message names the commands and their keys. Or the URL is invalid.
        TransientError: when Redis does not answer.
    """
    try:
        with closing(quarantine.connect(broker_url)) as client:
            missing = _missing(client)
    except (redis.RedisError, OSError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    if missing:
        named = ", ".join(missing[:_MAX_NAMED])
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        raise PermanentError(
            f"the user of Redis may not run {named}{more}: grant it with ACL SETUSER, see deploy/redis-acl.conf"
        )


def _missing(client: Any) -> list[str]:
    """Return what is denied, as `COMMAND key`."""
    # One connection for the whole transaction.
    with client.client() as connected:
        for words in _OUTSIDE:
            if _is_denied(connected, *words):
                return [_shown(words)]
        database = connected.connection.db if connected.connection else 0
        denied = [_shown(words) for words in _needed(database) if _is_denied(connected, *words)]
        return list(dict.fromkeys(denied))


def _is_denied(client: Any, *words: str) -> bool:
    try:
        client.execute_command(*words)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:
        # A full Redis, or a version that has no such command, is not a question of rights; what EXEC is denied is the
        # reason why it aborts.
        return "NOPERM" in str(error)
    return False


def _shown(words: tuple[str, ...]) -> str:
    command, *rest = words
    key = rest[2] if command in _SCRIPTS else rest[0] if rest else ""
    return f"{command} {key.partition(_PRIORITY)[0]}".rstrip()


def _needed(database: int) -> Iterator[tuple[str, ...]]:
    """Yield a command of each kind that a worker runs on each kind of key, with arguments that Redis can parse."""
    for queue in Queue:
        for key in (queue.value, f"{queue.value}{_PRIORITY}3"):
            yield "BRPOP", key, "1"
            yield "LPUSH", key, "x"
            yield "RPUSH", key, "x"
            yield "LLEN", key
            yield "LINDEX", key, "0"
            yield "TYPE", key
    # Messages that are taken and not acknowledged.
    yield "ZADD", "unacked_index", "1", "x"
    yield "ZREM", "unacked_index", "x"
    yield "ZREVRANGEBYSCORE", "unacked_index", "1", "0"
    yield "HSET", "unacked", "x", "x"
    yield "HGET", "unacked", "x"
    yield "HDEL", "unacked", "x"
    yield "HKEYS", "unacked"
    yield "SET", "unacked_mutex", "x", "NX", "PX", "1"
    yield "EVAL", "return 0", "1", "unacked_mutex"
    # Remote control and events.
    yield "SADD", "_kombu.binding.reply.celery.pidbox", "x"
    yield "SMEMBERS", "_kombu.binding.reply.celery.pidbox"
    yield "EXISTS", "_kombu.binding.reply.celery.pidbox"
    yield "LPUSH", "x.reply.celery.pidbox", "x"
    yield "PUBLISH", f"/{database}.celery.pidbox", "x"
    yield "PUBLISH", f"/{database}.celeryev/worker.heartbeat", "x"
    yield "PSUBSCRIBE", f"/{database}.celery.pidbox"
    # The package's own: a mark, the quarantine, hosts and their rules.
    yield "GET", "pixcrawler:marker"
    yield "SET", "pixcrawler:room", "x", "PX", "1"
    yield "LPUSH", quarantine.KEY, "x"
    yield "LTRIM", quarantine.KEY, "0", "1"
    yield "LRANGE", quarantine.KEY, "0", "1"
    yield "EVALSHA", "0" * 40, "1", "pixcrawler:x"
    yield "PEXPIRE", "pixcrawler:x", "1"

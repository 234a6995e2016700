"""What Redis holds, in numbers: for metrics."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import redis

from pixcrawler_worker.broker import quarantine, queues
from pixcrawler_worker.domain.messages import Queue
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.web.hosts import Cause
from pixcrawler_worker.web.shared_hosts import CLOSED

#: Causes for which a host is closed to all workers.
_CAUSES = (Cause.LIMITED, Cause.DOWN)
#: Seconds for an answer.
_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class RedisLoad:
    """What Redis holds.

    Attributes:
        messages: that wait, by queue.
        quarantined: messages that were set aside.
        memory: bytes in use.
        max_memory: bytes that it may use; None without a limit.
        closed_hosts: hosts that all workers leave alone now, by cause.
    """

    messages: Mapping[str, int]
    quarantined: int
    memory: int
    max_memory: int | None
    closed_hosts: Mapping[str, int]


def read(broker_url: str) -> RedisLoad:
    """Return what Redis holds.

    Raises:
        PermanentError: when the URL is invalid.
        TransientError: when Redis does not answer.
    """
    waiting = queues.waiting(broker_url)
    try:
        with closing(quarantine.connect(broker_url, timeout=_TIMEOUT)) as client:
            seconds, microseconds = client.time()
            now = seconds * 1000 + microseconds // 1000
            pipe = client.pipeline(transaction=False)  # a full Redis rejects transactions
            pipe.llen(quarantine.KEY)
            pipe.info()
            for cause in _CAUSES:
                pipe.zcount(CLOSED + cause.name, f"({now}", "+inf")
            quarantined, info, *closed = pipe.execute()
    except (redis.RedisError, OSError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    return RedisLoad(
        messages={queue.value: waiting.get(queue.value, 0) for queue in Queue},
        quarantined=quarantined,
        memory=info.get("used_memory", 0),
        max_memory=info.get("maxmemory") or None,
        closed_hosts={cause.name.lower(): count for cause, count in zip(_CAUSES, closed, strict=True)},
    )

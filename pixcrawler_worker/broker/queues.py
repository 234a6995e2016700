"""What waits in the broker's queues."""

import time
from collections.abc import Iterable
from contextlib import closing

import redis

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.domain.messages import Task

#: Seconds for an answer. It is asked for while a chunk waits for its hosts, which must not wait for it long.
_TIMEOUT = 0.5
#: Seconds after which a message that is still the next one waits, because no process is free.
_PATIENCE = 0.3
_CHUNKS = tuple(task.value.encode() for task in (Task.CRAWL_CHUNK, Task.VALIDATION_CHUNK, Task.EXPORT_PART))


def has_requests(broker_url: str, queues: Iterable[str]) -> bool:
    """Return whether a message about a whole job (start, cancel, retry) waits in a queue; False without an answer.

    Those about chunks have a priority, and with it a list of their own in Redis; what others send without one is left
    out.

    Raises:
        PermanentError: when the URL is invalid.
    """
    try:
        with closing(quarantine.connect(broker_url, timeout=_TIMEOUT)) as client:
            names = list(queues)
            next_ones = [client.lindex(name, -1) for name in names]
            waiting = {name: raw for name, raw in zip(names, next_ones, strict=True) if _is_request(raw)}
            if not waiting:
                return False
            time.sleep(_PATIENCE)
            return any(client.lindex(name, -1) == raw for name, raw in waiting.items())
    except (redis.RedisError, OSError):
        return False


def _is_request(raw: object) -> bool:
    return isinstance(raw, bytes) and not any(task in raw for task in _CHUNKS)

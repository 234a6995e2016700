"""What waits in the broker's queues."""

import time
from collections.abc import Iterable, Mapping
from contextlib import closing

import redis

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.domain.messages import CHUNK_TASKS, Queue
from pixcrawler_worker.errors import TransientError

#: Seconds for an answer. It is asked for while a chunk waits for its hosts, which must not wait for it long.
_TIMEOUT = 0.5
#: Seconds after which a message that is still the next one waits, because no process is free.
_PATIENCE = 0.3
_CHUNKS = tuple(task.value.encode() for task in CHUNK_TASKS)


#: What kombu appends to the name of a queue for the list of messages with a priority.
_LISTS = ("", "\x06\x163", "\x06\x166", "\x06\x169")


def waiting(broker_url: str) -> Mapping[str, int]:
    """Return how many messages wait in each queue, of all priorities; queues without any are left out.

    Raises:
        PermanentError: when the URL is invalid.
        TransientError: when Redis does not answer.
    """
    names = [(queue.value, queue.value + suffix) for queue in Queue for suffix in _LISTS]
    try:
        with closing(quarantine.connect(broker_url)) as client:
            pipe = client.pipeline(transaction=False)  # a full Redis rejects transactions
            for _, name in names:
                pipe.llen(name)
            lengths = pipe.execute()
    except (redis.RedisError, OSError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    found: dict[str, int] = {}
    for (queue, _), length in zip(names, lengths, strict=True):
        if length:
            found[queue] = found.get(queue, 0) + length
    return found


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

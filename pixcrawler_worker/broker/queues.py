"""What waits in the broker's queues."""

from collections.abc import Iterable
from contextlib import closing

import redis

from pixcrawler_worker.broker import quarantine

#: Seconds for an answer. It is asked for while a chunk waits for its hosts, which must not wait for it long.
_TIMEOUT = 0.5


def has_requests(broker_url: str, queues: Iterable[str]) -> bool:
    """Return whether messages about whole jobs (start, cancel, retry) wait in queues; False without an answer.

    Those about chunks have a priority, and with it a list of their own in Redis.

    Raises:
        PermanentError: when the URL is invalid.
    """
    try:
        with closing(quarantine.connect(broker_url, timeout=_TIMEOUT)) as client:
            return any(client.llen(queue) for queue in queues)
    except (redis.RedisError, OSError):
        return False

"""The quarantine: a bounded list in Redis of messages that no worker could read, the newest first.

An entry says when and from which queue it was taken, why, and what it looked like, without what may be a secret.
"""

import json
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import redis
import structlog

from pixcrawler_worker import metrics
from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.domain import broker_urls
from pixcrawler_worker.domain.safe_text import safe
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.masking import MASK, mask

log = structlog.get_logger()

#: The list in Redis.
KEY = "pixcrawler:quarantine"
#: Entries that are kept: some megabytes.
MAX_ENTRIES = 10_000
#: Bytes of a message that are looked at for its excerpt, and characters of the excerpt.
_LOOKED_AT = 2000
_MAX_EXCERPT = 300
#: Characters of a name of a queue or of an id that an entry repeats.
_MAX_NAME = 100

#: For a connection to the broker, and for each of its answers, in seconds.
_TIMEOUT = 3.0

#: What an excerpt leaves out besides what every text does: bodies and arguments, and what may be a token.
_ARGUMENTS = re.compile(r'("(?:body|argsrepr|kwargsrepr)"\s*:\s*)"(?:[^"\\]|\\.)*"?', re.DOTALL)
_MASKED = "***"
_ENCODED = re.compile(r"[A-Za-z0-9+/=_-]{40,}")


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """A message that was set aside.

    Attributes:
        time: when, in ISO 8601, UTC.
        queue: where it was.
        reason: the kind of trouble.
        detail: what is wrong with it.
        size: bytes.
        task: the name of the task that it asks for, where that is known.
        task_id: its id, likewise.
        excerpt: its beginning, without what may be a secret.
    """

    time: str
    queue: str
    reason: str
    detail: str
    size: int
    task: str | None
    task_id: str | None
    excerpt: str


def describe(raw: bytes, *, queue: str, reason: Fault, detail: str) -> QuarantinedMessage:
    """Return the entry for a message."""
    beginning = raw[:_LOOKED_AT].decode(errors="replace")
    return QuarantinedMessage(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        queue=_short(queue),
        reason=reason.value,
        detail=_printable(detail)[:_MAX_EXCERPT],
        size=len(raw),
        task=_header(beginning, "task"),
        task_id=_header(beginning, "id"),
        excerpt=excerpt(beginning),
    )


def excerpt(text: str) -> str:
    """Return the beginning of a text in printable characters, without passwords, tokens, queries and encoded data."""
    text = _ENCODED.sub(MASK, mask(_ARGUMENTS.sub(rf'\1"{MASK}"', text)))
    # As the entries have always had it.
    text = text.replace(f'"{MASK}"', _MASKED).replace(MASK, _MASKED)
    return _printable(text)[:_MAX_EXCERPT]


def add(pipe: redis.client.Pipeline, entry: QuarantinedMessage) -> None:
    """Add an entry, and forget the oldest ones beyond the limit, in the transaction of a pipeline."""
    pipe.lpush(KEY, json.dumps(asdict(entry)))
    pipe.ltrim(KEY, 0, MAX_ENTRIES - 1)


def connect(broker_url: str, *, timeout: float = _TIMEOUT) -> redis.Redis:
    """Return a client for the Redis that is the broker; it connects when it is used.

    Raises:
        PermanentError: when the URL is invalid.
    """
    url = broker_urls.for_redis(broker_url)
    return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)


def read(broker_url: str, *, limit: int, timeout: float = _TIMEOUT) -> tuple[int, Sequence[QuarantinedMessage]]:
    """Return the number of messages in quarantine, and the newest ones.

    Raises:
        PermanentError: when the URL is invalid.
        TransientError: when Redis does not answer.
    """
    try:
        with closing(connect(broker_url, timeout=timeout)) as client:
            pipe = client.pipeline(transaction=False)  # a full Redis rejects transactions
            pipe.llen(KEY)
            pipe.lrange(KEY, 0, limit - 1)
            count, newest = pipe.execute()
    except (redis.RedisError, OSError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    return count, [_parsed(one) for one in newest]


def clear(broker_url: str) -> int:
    """Empty the quarantine; return how many entries it had.

    Raises:
        PermanentError: when the URL is invalid.
        TransientError: when Redis does not answer.
    """
    try:
        with closing(connect(broker_url)) as client:
            pipe = client.pipeline(transaction=False)  # a full Redis rejects transactions
            pipe.llen(KEY)
            pipe.delete(KEY)
            count, _ = pipe.execute()
    except (redis.RedisError, OSError) as error:
        raise TransientError(f"Redis does not answer: {error}") from error
    return int(count)


def summary(count: int, newest: Sequence[QuarantinedMessage]) -> str:
    """Return one line about what is in quarantine, with the commands to see and to clear it."""
    if not count:
        return "no unreadable message was set aside"
    last = f", the newest {newest[0].time} from {newest[0].queue}: {newest[0].detail}" if newest else ""
    messages = "message was" if count == 1 else "messages were"
    return (
        f"{count} unreadable {messages} set aside{last} (see them: pixcrawler quarantine; "
        "forget them: pixcrawler quarantine --clear)"
    )


class Reporter:
    """Counts each message that is set aside, and logs it in one line, but no more than some in a while."""

    #: Lines in a period, and its length in seconds.
    LINES = 20
    PERIOD = 10.0

    def __init__(self) -> None:
        self._began = 0.0
        self._lines = 0
        self._suppressed = 0

    def report(self, entry: QuarantinedMessage, error: BaseException | None = None) -> None:
        """Count an entry, and log it unless there have been too many of late.

        Args:
            entry: what was set aside.
            error: what was raised, when it is for the log with its traceback.
        """
        metrics.MESSAGES_QUARANTINED.add(entry.reason)
        now = time.monotonic()
        if now - self._began > self.PERIOD:
            if self._suppressed:
                log.error("more unreadable messages set aside", count=self._suppressed)
            self._began, self._lines, self._suppressed = now, 0, 0
        if self._lines >= self.LINES:
            self._suppressed += 1
            return
        self._lines += 1
        log.error(
            "unreadable message set aside, see `pixcrawler quarantine`",
            queue=entry.queue,
            reason=entry.detail,
            size=entry.size,
            task=entry.task,
            message_id=entry.task_id,
            exc_info=error,
        )


def _parsed(raw: bytes) -> QuarantinedMessage:
    """Return an entry; one that something else wrote is shown as it is."""
    try:
        return QuarantinedMessage(**json.loads(raw))
    except (ValueError, TypeError, RecursionError):
        return QuarantinedMessage(
            "", KEY, Fault.NOT_JSON.value, "not an entry of the quarantine", len(raw), None, None, ""
        )


def _header(text: str, name: str) -> str | None:
    """Return the first value of that name that is a plain text, from the beginning of a message that may be invalid."""
    found = re.search(rf'"{name}":\s*"([\w.:@-]{{1,{_MAX_NAME}}})"', text, re.ASCII)
    return found[1] if found else None


def _short(name: str) -> str:
    return _printable(name)[:_MAX_NAME]


def _printable(text: str) -> str:
    return safe(text)

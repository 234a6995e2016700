"""Messages about whole jobs whose process was ended before it had done what they ask for: they are sent again.

A chunk has a lease, and its message is sent again when that is over. Nothing in the database knows of a message that
starts, cancels or retries a job.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import structlog

from pixcrawler_worker.domain.messages import CHUNK_TASKS, Task, arguments_text, keywords_text

log = structlog.get_logger()

#: How often one message is sent again: one that ends its process each time, for want of memory, would do so for ever.
_MAX_SENT = 2
#: Messages that are counted; then the counts begin again.
_MAX_COUNTED = 1_000
#: Tasks of whole jobs.
_TASKS = frozenset(Task) - CHUNK_TASKS - {Task.SWEEP}


class LostMessage(NamedTuple):
    """A message: the task, and its arguments by position and by name."""

    task: Task
    args: Sequence[object]
    kwargs: Mapping[str, object]


#: Sends a message.
Send: TypeAlias = Callable[[LostMessage], None]


class LostMessages:
    """Notes messages in the event loop of a worker's main process, and sends them from the thread that sweeps."""

    def __init__(self) -> None:
        self._noted: deque[LostMessage] = deque()
        self._sent: Counter[tuple[str, str]] = Counter()

    def note(self, task: str, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
        """Note a message whose process was ended; return whether it will be sent again."""
        if task not in _TASKS:
            return False
        shown = f"{arguments_text(args)} {keywords_text(kwargs)}"
        if len(self._sent) >= _MAX_COUNTED:
            self._sent.clear()
        self._sent[task, shown] += 1
        is_again = self._sent[task, shown] <= _MAX_SENT
        if is_again:
            self._noted.append(LostMessage(Task(task), args, kwargs))
        log.warning("the process of a message was ended", message=task, arguments=shown, sent_again=is_again)
        return is_again

    def send(self, send: Send) -> None:
        """Send what is noted. What could not be sent stays.

        Raises:
            Exception: from the function that sends.
        """
        while self._noted:
            send(self._noted[0])
            self._noted.popleft()

"""Keeps the other threads of a worker's main process from work while it forks a child.

A child has only the thread that forked it. A lock that another thread held at that moment, in a library or of a module
that is being imported, is locked in the child for ever, and the child hangs as soon as it needs it; see
`docs/decisions/0061-threads-and-forks.md`.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

#: Seconds for which a fork waits for threads at work: longer than a database or a broker takes to time out.
PATIENCE = 60.0
#: Seconds for which threads wait for a fork that was put off, unless it is put off again.
_ANNOUNCED = 1.0


class ForkGate:
    """Lets either threads work or the main thread fork."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._working = 0
        #: When the fork that waits was first tried, and last.
        self._waiting: tuple[float, float] | None = None

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Work in a thread; begins when no fork waits, so that forks get their turn between two works."""
        with self._changed:
            while self._waiting and (left := self._waiting[1] + _ANNOUNCED - self._clock()) > 0:
                self._changed.wait(left)
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1

    @contextlib.contextmanager
    def fork(self) -> Iterator[bool]:
        """Yield whether the caller may fork now: no thread works, or one has for longer than `PATIENCE`.

        No thread begins to work within. If the caller may not fork, it is to try again within a second.
        """
        with self._changed:
            now = self._clock()
            first = self._waiting[0] if self._waiting else now
            if self._working and now - first < PATIENCE:
                self._waiting = (first, now)
                yield False
            else:
                self._waiting = None
                yield True
                self._changed.notify_all()


#: That of this process.
FORK_GATE = ForkGate()

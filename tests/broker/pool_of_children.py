# ruff: noqa: SLF001, T201 - there is no other way to look into the pool, and the result is printed
"""Kills children of a pool while its connection is restored, as the consumer does that; run as a script.

Usage: pool_of_children.py celery|ours. The last line is a JSON object: what the children returned, what the pool
reads from although no child writes there, and the children that it does not watch.
"""

import json
import operator
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.concurrency import asynpool
from kombu.asynchronous import Hub, set_event_loop

from pixcrawler_worker.broker.pool import ChildProcesses

ROUNDS = 4
#: The lowest file descriptors: one that is closed before a child dies moves the numbers of all pipes after it.
RESERVED = [os.open("/dev/null", os.O_RDONLY) for _ in range(ROUNDS)]


def work(number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return number


class Worker:
    """What a worker does with its pool."""

    def __init__(self, pool: type[Any]) -> None:
        self.hub = Hub()
        set_event_loop(self.hub)
        self.pool = pool(2, threads=False)
        self.returned: list[int] = []
        self.hub.call_repeatedly(0.02, int)  # no turn of the event loop takes longer
        self.restore()

    def restore(self) -> None:
        """Do what a consumer does when its connection to the broker is restored."""
        self.pool.flush()
        self.hub.reset()
        self.pool.register_with_event_loop(self.hub)
        self.loop = self.hub.create_loop()

    def send(self, number: int, seconds: float = 0.0) -> None:
        self.pool.apply_async(
            work, (number, seconds), callback=self.returned.append, error_callback=lambda _: None, correlation_id="1"
        )

    def spin(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not until() and time.monotonic() < end:
            next(self.loop)

    def is_ready(self) -> bool:
        return bool(len(self.pool._all_inqueues) == self.pool._processes)

    def busy(self) -> list[int]:
        """Return the children that have a task."""
        jobs = list(self.pool._cache.values())
        return [job._write_to.pid for job in jobs if job._accepted and job._write_to._is_alive()]

    def forgets(self, pid: int) -> bool:
        """Return whether a child is not watched any more, replaced or not."""
        return not any(child.pid == pid and getattr(child, "_sentinel_poll", None) for child in self.pool._pool)

    def unwatched(self) -> list[int]:
        return [child.pid for child in self.pool._pool if getattr(child, "_sentinel_poll", None) is None]

    def strays(self) -> list[int]:
        return sorted(fd for fd, child in self.pool._fileno_to_outq.items() if child not in self.pool._pool)


def main(pool: type[Any]) -> None:
    worker = Worker(pool)
    unwatched: list[int] = []
    for number in range(ROUNDS):
        worker.spin(worker.is_ready)
        worker.send(100, seconds=60)
        worker.spin(lambda: bool(worker.busy()))
        os.close(RESERVED.pop())
        (killed,) = worker.busy()
        os.kill(killed, signal.SIGKILL)
        worker.spin(partial(worker.forgets, killed))
        unwatched += worker.unwatched()
        for child in worker.pool._pool:
            # Otherwise the next step ends the process.
            if getattr(child, "_sentinel_poll", 0) is None:
                del child._sentinel_poll
        worker.restore()
        worker.spin(worker.is_ready)
        worker.send(number)
        worker.spin(partial(operator.contains, worker.returned, number))
    print(json.dumps({"returned": worker.returned, "strays": worker.strays(), "unwatched": unwatched}))
    for child in worker.pool._pool:
        os.kill(child.pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main({"celery": asynpool.AsynPool, "ours": ChildProcesses}[sys.argv[1]])

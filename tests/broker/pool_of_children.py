# ruff: noqa: SLF001, T201 - there is no other way to look into the pool, and the result is printed
"""Does to a pool what a consumer does, while its children die or are slow; run as a script.

Usage: pool_of_children.py celery|ours killed|stopped|locked. The last line is a JSON object.

killed: children are killed while the connection is restored. It says what the children returned, what the pool reads
from although no child writes there, and the children that it does not watch.

stopped: the pool is stopped while a child has not confirmed its task. It says whether the pool knew of the task then,
what the child returned, and whether the stop took less than 20 seconds.

locked: a child is killed while a thread of the main process works and has locked what tasks need, until the child is
replaced or for a second. It says what the next task returned, and whether the event loop went on meanwhile.
"""

import json
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.concurrency import asynpool
from kombu.asynchronous import Hub, set_event_loop

from pixcrawler_worker.broker.fork_gate import FORK_GATE
from pixcrawler_worker.broker.pool import ChildProcesses

ROUNDS = 4
LOCK = threading.Lock()
#: The lowest file descriptors: one that is closed before a child dies moves the numbers of all pipes after it.
RESERVED = [os.open("/dev/null", os.O_RDONLY) for _ in range(ROUNDS)]


def work(number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return number


class Worker:
    """What a worker does with its pool."""

    def __init__(self, pool: type[Any], children: int = 2) -> None:
        self.hub = Hub()
        set_event_loop(self.hub)
        self.pool = pool(children, threads=False)
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

    def spin(self, until: Callable[[], bool], *, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
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


def stopped(pool: type[Any]) -> None:
    worker = Worker(pool, children=1)
    worker.spin(worker.is_ready)
    (child,) = worker.pool._pool
    worker.send(0)
    worker.spin(lambda: worker.returned == [0])
    os.kill(child.pid, signal.SIGSTOP)
    worker.send(1)
    worker.spin(lambda: any(job._write_to for job in worker.pool._cache.values()) and not worker.pool._active_writes)
    worker.pool.flush()
    known = len(worker.pool._cache)
    os.kill(child.pid, signal.SIGCONT)
    if known:
        began = time.monotonic()
        worker.pool.close()
        worker.pool.join()
        print(
            json.dumps({"known": known, "returned": worker.returned, "soon": time.monotonic() - began < 20}), flush=True
        )
    else:
        print(json.dumps({"known": known}), flush=True)
        os.kill(child.pid, signal.SIGKILL)
    os._exit(0)


def work_locked(number: int) -> int:
    with LOCK:
        return number


def locked(pool: type[Any]) -> None:
    worker = Worker(pool, children=1)
    worker.spin(worker.is_ready)
    (child,) = worker.pool._pool
    has_locked = threading.Event()

    def sweep() -> None:
        with FORK_GATE.work(), LOCK:
            has_locked.set()
            end = time.monotonic() + (1 if pool is ChildProcesses else 8)  # Celery may see the death after 5 seconds
            while worker.pool._pool in ([], [child]) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.3)

    thread = threading.Thread(target=sweep)
    thread.start()
    has_locked.wait()
    os.kill(child.pid, signal.SIGKILL)
    longest, last = 0.0, time.monotonic()
    while thread.is_alive():
        next(worker.loop)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    worker.spin(lambda: worker.is_ready() and child not in worker.pool._pool)
    worker.pool.apply_async(work_locked, (7,), callback=worker.returned.append, correlation_id="1")
    worker.spin(lambda: worker.returned == [7], seconds=10 if pool is ChildProcesses else 3)
    print(json.dumps({"returned": worker.returned, "went_on": longest < 0.5}), flush=True)
    for child in worker.pool._pool:
        os.kill(child.pid, signal.SIGKILL)
    os._exit(0)


def killed(pool: type[Any]) -> None:
    worker = Worker(pool)
    unwatched: list[int] = []
    for number in range(ROUNDS):
        worker.spin(worker.is_ready)
        worker.send(100, seconds=60)
        worker.spin(lambda: bool(worker.busy()))
        os.close(RESERVED.pop())
        (busy,) = worker.busy()
        os.kill(busy, signal.SIGKILL)
        worker.spin(partial(worker.forgets, busy))
        unwatched += worker.unwatched()
        for child in worker.pool._pool:
            # Otherwise the next step ends the process.
            if getattr(child, "_sentinel_poll", 0) is None:
                del child._sentinel_poll
        worker.restore()
        worker.spin(worker.is_ready)
        worker.send(number)
        worker.spin(partial(operator.contains, worker.returned, number))
    print(json.dumps({"returned": worker.returned, "strays": worker.strays(), "unwatched": unwatched}), flush=True)
    for child in worker.pool._pool:
        os.kill(child.pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    {"killed": killed, "stopped": stopped, "locked": locked}[sys.argv[2]](
        {"celery": asynpool.AsynPool, "ours": ChildProcesses}[sys.argv[1]]
    )

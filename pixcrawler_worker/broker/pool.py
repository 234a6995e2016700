"""Celery's pool of child processes: its children know when it stops, and it is without four mistakes.

Two of these cost a worker its main process or its connections: they are about file descriptors after the death of a
child, and show when the connection to the broker breaks then. The third makes the stop of a worker take 30 seconds.
They are in Celery 5.7; see `docs/decisions/0031-children-and-descriptors.md`. The fourth has a child hang that was
forked while a thread held a lock; see `broker/fork_gate.py`.
"""

import contextlib
import enum
import gc
import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.apps import worker
from celery.concurrency import asynpool, prefork
from kombu.asynchronous import get_event_loop

from pixcrawler_worker.broker.fork_gate import FORK_GATE

#: Objects that are made before the youngest are looked at: those of about a hundred images.
_COLLECTED = 5_000
#: Seconds until a child is forked that could not be, because a thread was at work.
_FORKED_LATER = 0.05


class _Phase(enum.IntEnum):
    """Where the life of a pool is. Without a pool, as in the pool `solo`, it stays at the first."""

    NONE = 0
    RUNNING = 1
    STOPPING = 2


#: One byte that the main process and its children have in common, because these are forked from it.
_phase = mmap.mmap(-1, 1)


def is_running() -> bool:
    """Return whether this process is a child of a pool that runs."""
    return _phase[0] == _Phase.RUNNING


def is_stopping() -> bool:
    """Return whether the pool of this process stops: its children are to end what they do soon."""
    return _phase[0] == _Phase.STOPPING


def note_stop() -> None:
    """Note that the pool stops."""
    _phase[0] = _Phase.STOPPING


class StoppingWorker(worker.Worker):
    """A worker that has its children end what they do when its soft shutdown begins, and not only when that is over.

    And one that SIGHUP restarts, however it was started.
    """

    def install_platform_tweaks(self, worker: Any) -> None:
        """Handle signals."""
        if Path(sys.argv[0]).name == "__main__.py":
            # Celery restarts with these words, and the file of a package does not run without its package: a worker
            # of `python -m celery`, which those of `--detach` and `celery multi` are, would end.
            sys.argv[:1] = ["-m", "celery"]
        super().install_platform_tweaks(worker)

    def wait_for_soft_shutdown(self) -> bool:
        """Wait for the children, for `worker_soft_shutdown_timeout` at most."""
        note_stop()
        return super().wait_for_soft_shutdown()


class ChildProcesses(asynpool.AsynPool):
    """The child processes of one worker."""

    # What the stubs of Celery leave out.
    _pool: list[Any]
    _cache: dict[int, Any]
    _fileno_to_outq: dict[int, Any]
    _track_child_process: Callable[[Any, Any], None]
    _untrack_child_process: Callable[[Any, Any], None]
    _processes: int
    #: Of children that were not replaced yet.
    _exit_codes: list[int]
    #: When a try to replace them may be planned again, by the monotonic clock: before that, one is planned already.
    _next_try = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        self._exit_codes = []
        super().__init__(*args, **options)

    def _repopulate_pool(self, exitcodes: list[int]) -> None:
        """Fork a child for each that has ended; later, if a thread of this process is at work.

        Nothing waits for the thread here: the event loop goes on for the other children.
        """
        self._exit_codes += exitcodes
        if len(self._pool) >= self._processes:
            self._exit_codes.clear()
            return
        with FORK_GATE.fork() as may:
            if may:
                ended, self._exit_codes = self._exit_codes, []
                celery_pool: Any = super()
                celery_pool._repopulate_pool(ended)
            elif (now := time.monotonic()) >= self._next_try and (hub := get_event_loop()):
                self._next_try = now + _FORKED_LATER / 2
                hub.call_later(_FORKED_LATER, self.maintain_pool)

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        """Replace a child that has ended.

        The pipe that shows the end closes a moment before the process can be waited for. Celery looks at that
        moment, takes the child for alive and watches it no more: the end is noticed seconds later, and a connection
        that is restored meanwhile ends the worker, because there is nothing to watch.
        """
        self._untrack_child_process(proc, hub)
        self.maintain_pool()
        if proc in self._pool:
            # In the next turn of the event loop the pipe is read again.
            del proc._sentinel_poll
            # Out of file descriptors: a timer notices the end.
            with contextlib.suppress(OSError):
                self._track_child_process(proc, hub)

    def flush(self) -> None:
        """Forget the tasks that no child has: the connection to the broker is closed.

        Celery forgets those, too, that a child has got and has not confirmed yet. When the worker stops, it does not
        read what comes of them, and the child waits 30 seconds for that.
        """
        sent = {number: job for number, job in self._cache.items() if job._write_to and not job._accepted}
        flush: Any = super().flush
        flush()
        self._cache.update({number: job for number, job in sent.items() if job._write_to._is_alive()})

    def destroy_queues(self, queues: tuple[Any, Any, Any], proc: Any) -> Any:
        """Close the pipes of a child that ended while it had a task.

        Celery goes on to know the pipe for results by its number, and reads from that whenever the connection to the
        broker is restored: from the pipe to another child, or a connection to Redis or the database, that has the
        number by then.
        """
        results = queues[1]._reader
        if not results.closed and self._fileno_to_outq.get(results.fileno()) is proc:
            del self._fileno_to_outq[results.fileno()]
        destroy: Any = super().destroy_queues
        return destroy(queues, proc)


class ChildPool(prefork.TaskPool):
    """The pool of a worker, as `worker_pool` names it."""

    Pool = ChildProcesses

    def on_start(self) -> None:
        """Start the children.

        They inherit what is imported: no collection of garbage has to look at that again, by which a child would also
        get its own copy of that memory.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECTED)
        _phase[0] = _Phase.RUNNING
        super().on_start()

    def on_close(self) -> None:
        """Take no more tasks."""
        note_stop()
        super().on_close()

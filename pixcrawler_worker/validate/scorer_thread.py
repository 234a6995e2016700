"""A thread that calls code of others, and can be left behind when it does not answer."""

import asyncio
import ctypes
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class StoppedError(BaseException):
    """Raised in the thread of a classifier that does not answer."""


class ScorerThread(Generic[T, R]):
    """A thread that calls a function. A daemon: a process may end although it hangs.

    Args:
        function: raises nothing but `StoppedError`.
    """

    def __init__(self, function: Callable[[T], R]) -> None:
        self._function = function
        self._requests: queue.SimpleQueue[tuple[T, Future[R]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="classifier", daemon=True)
        self._thread.start()

    def request(self, item: T) -> asyncio.Future[R]:
        """Return the future result of the function."""
        answer: Future[R] = Future()
        answer.set_running_or_notify_cancel()  # a caller that gives up cannot cancel it
        self._requests.put((item, answer))
        return asyncio.wrap_future(answer)

    def end(self) -> None:
        """Let the thread end after the item that it is at."""
        self._requests.put(None)

    def stop(self) -> None:
        """Let the thread end now, if it runs Python code."""
        # Before the request to end, so that the thread, and not another one with its id, is the one that is stopped.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(StoppedError)
        )
        self.end()

    def _run(self) -> None:
        try:
            while (request := self._requests.get()) is not None:
                item, answer = request
                answer.set_result(self._function(item))
        except StoppedError:
            pass

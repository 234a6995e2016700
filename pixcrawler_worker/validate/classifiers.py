"""Classifiers as plug-ins: the one file to read before writing one.

A classifier is a function that an installed package names in the entry-point group `pixcrawler.classifiers`. It takes
an image and returns a score; the rules have the threshold above which the score is a finding:

    {"classifiers": {"watermark": {"severity": "error", "score_above": 0.8}}}
"""

import asyncio
import ctypes
import math
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from pixcrawler_worker.jobs.internal_errors import describe
from pixcrawler_worker.plugins import Plugins

CLASSIFIERS = Plugins("classifier")
#: Longer side in pixels of the images that classifiers get.
SIDE = 256

#: Images without an answer in time after which a chunk does not call a classifier again.
_MAX_TIMEOUTS = 3

#: Takes a JPEG of at most 256 pixels a side, upright, which the decoder of the worker wrote: it is safe to decode.
#: Returns a score. Runs in a thread, for one image after the other.
Classifier = Callable[[bytes], float]


def load(names: Iterable[str]) -> dict[str, Classifier]:
    """Return classifiers by name.

    Raises:
        PermanentError: when one is not installed, or its package is broken.
    """
    return {name: CLASSIFIERS.load(name) for name in names}


def score(classifier: Classifier, jpeg: bytes) -> float | str:
    """Return the score of a classifier, or an error message: its bugs do not prevent a validation result."""
    try:
        found = float(classifier(jpeg))
    except _StoppedError:
        raise
    except BaseException as error:  # noqa: BLE001 - a plug-in may raise anything; the finding shows it
        return f"failed: {describe(error)}"
    return found if math.isfinite(found) else f"failed: returned {found}"


class _StoppedError(BaseException):
    """Raised in the thread of a classifier that does not answer."""


class Scorer:
    """Calls a classifier for one image after the other, in a thread of its own, and waits for each for a limited time.

    A classifier that does not answer in time is stopped if it runs Python code; a call into another library cannot be
    stopped, and its thread is left behind.

    Args:
        classifier: the plug-in.
        seconds: limit of one call.
    """

    def __init__(self, classifier: Classifier, *, seconds: float) -> None:
        self._classifier = classifier
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._thread: _Thread | None = None
        self._timeouts = 0

    async def score(self, jpeg: bytes) -> float | str:
        """Return the score of an image, or an error message."""
        async with self._turn:
            if self._timeouts >= _MAX_TIMEOUTS:
                return f"failed: not called, because it did not answer for {_MAX_TIMEOUTS} images"
            if self._thread is None:
                self._thread = _Thread(self._classifier)
            answer = self._thread.request(jpeg)
            done, _ = await asyncio.wait([answer], timeout=self._seconds)
            if done:
                return answer.result()
            self._thread.stop()
            self._thread = None
            self._timeouts += 1
            return f"failed: no answer within {self._seconds:g} s"

    def close(self) -> None:
        """End the thread, after the image that it may still be at."""
        if self._thread is not None:
            self._thread.end()
            self._thread = None


class _Thread:
    """A thread that calls a classifier. A daemon: a process may end although it hangs."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._requests: queue.SimpleQueue[tuple[bytes, Future[float | str]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="classifier", daemon=True)
        self._thread.start()

    def request(self, jpeg: bytes) -> asyncio.Future[float | str]:
        """Return the future score of an image."""
        answer: Future[float | str] = Future()
        answer.set_running_or_notify_cancel()  # a caller that gives up cannot cancel it
        self._requests.put((jpeg, answer))
        return asyncio.wrap_future(answer)

    def end(self) -> None:
        """Let the thread end after the image that it is at."""
        self._requests.put(None)

    def stop(self) -> None:
        """Let the thread end now, if it runs Python code."""
        # Before the request to end, so that the thread, and not another one with its id, is the one that is stopped.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_StoppedError)
        )
        self.end()

    def _run(self) -> None:
        try:
            while (request := self._requests.get()) is not None:
                jpeg, answer = request
                answer.set_result(score(self._classifier, jpeg))
        except _StoppedError:
            pass

"""Classifiers as plug-ins: the one file to read before writing one.

A classifier is a function that an installed package names in the entry-point group `pixcrawler.classifiers`. It takes
an image and returns a score; the rules have the threshold above which the score is a finding:

    {"classifiers": {"watermark": {"severity": "error", "score_above": 0.8}}}
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from functools import partial

from pixcrawler_worker.jobs.internal_errors import describe
from pixcrawler_worker.plugins import Plugins
from pixcrawler_worker.validate.scorer_thread import ScorerThread, StoppedError

CLASSIFIERS = Plugins("classifier")
#: Longer side in pixels of the images that classifiers get.
SIDE = 256

#: Images without an answer in time after which a chunk does not call a classifier again.
MAX_TIMEOUTS = 3

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
    except StoppedError:
        raise
    except BaseException as error:  # noqa: BLE001 - a plug-in may raise anything; the finding shows it
        return f"failed: {describe(error)}"
    return found if math.isfinite(found) else f"failed: returned {found}"


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
        self._thread: ScorerThread[bytes, float | str] | None = None
        self._timeouts = 0

    async def score(self, jpeg: bytes) -> float | str:
        """Return the score of an image, or an error message."""
        async with self._turn:
            if self._timeouts >= MAX_TIMEOUTS:
                return f"failed: not called, because it did not answer for {MAX_TIMEOUTS} images"
            if self._thread is None:
                self._thread = ScorerThread(partial(score, self._classifier))
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

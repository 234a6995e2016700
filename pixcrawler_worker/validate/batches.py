"""Scoring images in batches: those that wait while a batch is scored are the next one."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pixcrawler_worker.classifiers.protocol import BatchClassifier
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.jobs.internal_errors import describe
from pixcrawler_worker.validate.classifiers import MAX_TIMEOUTS
from pixcrawler_worker.validate.scorer_thread import ScorerThread, StoppedError

#: The scores of an image, or an error message.
ImageScores = Mapping[str, float] | str

#: Images of a batch: with more of them, a model takes no less time for each, and more memory (benchmarks/scoring.py).
MAX_BATCH = 8
#: A batch is as large as can be expected to take this share of the time that it may take.
_EXPECTED_SHARE = 0.25
#: Digits of a score that are kept.
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An image that waits for its scores."""

    pixels: bytes
    label: str | None
    scores: asyncio.Future[ImageScores]


class BatchScorer:
    """Calls a classifier for batches of images, in a thread of its own, and waits for each batch for a limited time.

    A batch that fails is scored again one image after the other: what one of them raises is its own.

    Args:
        classifier: opened.
        seconds: limit of one batch.
    """

    def __init__(self, classifier: BatchClassifier, *, seconds: float) -> None:
        self.batches = self.images = 0
        self._classifier = classifier
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._thread: ScorerThread[Sequence[_Waiting], list[ImageScores]] | None = None
        self._max_batch = 1  # until one was timed
        self._timeouts = 0

    @property
    def crop(self) -> Crop:
        """The part of each image to score."""
        return self._classifier.crop

    async def score(self, pixels: bytes, label: str | None) -> ImageScores:
        """Return the scores of an image.

        Args:
            pixels: of the part that `crop` names.
            label: of the image; None when it has none.
        """
        image = _Waiting(pixels, label, asyncio.get_running_loop().create_future())
        self._waiting.append(image)
        try:
            async with self._turn:
                while not image.scores.done():
                    await self._score_next()
        except asyncio.CancelledError:
            image.scores.cancel()
            raise
        return image.scores.result()

    def close(self) -> None:
        """End the thread, after the batch that it may still be at."""
        if self._thread is not None:
            self._thread.end()
            self._thread = None

    async def _score_next(self) -> None:
        """Score the images that have waited for longest. The caller has the turn."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._max_batch:
            image = self._waiting.popleft()
            if not image.scores.done():  # its caller may have given up
                batch.append(image)
        try:
            found = await self._scores(batch)
        except asyncio.CancelledError:
            # The caller gave up, and not those of the others.
            self._waiting.extendleft(reversed(batch))
            raise
        for image, scores in zip(batch, found, strict=True):
            if not image.scores.done():
                image.scores.set_result(scores)

    async def _scores(self, batch: Sequence[_Waiting]) -> Sequence[ImageScores]:
        if self._timeouts >= MAX_TIMEOUTS:
            return [f"failed: not called, because it did not answer for {MAX_TIMEOUTS} batches"] * len(batch)
        if self._thread is None:
            self._thread = ScorerThread(partial(_score_batch, self._classifier))
        begun = time.monotonic()
        answer = self._thread.request(batch)
        done, _ = await asyncio.wait([answer], timeout=self._seconds)
        if not done:
            self._thread.stop()
            self._thread = None
            self._timeouts += 1
            return [f"failed: no answer within {self._seconds:g} s"] * len(batch)
        self.batches += 1
        self.images += len(batch)
        seconds_per_image = (time.monotonic() - begun) / len(batch)
        affordable = self._seconds * _EXPECTED_SHARE / max(seconds_per_image, 1e-6)
        self._max_batch = max(1, min(MAX_BATCH, int(affordable)))
        return answer.result()


def _score_batch(classifier: BatchClassifier, batch: Sequence[_Waiting]) -> list[ImageScores]:
    """Return the scores of images, or what went wrong with each."""
    try:
        crop = classifier.crop
        pixels = np.frombuffer(b"".join(one.pixels for one in batch), np.uint8)
        shaped = pixels.reshape(len(batch), crop.height, crop.width, 3)
        found = classifier.scores(shaped, [one.label for one in batch])
        if len(found) != len(batch):
            raise ValueError(f"{len(found)} scores of {len(batch)} images")  # noqa: TRY301 - as whatever it raises
        return [_checked(scores) for scores in found]
    except StoppedError:
        raise
    except BaseException as error:  # noqa: BLE001 - a plug-in may raise anything; the finding shows it
        if len(batch) == 1:
            return [f"failed: {describe(error)}"]
    return [scores for one in batch for scores in _score_batch(classifier, [one])]


def _checked(scores: Mapping[str, float]) -> ImageScores:
    numbers = {name: float(score) for name, score in scores.items()}
    odd = next((number for number in numbers.values() if not math.isfinite(number)), None)
    if odd is not None:
        return f"failed: returned {odd}"
    return {name: round(number, _DIGITS) for name, number in numbers.items()}

"""Scoring in batches: who waits is scored together, and whatever one image does to a model is its own."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from pixcrawler_worker.classifiers.protocol import BatchClassifier, ClassifiedJob, ClassifierConfig, Pixels
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.validate.batches import MAX_BATCH, BatchScorer, ImageScores

CROP = Crop(width=2, height=1, resized=2)


class Double(BatchClassifier):
    """A classifier that returns what a function makes of the first byte of each image."""

    name: ClassVar[str] = "double"
    crop = CROP

    def __init__(self, score: Callable[[int], Any] = lambda number: number) -> None:
        self._score = score
        self.batches: list[list[int]] = []

    @classmethod
    def require(cls, config: ClassifierConfig) -> None:
        del config

    @classmethod
    def open(cls, config: ClassifierConfig, job: ClassifiedJob) -> Self:
        del config, job
        return cls()

    def scores(self, pixels: Pixels, labels: Sequence[str | None]) -> Sequence[Mapping[str, float]]:
        assert pixels.shape == (len(labels), 1, 2, 3)
        assert pixels.dtype == np.uint8
        numbers = [int(one[0, 0, 0]) for one in pixels]
        self.batches.append(numbers)
        return [{"double": self._score(number)} for number in numbers]


def image(number: int) -> bytes:
    return bytes([number]) * CROP.size


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


async def score_all(scorer: BatchScorer, numbers: Sequence[int]) -> list[ImageScores]:
    try:
        return await asyncio.gather(*(scorer.score(image(number), None) for number in numbers))
    finally:
        scorer.close()


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_those_that_wait_are_the_next_batch(run: Run) -> None:
    classifier = Double()
    scorer = BatchScorer(classifier, seconds=1000)
    numbers = list(range(40))
    assert run(score_all(scorer, numbers)) == [{"double": number} for number in numbers]
    # The first one alone, to see how long it takes.
    full, rest = divmod(39, MAX_BATCH)
    assert [len(batch) for batch in classifier.batches] == [1, *[MAX_BATCH] * full, rest]
    assert [number for batch in classifier.batches for number in batch] == numbers
    assert (scorer.batches, scorer.images) == (full + 2, 40)


def test_batches_are_as_large_as_there_is_time_for(run: Run) -> None:
    def slow(number: int) -> int:
        time.sleep(0.1)
        return number

    classifier = Double(slow)
    # A quarter of 1.7 s is enough for four of them, or for less on a busy machine.
    assert len(run(score_all(BatchScorer(classifier, seconds=1.7), range(12)))) == 12
    assert max(len(batch) for batch in classifier.batches) <= 4


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (math.nan, "failed: returned nan"),
        (-math.inf, "failed: returned -inf"),
        ("high", "failed: ValueError: could not convert string to float: 'high'"),
        (ValueError("odd pixels"), "failed: ValueError: odd pixels"),
        (SystemExit(3), "failed: SystemExit: 3"),
        (MemoryError(), "failed: MemoryError"),
    ],
)
def test_what_one_image_does_to_a_model_is_its_own(run: Run, result: Any, expected: str) -> None:
    def odd(number: int) -> Any:
        if number != 5:
            return number / 3
        if isinstance(result, BaseException):
            raise result
        return result

    found = run(score_all(BatchScorer(Double(odd), seconds=1000), range(9)))
    assert found == [expected if number == 5 else {"double": round(number / 3, 4)} for number in range(9)]


def test_a_model_that_returns_too_little_fails(run: Run) -> None:
    class Short(Double):
        def scores(self, pixels: Pixels, labels: Sequence[str | None]) -> Sequence[Mapping[str, float]]:
            return super().scores(pixels, labels)[1:]

    assert (
        run(score_all(BatchScorer(Short(), seconds=1000), range(3))) == ["failed: ValueError: 0 scores of 1 images"] * 3
    )


def test_a_model_that_hangs_is_stopped_and_not_called_for_ever(run: Run) -> None:
    def hang(number: int) -> int:
        while number < 3:
            pass
        return number

    scorer = BatchScorer(Double(hang), seconds=0.2)
    found = run(score_all(scorer, range(6)))
    late = "failed: no answer within 0.2 s"
    assert found == [late] * 3 + ["failed: not called, because it did not answer for 3 batches"] * 3
    end = time.monotonic() + 20
    while any(thread.name == "classifier" for thread in threading.enumerate()):
        assert time.monotonic() < end, "a thread is left behind"
        time.sleep(0.01)


@pytest.mark.timeout(30)
def test_callers_that_give_up_cost_the_others_nothing(run: Run) -> None:
    begun, going = threading.Event(), threading.Event()

    def wait(number: int) -> int:
        if number > 0:
            begun.set()
            assert going.wait(30)
        return number

    async def score() -> list[ImageScores]:
        classifier = Double(wait)
        scorer = BatchScorer(classifier, seconds=1000)
        tasks = [asyncio.create_task(scorer.score(image(number), None)) for number in range(6)]
        assert await asyncio.to_thread(begun.wait, 30)
        assert classifier.batches[1] == [1, 2, 3, 4, 5]
        for number in (1, 3):  # the one that waits for the batch, and another one of it
            tasks[number].cancel()
        await asyncio.sleep(0)
        going.set()
        try:
            return await asyncio.gather(*(task for number, task in enumerate(tasks) if number not in {1, 3}))
        finally:
            scorer.close()

    assert run(score()) == [{"double": number} for number in (0, 2, 4, 5)]

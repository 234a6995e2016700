import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from pixcrawler_worker.export.prefetch import prefetch


class _Line:
    """Coroutines that wait for their gates; records which were started and cancelled."""

    def __init__(self, count: int, *, opened: int) -> None:
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.gates = [asyncio.Event() for _ in range(count)]
        for gate in self.gates[:opened]:
            gate.set()

    async def works(self) -> AsyncIterator[Coroutine[Any, Any, int]]:
        for number in range(len(self.gates)):
            yield self.work(number)

    async def work(self, number: int) -> int:
        self.started.append(number)
        try:
            await self.gates[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        return number


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_results_come_in_their_order_whichever_ends_first(limit: int) -> None:
    async def run() -> list[int]:
        line = _Line(5, opened=0)
        for delay, gate in enumerate(reversed(line.gates)):
            asyncio.get_running_loop().call_later(delay / 100, gate.set)
        return [number async for number in prefetch(line.works(), limit=limit)]

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


def test_the_next_coroutines_up_to_the_limit_run_while_a_result_is_used() -> None:
    async def run() -> None:
        line = _Line(5, opened=1)
        results = prefetch(line.works(), limit=2)
        assert await anext(results) == 0
        await asyncio.sleep(0)
        assert line.started == [0, 1]
        await results.aclose()

    asyncio.run(run())


def test_running_coroutines_are_cancelled_when_the_generator_is_closed() -> None:
    async def run() -> None:
        line = _Line(5, opened=1)
        results = prefetch(line.works(), limit=3)
        assert await anext(results) == 0
        await results.aclose()
        assert line.cancelled == [1, 2]

    asyncio.run(run())


def test_an_exception_is_raised_in_place_of_its_result_and_cancels_the_others() -> None:
    async def broken() -> int:
        raise OSError("broken")

    async def run() -> None:
        line = _Line(2, opened=1)

        async def works() -> AsyncIterator[Coroutine[Any, Any, int]]:
            yield line.work(0)
            yield broken()
            yield line.work(1)

        results = prefetch(works(), limit=3)
        assert await anext(results) == 0
        with pytest.raises(OSError, match="broken"):
            await anext(results)
        assert line.cancelled == [1]

    asyncio.run(run())

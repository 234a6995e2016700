import asyncio
import os
from contextlib import ExitStack, aclosing, suppress

import psutil
import pytest
from inspection import samples

from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.decoders import Decoders, share_of_cores
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
JPEG = samples.variant("jpg")
FACTS = inspect_bytes(JPEG, LIMITS)
PIXELS = FACTS.width * FACTS.height


async def _inspect(decoders: Decoders, count: int) -> set[int]:
    """Have images inspected at the same time; return the ids of the processes that did it."""
    used = set()

    async def inspect() -> None:
        with decoders.chosen(PIXELS) as decoder:
            assert await decoder.inspect(JPEG) == FACTS
            assert decoder.pid is not None
            used.add(decoder.pid)

    await asyncio.gather(*(inspect() for _ in range(count)))
    return used


def _running(pids: set[int]) -> set[int]:
    return {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize(("count", "processes"), [(1, 1), (8, 1), (9, 2), (17, 3), (60, 3)])
def test_further_processes_start_while_all_have_images_waiting(count: int, processes: int) -> None:
    async def run() -> None:
        async with aclosing(Decoder(LIMITS)) as first:
            async with aclosing(Decoders(first, LIMITS, 3)) as decoders:
                used = await _inspect(decoders, count)

                assert len(used) == processes
                assert len(await _inspect(decoders, processes)) == processes  # one for each
            assert first.pid in used
            assert _running(used) == {first.pid}
            assert await first.inspect(JPEG) == FACTS

    asyncio.run(run())


def test_an_image_gets_the_process_with_the_fewest() -> None:
    first = Decoder(LIMITS)
    decoders = Decoders(first, LIMITS, 2)
    with ExitStack() as held:
        chosen = [held.enter_context(decoders.chosen(PIXELS)) for _ in range(20)]
        assert [chosen.count(decoder) for decoder in dict.fromkeys(chosen)] == [10, 10]
        with decoders.chosen(PIXELS) as one, decoders.chosen(PIXELS) as other:
            assert one is not other
    with suppress(ZeroDivisionError), decoders.chosen(PIXELS) as one:
        assert one is first
        _ = 1 / 0
    with decoders.chosen(PIXELS) as again, decoders.chosen(PIXELS) as next_one:  # it waits no more
        assert again is first
        assert next_one is not first


@pytest.mark.parametrize("pixels", [12_000_001, 50_000_000])
def test_large_images_are_for_the_first_process(pixels: int) -> None:
    first = Decoder(LIMITS)
    decoders = Decoders(first, LIMITS, 3)
    with ExitStack() as held:
        assert {held.enter_context(decoders.chosen(pixels)) for _ in range(40)} == {first}
        assert held.enter_context(decoders.chosen(12_000_000)) is not first


def test_parts_of_a_work_share_the_cores() -> None:
    shares = [share_of_cores(parts) for parts in (1, 2, 3, 4, 5, 1000)]

    cores = min(len(os.sched_getaffinity(0)), 4)
    assert shares == [cores, max(cores // 2, 1), max(cores // 3, 1), 1, 1, 1]

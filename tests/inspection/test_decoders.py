import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import psutil
import pytest
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.decoders import Decoders, share, share_of_cores
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
JPEG = samples.variant("jpg")
FACTS = inspect_bytes(JPEG, LIMITS)
MEGAPIXEL = 1_000_000
#: Hangs at its start: waiting for it would take a minute.
HANGING = ("-c", "import time; time.sleep(600)")


async def used_for(decoders: Decoders, sizes: Sequence[int]) -> list[int]:
    """Have images inspected at the same time, by their pixels; return the ids of the processes that did it."""

    async def work(decoder: Decoder) -> int:
        assert await decoder.inspect(JPEG) == FACTS
        assert decoder.pid is not None
        return decoder.pid

    return await asyncio.gather(*(decoders.run(work, pixels=pixels) for pixels in sizes))


def running(pids: set[int]) -> set[int]:
    """Return the processes that have not ended."""
    return {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


def children() -> set[int]:
    """Return the running processes that this one has started itself."""
    return running({child.pid for child in psutil.Process().children()})


def left(before: set[int], *, first: Decoder) -> set[int]:
    """Return the children that do not end within seconds, but for earlier ones and the process of the first decoder.

    A busy system ends processes late.
    """
    deadline = time.monotonic() + 10
    while (found := children() - before - {first.pid}) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.mark.parametrize(
    ("sizes", "processes"),
    [
        ([100] * 8, 1),
        ([100] * 9, 2),
        ([100] * 60, 3),
        ([8 * MEGAPIXEL] * 2, 2),
        ([3 * MEGAPIXEL] * 3, 1),
    ],
)
def test_further_processes_start_while_all_are_busy(sizes: Sequence[int], processes: int) -> None:
    async def run() -> None:
        async with aclosing(Decoder(LIMITS)) as first:
            async with aclosing(Decoders(first, LIMITS, 3)) as decoders:
                used = await used_for(decoders, sizes)

                assert len(set(used)) == processes
                # They share what comes next, whether they would start for it or not.
                assert len(set(await used_for(decoders, [100] * processes))) == processes
            assert first.pid in used
            assert running(set(used)) == {first.pid}
            assert await first.inspect(JPEG) == FACTS

    asyncio.run(run())


def test_large_images_are_for_the_first_process() -> None:
    async def run() -> None:
        async with aclosing(Decoder(LIMITS)) as first, aclosing(Decoders(first, LIMITS, 3)) as decoders:
            large = await used_for(decoders, [12 * MEGAPIXEL + 1] * 9)
            assert set(large) == {first.pid}
            assert set(await used_for(decoders, [12 * MEGAPIXEL])) == {first.pid}, "it has nothing else to do"

    asyncio.run(run())


def test_an_image_that_is_larger_than_its_row_says_is_for_the_first_process() -> None:
    body = samples.encoded(Image.new("L", (4000, 4000)), "PNG")

    async def run() -> list[ImageFacts]:
        async with aclosing(Decoder(LIMITS)) as first, aclosing(Decoders(first, LIMITS, 2)) as decoders:
            return await asyncio.gather(
                *(decoders.run(lambda decoder: decoder.inspect(body), pixels=100) for _ in range(12))
            )

    assert {facts.width for facts in asyncio.run(run())} == {4000}


def test_what_one_process_rejects_no_other_is_asked() -> None:
    asked = []

    async def work(decoder: Decoder) -> None:
        asked.append(decoder)
        await asyncio.sleep(0)
        raise RejectedError(Reason.CORRUPT, "broken")

    async def run() -> None:
        decoders = Decoders(Decoder(LIMITS), LIMITS, 2)
        found = await asyncio.gather(*(decoders.run(work, pixels=100) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(error, RejectedError) for error in found)

    asyncio.run(run())
    assert len(asked) == 20
    assert len(set(asked)) == 2


def test_a_further_process_that_cannot_start_costs_no_image() -> None:
    async def run() -> None:
        async with aclosing(Decoder(LIMITS)) as first, aclosing(Decoders(first, LIMITS, 3)) as decoders:
            failed = []

            async def work(decoder: Decoder) -> ImageFacts:
                if decoder is not first:
                    failed.append(decoder)
                    await asyncio.sleep(0)
                    raise TransientError("the image decoder does not start")
                return await decoder.inspect(JPEG)

            found = await asyncio.gather(*(decoders.run(work, pixels=100) for _ in range(60)))
            assert found == [FACTS] * 60
            assert failed
            before = len(failed)
            await asyncio.gather(*(decoders.run(work, pixels=100) for _ in range(60)))
            assert len(failed) == before, "it is not tried again"
            with pytest.raises(TransientError):
                await decoders.run(_fail, pixels=100)

    asyncio.run(run())


async def _fail(_: Decoder) -> None:
    raise TransientError("the first one fails, too")


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_no_process_is_left_when_closing_is_cancelled(pause: float) -> None:
    async def work(decoders: Decoders) -> None:
        async with aclosing(decoders):
            await used_for(decoders, [100] * 60)

    async def run() -> set[int]:
        async with aclosing(Decoder(LIMITS)) as first:
            await first.inspect(JPEG)
            before = children()
            for _ in range(2):
                decoders = Decoders(first, LIMITS, 3, program=HANGING)
                task = asyncio.create_task(work(decoders))
                await asyncio.sleep(0.2)
                assert len(children()) > len(before)
                for _ in range(2):
                    task.cancel()
                    await asyncio.sleep(pause)
                await asyncio.wait([task], timeout=10)
                assert task.cancelled()
            # The first one may have a new process: that of an image whose caller was cancelled is ended.
            return left(before, first=first)

    assert asyncio.run(run()) == set()


def test_a_decoder_whose_closing_is_cancelled_leaves_no_process() -> None:
    async def run() -> set[int]:
        before = children()
        decoder = Decoder(LIMITS, HANGING)
        waiting = asyncio.create_task(decoder.inspect(JPEG))
        await asyncio.sleep(0.2)
        assert len(children() - before) == 1
        waiting.cancel()
        closing = asyncio.create_task(decoder.aclose())
        await asyncio.sleep(0.1)
        assert not closing.done(), "it waits for the start"
        closing.cancel()
        await asyncio.wait([waiting, closing], timeout=10)
        begun = time.monotonic()
        await decoder.aclose()  # what is left is to see that it has ended
        assert time.monotonic() - begun < 5
        return children() - before

    assert asyncio.run(run()) == set()


@pytest.mark.parametrize(("cores", "shares"), [(1, [1, 1, 1, 1]), (2, [2, 1, 1, 1]), (16, [4, 2, 1, 1])])
def test_parts_of_a_work_share_the_cores(cores: int, shares: list[int]) -> None:
    assert [share(cores, parts) for parts in (1, 2, 3, 1000)] == shares
    assert 1 <= share_of_cores(1) <= 4
    assert share_of_cores(1000) == 1

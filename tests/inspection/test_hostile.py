import asyncio
import random
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from inspection import samples

from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

#: Small enough that a size made up by a mutation costs next to nothing.
SMALL = Limits(max_pixels=1_000_000, max_frame_pixels=4_000_000)


def rejection(body: bytes, limits: Limits) -> Reason | None:
    """Why `body` is rejected, or None when it passes; every other exception fails the test."""
    try:
        inspect_bytes(body, limits)
    except RejectedError as rejected:
        return rejected.reason
    return None


@pytest.mark.parametrize("name", samples.hostile())
def test_a_hostile_file_is_rejected_with_its_reason(name: str) -> None:
    make, reason = samples.hostile()[name]
    body = make()
    with pytest.raises(RejectedError) as rejected:
        inspect_bytes(body, Limits())
    assert rejected.value.reason is reason


def test_hostile_files_take_no_memory_and_the_process_survives() -> None:
    async def story() -> tuple[int, int, set[int | None]]:
        async with aclosing(Decoder(Limits())) as decoder:
            await decoder.inspect(samples.variant("png"))
            assert decoder.pid
            before = peak_memory(decoder.pid)
            pids: set[int | None] = set()
            for make, _ in samples.hostile().values():
                with pytest.raises(RejectedError):
                    await decoder.inspect(make())
                pids.add(decoder.pid)
            return before, peak_memory(decoder.pid), pids

    before, after, pids = asyncio.run(story())

    assert len(pids) == 1
    assert after - before < 16 * 2**20


def peak_memory(pid: int) -> int:
    """Return the largest resident set of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def cuts(size: int) -> Iterator[int]:
    """Lengths to cut a file of `size` bytes to: its beginning and its end byte by byte, the middle in steps."""
    yield from range(1, min(40, size))
    yield from range(40, size - 40, max(1, size // 40))
    yield from range(max(40, size - 40), size)


@pytest.mark.parametrize("name", samples.VARIANTS)
def test_a_truncated_file_never_passes(name: str) -> None:
    body = samples.variant(name)
    assert rejection(body, SMALL) is None

    assert [length for length in cuts(len(body)) if rejection(body[:length], SMALL) is None] == []


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_large_truncated_jpeg_never_passes(options: dict[str, bool]) -> None:
    # Large enough that the decoder scales by 1/8 and is fed more than once.
    body = samples.encoded(samples.scene(1600, 1200), "JPEG", quality=93, **options)
    assert len(body) > 2 * 65_536

    lengths = [*range(1000, len(body), len(body) // 10), *range(len(body) - 12, len(body))]
    assert [length for length in lengths if rejection(body[:length], Limits()) is None] == []


def test_bytes_after_the_end_of_an_image_are_ignored() -> None:
    for name in samples.VARIANTS:
        if name not in {"avif", "heic"}:  # Their boxes have to fill the file.
            assert rejection(samples.variant(name) + b"\0appended", SMALL) is None


def test_damage_that_decoders_repair_without_an_error_passes() -> None:
    jpeg = bytearray(samples.variant("jpg"))
    jpeg[-40:-20] = bytes(20)

    assert rejection(bytes(jpeg), SMALL) is None
    assert rejection(samples.png(90, 90, rows=bytes(91 * 3)), SMALL) is None


@pytest.mark.parametrize("name", samples.VARIANTS)
def test_random_damage_is_rejected_or_survived_but_never_raises(name: str) -> None:
    original = samples.variant(name, 48, 40)
    chance = random.Random(name)
    for _ in range(100):
        body = bytearray(original)
        for _ in range(chance.randint(1, 8)):
            # Half of the damage goes where the structure is.
            where = chance.randrange(min(len(body), 64) if chance.random() < 0.5 else len(body))
            match chance.randrange(4):
                case 0:
                    body[where] = chance.randrange(256)
                case 1:
                    body[where : where + 4] = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
                case 2:
                    del body[where : where + chance.randint(1, 20)]
                case _:
                    body[where:where] = chance.randbytes(chance.randint(1, 20))
            body = body or bytearray(b"\0")
        rejection(bytes(body), SMALL)


def test_random_damage_does_not_kill_the_process() -> None:
    async def story() -> tuple[int, set[int | None]]:
        chance = random.Random(1)
        pids: set[int | None] = set()
        good = 0
        async with aclosing(Decoder(SMALL)) as decoder:
            for name in samples.VARIANTS:
                for _ in range(20):
                    body = bytearray(samples.variant(name, 48, 40))
                    for _ in range(3):
                        body[chance.randrange(len(body))] = chance.randrange(256)
                    good += isinstance(await settled(decoder, bytes(body)), ImageFacts)
                    pids.add(decoder.pid)
        return good, pids

    good, pids = asyncio.run(story())

    assert len(pids) == 1
    assert 0 < good < 240


async def settled(decoder: Decoder, body: bytes) -> ImageFacts | RejectedError:
    try:
        return await decoder.inspect(body)
    except RejectedError as rejected:
        return rejected

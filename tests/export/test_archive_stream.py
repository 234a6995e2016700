import asyncio
import hashlib
import random
from collections.abc import Sequence

import pytest

from pixcrawler_worker.export.archive_formats import Plain
from pixcrawler_worker.export.archive_stream import ArchiveStream

MEGABYTES = 1024 * 1024


class _Sink:
    """Takes its time, and may refuse."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.taken = b""
        self.busy = False
        self.began = asyncio.Event()
        self._refuses = refuses

    async def write(self, blocks: Sequence[bytes]) -> None:
        assert not self.busy, "one block after the other"
        self.busy = True
        self.began.set()
        await asyncio.sleep(0.05)
        self.busy = False
        if self._refuses:
            raise OSError("full")
        self.taken += b"".join(blocks)


async def _failing(sink: _Sink) -> None:
    async with ArchiveStream(sink, Plain()) as stream:
        await stream.add("x", size=4 * MEGABYTES, crc=0, blocks=[bytes(4 * MEGABYTES)])
        await sink.began.wait()
        raise ValueError("a bug")


async def _written(sink: _Sink, bodies: Sequence[bytes]) -> tuple[int, str]:
    async with ArchiveStream(sink, Plain()) as stream:
        for body in bodies:
            await stream.add("x", size=len(body), crc=0, blocks=[body])
        return await stream.close()


def test_what_is_gathered_comes_out_in_its_order_with_its_size_and_digest() -> None:
    bodies = [random.Random(number).randbytes(700_000) for number in range(20)]
    sink = _Sink()
    size, sha256 = asyncio.run(_written(sink, bodies))
    assert sink.taken == b"".join(bodies)
    assert (size, sha256) == (len(sink.taken), hashlib.sha256(sink.taken).hexdigest())


def test_what_is_being_written_is_waited_for_when_something_else_fails() -> None:
    async def run() -> None:
        sink = _Sink()
        with pytest.raises(ValueError, match="a bug"):
            await _failing(sink)
        assert not sink.busy
        assert len(sink.taken) == 4 * MEGABYTES
        refusing = _Sink(refuses=True)
        with pytest.raises(ValueError, match="a bug"):
            await _failing(refusing)

    asyncio.run(run())


def test_a_sink_that_refuses_is_told_of() -> None:
    with pytest.raises(OSError, match="full"):
        asyncio.run(_written(_Sink(refuses=True), [bytes(4 * MEGABYTES)]))

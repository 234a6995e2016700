import asyncio
import hashlib
import random
from collections.abc import Sequence

import pytest

from pixcrawler_worker.export.archive_formats import Plain
from pixcrawler_worker.export.archive_stream import ArchiveStream

MEGABYTES = 1024 * 1024


class _Sink:
    """A slow sink, which may fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.received = b""
        self.busy = False
        self.began = asyncio.Event()
        self._fails = fails

    async def write(self, blocks: Sequence[bytes]) -> None:
        assert not self.busy, "one block after the other"
        self.busy = True
        self.began.set()
        await asyncio.sleep(0.05)
        self.busy = False
        if self._fails:
            raise OSError("full")
        self.received += b"".join(blocks)


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


def test_files_are_written_in_their_order_with_size_and_checksum() -> None:
    bodies = [random.Random(number).randbytes(700_000) for number in range(20)]
    sink = _Sink()
    size, sha256 = asyncio.run(_written(sink, bodies))
    assert sink.received == b"".join(bodies)
    assert (size, sha256) == (len(sink.received), hashlib.sha256(sink.received).hexdigest())


def test_a_write_in_progress_is_awaited_when_something_else_fails() -> None:
    async def run() -> None:
        sink = _Sink()
        with pytest.raises(ValueError, match="a bug"):
            await _failing(sink)
        assert not sink.busy
        assert len(sink.received) == 4 * MEGABYTES
        failing = _Sink(fails=True)
        with pytest.raises(ValueError, match="a bug"):
            await _failing(failing)

    asyncio.run(run())


def test_a_failing_sink_is_reported() -> None:
    with pytest.raises(OSError, match="full"):
        asyncio.run(_written(_Sink(fails=True), [bytes(4 * MEGABYTES)]))

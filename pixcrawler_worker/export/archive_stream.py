"""An archive's bytes on their way into storage."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

from pixcrawler_worker.export.archive_formats import Archive
from pixcrawler_worker.storage.uploads import Sink

#: Bytes that are hashed and written at a time.
_BLOCK = 2 * 1024 * 1024


class ArchiveStream:
    """An archive's bytes, hashed and written in blocks while the next ones are gathered.

    Args:
        sink: where they go; it outlives the context.
        archive: what stands around the files.
    """

    def __init__(self, sink: Sink, archive: Archive) -> None:
        self._sink = sink
        self._archive = archive
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._under_way: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for what is still being written: the sink must not be closed under it."""
        if self._under_way is not None:
            # Whoever leaves has something else to tell.
            await asyncio.gather(self._under_way, return_exceptions=True)

    async def add(self, path: str, *, size: int, crc: int, blocks: Iterable[bytes]) -> None:
        """Append a file."""
        await self._append(self._archive.header(path, size=size, crc=crc))
        for block in blocks:
            await self._append(block)
        await self._append(self._archive.padding(size))

    async def close(self) -> tuple[int, str]:
        """Write the end; return the size and the SHA-256 of everything."""
        await self._append(self._archive.trailer())
        await self._flush()
        await self._settle()
        return self._size, self._sha256.hexdigest()

    async def _append(self, block: bytes) -> None:
        if not block:
            return
        self._pending.append(block)
        self._pending_bytes += len(block)
        if self._pending_bytes >= _BLOCK:
            await self._flush()

    async def _flush(self) -> None:
        await self._settle()
        blocks, self._pending = self._pending, []
        self._size += self._pending_bytes
        self._pending_bytes = 0
        self._under_way = asyncio.create_task(self._write(blocks))

    async def _settle(self) -> None:
        if self._under_way is not None:
            await self._under_way
            self._under_way = None

    async def _write(self, blocks: Sequence[bytes]) -> None:
        # One after the other: Python's threads stand in each other's way, and there are readers already.
        await asyncio.to_thread(self._hash, blocks)
        await self._sink.write(blocks)

    def _hash(self, blocks: Sequence[bytes]) -> None:
        for block in blocks:
            self._sha256.update(block)

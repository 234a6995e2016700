"""Writing an archive into storage: hashing and writing in blocks."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

from pixcrawler_worker.export.archive_formats import Archive
from pixcrawler_worker.storage.uploads import Sink

#: Bytes that are hashed and written at a time.
_BLOCK = 2 * 1024 * 1024


class ArchiveStream:
    """Hashes and writes an archive in blocks while the next block is filled.

    Args:
        sink: receives the bytes; stays open after the context.
        archive: format of the archive.
    """

    def __init__(self, sink: Sink, archive: Archive) -> None:
        self._sink = sink
        self._archive = archive
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for the block that is being written: the sink must not be closed before."""
        if self._writing is not None:
            # The exception that ends the context, if any, matters more than that of a write.
            await asyncio.gather(self._writing, return_exceptions=True)

    async def add(self, path: str, *, size: int, crc: int, blocks: Iterable[bytes]) -> None:
        """Append a file."""
        await self._append(self._archive.header(path, size=size, crc=crc))
        for block in blocks:
            await self._append(block)
        await self._append(self._archive.padding(size))

    async def close(self) -> tuple[int, str]:
        """Write the end of the archive; return its size in bytes and its SHA-256 in hexadecimal digits."""
        await self._append(self._archive.trailer())
        await self._flush()
        await self._wait()
        return self._size, self._sha256.hexdigest()

    async def _append(self, block: bytes) -> None:
        if not block:
            return
        self._pending.append(block)
        self._pending_bytes += len(block)
        if self._pending_bytes >= _BLOCK:
            await self._flush()

    async def _flush(self) -> None:
        await self._wait()
        blocks, self._pending = self._pending, []
        self._size += self._pending_bytes
        self._pending_bytes = 0
        self._writing = asyncio.create_task(self._write(blocks))

    async def _wait(self) -> None:
        if self._writing is not None:
            await self._writing
            self._writing = None

    async def _write(self, blocks: Sequence[bytes]) -> None:
        # Sequentially: more threads would compete for the interpreter lock with those that read (docs/decisions/0012).
        await asyncio.to_thread(self._hash, blocks)
        await self._sink.write(blocks)

    def _hash(self, blocks: Sequence[bytes]) -> None:
        for block in blocks:
            self._sha256.update(block)

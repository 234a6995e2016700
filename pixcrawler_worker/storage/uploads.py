"""Write files to an object store in parts."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from obstore.exceptions import BaseError

from pixcrawler_worker.storage.failures import translated


class Sink(Protocol):
    """A file that is being written."""

    async def write(self, blocks: Sequence[bytes]) -> None:
        """Append the blocks."""
        ...


class Writer(Protocol):
    """The writer of obstore."""

    async def write(self, buffer: bytes, /) -> int:
        """Append the bytes."""
        ...


class UploadSink:
    """A file that is being uploaded to an object store in parts."""

    def __init__(self, writer: Writer, what: str) -> None:
        self._writer = writer
        self._what = what

    async def write(self, blocks: Sequence[bytes]) -> None:
        """Append the blocks."""
        with translated(self._what):
            for block in blocks:
                await self._writer.write(block)


@contextlib.asynccontextmanager
async def aborted_on_error(upload: contextlib.AbstractAsyncContextManager[Writer]) -> AsyncIterator[Writer]:
    """Complete an upload; abort it when the context raises, and raise that error.

    Parts that are still being sent can make the server reject the abort: its error would replace the first one.
    """
    raised: BaseException | None = None
    try:
        async with upload as writer:
            try:
                yield writer
            except BaseException as error:
                raised = error
                raise
    except (BaseError, OSError, ValueError):
        if raised is not None:
            raise raised from None
        raise

"""Files in an object store that are written in parts."""

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
    """What obstore writes with."""

    async def write(self, buffer: bytes, /) -> int:
        """Append the bytes."""
        ...


class UploadSink:
    """A file in an object store that is being uploaded in parts."""

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
    """Complete an upload, or abort it when something is raised in the context; that is what is raised then.

    Parts that are still being sent can make the server reject the abort, which would hide the reason for it.
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

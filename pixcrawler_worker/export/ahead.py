"""Doing what comes next while what came before is used."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def ahead(works: AsyncIterator[Coroutine[Any, Any, T]], *, most: int) -> AsyncGenerator[T, None]:
    """Yield what the coroutines return, in their order, while those that follow are under way.

    Args:
        works: what is to be done; what is under way when the caller gives up is cancelled.
        most: coroutines that are under way while the first of them is waited for.
    """
    waiting: deque[asyncio.Task[T]] = deque()
    try:
        async for work in works:
            waiting.append(asyncio.create_task(work))
            if len(waiting) == most:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

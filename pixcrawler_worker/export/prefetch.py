"""Running the next coroutines while the results of the previous ones are used."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def prefetch(works: AsyncIterator[Coroutine[Any, Any, T]], *, limit: int) -> AsyncGenerator[T, None]:
    """Yield what the coroutines return, in their order, while the next ones are running.

    Args:
        works: the coroutines; running ones are cancelled when the generator is closed.
        limit: coroutines that run at a time.
    """
    running: deque[asyncio.Task[T]] = deque()
    try:
        async for work in works:
            running.append(asyncio.create_task(work))
            if len(running) == limit:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

"""Downloads from hosts on loopback."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from fakes import hosts

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web.downloader import Downloader, Fetched
from pixcrawler_worker.web.policy import Policy
from pixcrawler_worker.web.shared_hosts import RedisHosts

#: The key and the certificate of images.example.
CERTIFICATE = Path(hosts.__file__).with_name("images_example.pem")
LOOPBACK = (ip_network("127.0.0.0/8"),)
SOON = timedelta(seconds=0.3)
#: For what does not hang: a busy machine may take a while.
LONG = timedelta(seconds=30)


class Turns(RedisHosts):
    """Notes when the first turn was reserved and when the last one ends, by the monotonic clock.

    How fast a row of turns is used up says nothing of what a busy machine does before the first one and after the last.
    """

    begun = math.inf
    ends = 0.0

    async def reserve(self, name: str, seconds: float, *, within: float) -> float | None:
        self.begun = min(self.begun, time.monotonic())
        found = await super().reserve(name, seconds, within=within)
        if found is not None:
            self.ends = max(self.ends, time.monotonic() + found + seconds)
        return found


def policy(**changes: Any) -> Policy:
    """Return a policy that allows loopback, with these changes."""
    known: dict[str, Any] = {
        "user_agent": "PixCrawlerTest/1 (+mailto:tests@example.com)",
        "allowed_networks": LOOPBACK,
        "deadline": timedelta(seconds=5),
    }
    return Policy(**known | changes)


def fetch(url: str, *, max_bytes: int | None = None, allowed: Policy | None = None, **seams: Any) -> Fetched:
    """Download one URL with a downloader of its own."""

    async def run() -> Fetched:
        downloader = Downloader(allowed or policy(), **seams)
        try:
            return await downloader.fetch(url, max_bytes=max_bytes)
        finally:
            await downloader.aclose()

    return asyncio.run(run())


def rejection(url: str, **options: Any) -> Reason:
    """Return why a download is rejected."""
    with pytest.raises(RejectedError) as caught:
        fetch(url, **options)
    return caught.value.reason


def fetch_from(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    scheme: str = "http",
    **changes: Any,
) -> Fetched:
    """Fetch from a host that behaves as `converse` does."""

    async def run() -> Fetched:
        downloader = Downloader(policy(**changes))
        async with hosts.listening(converse) as port:
            try:
                return await downloader.fetch(f"{scheme}://127.0.0.1:{port}/")
            finally:
                await downloader.aclose()

    return asyncio.run(run())

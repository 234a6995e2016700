"""Downloads from hosts on loopback."""

import asyncio
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

#: The key and the certificate of images.example.
CERTIFICATE = Path(hosts.__file__).with_name("images_example.pem")
LOOPBACK = (ip_network("127.0.0.0/8"),)
SOON = timedelta(seconds=0.3)


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

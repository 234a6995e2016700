"""Asking a source as a worker does, with a downloader that may go to loopback."""

import asyncio
from ipaddress import ip_network
from typing import Any

from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Query, SourceConfig
from pixcrawler_worker.web.fetch import Downloader, Policy

AGENT = "PixCrawlerTest/1 (+mailto:tests@example.org)"
LOOPBACK = (ip_network("127.0.0.0/8"),)
POLICY = Policy(user_agent=AGENT, allowed_networks=LOOPBACK)


def search(source: str, base_url: str, *, policy: Policy = POLICY, **asked: Any) -> Page:
    """One page of what a source of that name, with that base URL, has for "cat"."""
    defaults: dict[str, Any] = {"text": "cat", "label": "cat", "page": 0, "page_size": 50}
    query = Query(**defaults | asked)

    async def ask() -> Page:
        downloader = Downloader(policy)
        try:
            return await protocol.load(source, SourceConfig(base_url=base_url)).search(query, downloader)
        finally:
            await downloader.aclose()

    return asyncio.run(ask())

"""Searching a source as a worker does, with a client that may go to loopback."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Any, TypeVar

from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Query, Source, SourceConfig
from pixcrawler_worker.web import http
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.http import AsyncClient
from pixcrawler_worker.web.policy import Policy

T = TypeVar("T")
AGENT = "PixCrawlerTest/1 (+mailto:tests@example.org)"
LOOPBACK = (ip_network("127.0.0.0/8"),)
POLICY = Policy(user_agent=AGENT, allowed_networks=LOOPBACK)


def with_client(work: Callable[[AsyncClient], Awaitable[T]], *, name: str = "test", policy: Policy = POLICY) -> T:
    """Run a function with a client as a source of that name gets it, and translate its errors."""

    async def run() -> T:
        downloader = Downloader(policy)
        try:
            with http.translated(name):
                return await work(http.client(downloader))
        finally:
            await downloader.aclose()

    return asyncio.run(run())


def search_with(source: Source, *, name: str = "test", policy: Policy = POLICY, **values: Any) -> Page:
    """Return one page of a source for "cat"."""
    defaults: dict[str, Any] = {"text": "cat", "label": "cat", "page": 0, "page_size": 50}
    query = Query(**defaults | values)
    return with_client(lambda client: source.search(query, client), name=name, policy=policy)


def search(source: str, base_url: str, *, policy: Policy = POLICY, **values: Any) -> Page:
    """Return one page of the source of that name, with that base URL, for "cat"."""
    loaded = protocol.load(source, SourceConfig(base_url=base_url))
    return search_with(loaded, name=source, policy=policy, **values)

"""A list of addresses, handed in with the job."""

from typing import ClassVar

from pixcrawler_worker.sources.protocol import Candidate, Page, Query, SourceConfig
from pixcrawler_worker.web.fetch import Downloader


class UrlList:
    """Offers the addresses of the job's own list, a page at a time."""

    summary: ClassVar[str] = "a list of addresses that is given with the job"
    terms: ClassVar[str] = "licenses are the affair of whoever gives the list"
    page_size: ClassVar[int | None] = None
    depth: ClassVar[int | None] = None

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def missing(self) -> str | None:
        """Nothing: the list comes with the job."""
        return None

    async def search(self, query: Query, downloader: Downloader) -> Page:
        """Return the page of the list that the query carries."""
        del downloader  # the addresses are here already
        return Page(tuple(Candidate(url=url) for url in query.urls), more=len(query.urls) == query.page_size)

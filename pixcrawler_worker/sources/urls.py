"""The URL list of a job."""

from typing import ClassVar

from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source
from pixcrawler_worker.web.http import AsyncClient


class UrlList(Source):
    """Offers the URLs of the job's own list, a page at a time."""

    summary: ClassVar[str] = "a list of URLs that is given with the job"
    terms: ClassVar[str] = "licenses are the responsibility of the list's author"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return the page of the list that the query carries."""
        del http  # the URLs are here already
        rows = query.rows or tuple(map(ListRow, query.urls))
        return Page(tuple(map(_candidate, rows)), more=len(rows) == query.page_size)


def _candidate(row: ListRow) -> Candidate:
    return Candidate(url=row.url, caption=row.caption, label=row.label, columns=row.columns)

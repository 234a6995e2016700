"""Unsplash, by its API (https://unsplash.com/documentation).

Its URLs stay as they are, with the parameter that counts views, and each photo that is used is reported to it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, ClassVar

from pydantic import BaseModel

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Count, Part, Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.quota import Quota, utc_now
from pixcrawler_worker.web.http import AsyncClient, Response

_API = "https://api.unsplash.com/"
_LICENSE, _LICENSE_URL = "licenseref-unsplash", "https://unsplash.com/license"
#: Widths in pixels of what it calls small and regular.
_SMALL, _REGULAR = 400, 1080


class Unsplash(Source):
    """Offers the photos that a search finds, the most relevant first."""

    summary: ClassVar[str] = "Unsplash: photos, with photographer"
    terms: ClassVar[str] = (
        "Unsplash License, credit with a link; a key, 50 requests an hour for demonstrations, one of them for each "
        "photo that is used; its API terms restrict machine learning; https://unsplash.com/api-terms"
    )
    page_size: ClassVar[int | None] = 30

    def __init__(self, config: SourceConfig, *, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(config)
        self._base = config.base(_API)
        self._quota = Quota("unsplash", window=timedelta(hours=1), reset=None, now=now)

    def missing(self) -> str | None:
        """Return what to set when there is no key."""
        return None if self.config.api_key else "set PIXCRAWLER_UNSPLASH_API_KEY (https://unsplash.com/developers)"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of photos.

        Raises:
            TransientError: when the quota is exhausted; with the time until there is more.
            httpx.HTTPStatusError: when the API is away.
            PermanentError: when it rejects the search or the key, or the response is something else.
        """
        answers.key(self, "unsplash")
        words = answers.words(query, "unsplash")
        if not licenses.is_allowed(_LICENSE, query.licenses):
            return Page((), more=False)
        parameters: dict[str, str | int] = {
            "query": words,
            "page": query.page + 1,
            "per_page": query.page_size,
            "content_filter": "high" if query.safe_search else "low",
        }
        response = await self._request(f"{self._base}search/photos", http, parameters)
        data = answers.read(response, "unsplash", key=self.config.api_key)
        found = answers.parsed(_Results, data, "unsplash")
        offered, invalid = answers.candidates(_Photo, found.results, lambda one: one.candidate(query))
        pages = found.total_pages
        # A number of pages that this one is beyond says nothing.
        is_known = pages is not None and (query.page < pages or not found.results)
        more = query.page + 1 < (pages or 0) if is_known else bool(found.results)
        return Page(offered, more, invalid=invalid)

    async def report_use(self, use_url: str, http: AsyncClient) -> None:
        """Request a photo's `download_location`, as the terms want for each one that is used.

        Raises:
            TransientError: when the quota is exhausted.
            httpx.HTTPStatusError: when the API is away.
            PermanentError: when it rejects the request, or it would go elsewhere: the key is for the API alone.
        """
        if not use_url.startswith(self._base):
            raise PermanentError(f"unsplash names another host than its own for the use of a photo: {use_url}")
        answers.read(await self._request(use_url, http, None), "unsplash", key=self.config.api_key)

    async def _request(self, url: str, http: AsyncClient, parameters: dict[str, str | int] | None) -> Response:
        self._quota.require()
        headers = {"Authorization": f"Client-ID {self.config.api_key}", "Accept-Version": "v1"}
        response = await http.get(url, params=parameters, headers=headers)
        # An exhausted quota is a plain text with the status of a rejected key.
        is_forbidden = response.status_code == HTTPStatus.FORBIDDEN
        self._quota.note(response, is_exhausted=is_forbidden and b"rate limit" in response.content.lower())
        return response


class _Results(BaseModel):
    results: list[Any]
    total_pages: Count = None


class _Urls(BaseModel):
    small: Text = None
    regular: Text = None
    full: Text = None


class _Links(BaseModel):
    html: Text = None
    download_location: Text = None


class _User(BaseModel):
    name: Text = None
    links: Part[_Links] = _Links()


class _Photo(BaseModel):
    """One of the results, as far as it is used. The sizes are those of the full one."""

    urls: Part[_Urls]
    links: Part[_Links] = _Links()
    user: Part[_User] = _User()
    width: Side = None
    height: Side = None
    description: Text = None
    alt_description: Text = None

    def candidate(self, query: Query) -> Candidate | None:
        scaled = [(self.urls.regular, _REGULAR)]
        if query.target_side is not None:
            scaled.insert(0, (self.urls.small, _SMALL))
        offered = [
            sizes.Size(url, *(sizes.of_width(self.width, self.height, width) or (None, None)))
            for url, width in scaled
            if url
        ]
        if self.urls.full and (not offered or self.width):
            offered.append(sizes.Size(self.urls.full, self.width, self.height))
        author = self.user.name
        credit = Credit(
            page_url=self.links.html,
            title=self.description or self.alt_description,
            author=author,
            license=_LICENSE,
            license_url=_LICENSE_URL,
            attribution=f"Photo by {author} on Unsplash" if author else "Photo on Unsplash",
        )
        return sizes.candidate(offered, query, credit, use_url=self.links.download_location)

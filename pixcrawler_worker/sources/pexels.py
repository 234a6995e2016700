"""Pexels, by its API (https://www.pexels.com/api/documentation/)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, ClassVar

from pydantic import BaseModel

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Part, Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.quota import Quota, utc_now
from pixcrawler_worker.web.http import AsyncClient

_API = "https://api.pexels.com/v1/"
_LICENSE, _LICENSE_URL = "licenseref-pexels", "https://www.pexels.com/license/"
#: Widths in pixels to which its servers scale, that suit most datasets, and further ones for a target.
_WIDTHS, _FURTHER_WIDTHS = (1280, 1920), (320, 640, 960, 2560)


class Pexels(Source):
    """Offers the photos that a search finds, the most relevant first."""

    summary: ClassVar[str] = "Pexels: stock photos, with photographer"
    terms: ClassVar[str] = (
        "Pexels License, credit and a link back; a key, 200 requests an hour and 20,000 a month, which must not be "
        "worked around; https://www.pexels.com/api/documentation/"
    )
    page_size: ClassVar[int | None] = 80

    def __init__(self, config: SourceConfig, *, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(config)
        self._search = config.base(_API) + "search"
        self._quota = Quota("pexels", window=timedelta(hours=1), now=now)

    def missing(self) -> str | None:
        """Return what to set when there is no key."""
        return None if self.config.api_key else "set PIXCRAWLER_PEXELS_API_KEY (https://www.pexels.com/api/)"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of photos.

        Raises:
            TransientError: when the quota is exhausted; with the time until there is more.
            httpx.HTTPStatusError: when the API is away.
            PermanentError: when it rejects the search or the key, or the response is something else.
        """
        key = answers.key(self, "pexels")
        words = answers.words(query, "pexels")
        if not licenses.is_allowed(_LICENSE, query.licenses):
            return Page((), more=False)
        self._quota.require()
        response = await http.get(
            self._search,
            params={"query": words, "page": query.page + 1, "per_page": query.page_size},
            headers={"Authorization": key},
        )
        self._quota.note(response)
        found = answers.parsed(_Results, answers.read(response, "pexels", key=key), "pexels")
        offered, invalid = answers.candidates(_Photo, found.photos, lambda one: one.candidate(query))
        return Page(offered, bool(found.next_page), invalid=invalid)


class _Results(BaseModel):
    """A response; its last page has no next one."""

    photos: list[Any]
    total_results: Any  # in every response
    next_page: Text = None


class _Files(BaseModel):
    original: Text = None


class _Photo(BaseModel):
    """One of the results, as far as it is used. The sizes are those of the original."""

    src: Part[_Files]
    width: Side = None
    height: Side = None
    url: Text = None
    alt: Text = None
    photographer: Text = None

    def candidate(self, query: Query) -> Candidate | None:
        original = self.src.original
        if not original:
            return None
        widths = _WIDTHS if query.target_side is None else (*_WIDTHS, *_FURTHER_WIDTHS)
        offered = [sizes.Size(original, self.width, self.height)]
        offered += [
            sizes.Size(f"{original}?auto=compress&cs=tinysrgb&w={width}", *sides)
            for width in widths
            if width < (self.width or 0) and (sides := sizes.of_width(self.width, self.height, width))
        ]
        credit = Credit(
            page_url=self.url,
            title=self.alt or None,
            author=self.photographer,
            license=_LICENSE,
            license_url=_LICENSE_URL,
            attribution=f"Photo by {self.photographer} on Pexels" if self.photographer else "Photo on Pexels",
        )
        return sizes.candidate(offered, query, credit)

"""The Metropolitan Museum of Art, by its API (https://metmuseum.github.io/): works in the public domain.

A search has all ids at once, and a request for each work follows. A candidate is the work's main image.
"""

from http import HTTPStatus
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Count, Flag, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source
from pixcrawler_worker.web.http import AsyncClient

_API = "https://collectionapi.metmuseum.org/public/collection/v1/"
#: Requests for works at a time: 80 a second are allowed, for all workers together.
_CONCURRENCY = 4
_LICENSE = "cc0-1.0"


class Met(Source):
    """Offers the main images of works that a full-text search finds."""

    summary: ClassVar[str] = "The Metropolitan Museum of Art: works in the public domain"
    terms: ClassVar[str] = "CC0; no key, 80 requests a second; https://www.metmuseum.org/policies/terms-and-conditions"
    page_size: ClassVar[int | None] = 40
    specialized: ClassVar[bool] = True

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of works. Those that are not in the public domain have no image, and are counted as invalid.

        Raises:
            httpx.HTTPStatusError: when the API is busy or away.
            PermanentError: when it rejects the search, or the response is something else.
        """
        words = answers.words(query, "met")
        if not licenses.is_allowed(_LICENSE, query.licenses):
            return Page((), more=False)
        response = await http.get(f"{self.config.base(_API)}search", params={"q": words, "hasImages": "true"})
        ids = answers.parsed(_Results, answers.read(response, "met"), "met").ids or []
        start = query.page * query.page_size
        chosen = ids[start : start + query.page_size]
        works = await answers.details(chosen, lambda one: self._work(one, http), concurrency=_CONCURRENCY)
        offered, invalid = answers.candidates(_Work, works, lambda one: one.candidate(query))
        return Page(offered, start + len(chosen) < len(ids), invalid=invalid)

    async def _work(self, object_id: object, http: AsyncClient) -> object:
        if isinstance(object_id, bool) or not isinstance(object_id, int):
            return None
        response = await http.get(f"{self.config.base(_API)}objects/{object_id}")
        # The search still finds works that were removed.
        return None if response.status_code == HTTPStatus.NOT_FOUND else answers.read(response, "met")


class _Results(BaseModel):
    """All ids; null when there are none."""

    total: Count
    ids: list[Any] | None = Field(alias="objectIDs")


class _Work(BaseModel):
    """A work, as far as it is used."""

    image: Text = Field(None, alias="primaryImage")
    small: Text = Field(None, alias="primaryImageSmall")
    is_public_domain: Flag = Field(None, alias="isPublicDomain")
    title: Text = None
    artist: Text = Field(None, alias="artistDisplayName")
    page: Text = Field(None, alias="objectURL")

    def candidate(self, query: Query) -> Candidate | None:
        if not self.image or not self.is_public_domain:
            return None
        credit = Credit(
            page_url=self.page or None,
            title=self.title or None,
            author=self.artist or None,
            license=_LICENSE,
            license_url=licenses.deed_url(_LICENSE),
            attribution=answers.attribution(self.title, self.artist, "The Metropolitan Museum of Art, CC0"),
        )
        # It does not say how large they are.
        offered = [sizes.Size(url) for url in (self.small, self.image) if url]
        return sizes.candidate(offered, query, credit)

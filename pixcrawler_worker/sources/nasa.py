"""NASA's image library, by its API (https://images.nasa.gov/docs/images.nasa.gov_api_docs.pdf)."""

import re
from typing import Any, ClassVar

from pydantic import BaseModel

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Listed, Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.web.http import AsyncClient

_API = "https://images-api.nasa.gov/"
_PAGES, _PAGE_SIZE = 100, 100
_LICENSE = "public-domain"
_LICENSE_URL = "https://www.nasa.gov/nasa-brand-center/images-and-media/"
#: Images of others are in the library, too, and say so.
_OTHERS = re.compile(r"©|\(c\)|copyright|all rights reserved", re.IGNORECASE)
_IMAGE = re.compile(r"\.(?:jpe?g|png|gif|tiff?)(?:\?|$)", re.IGNORECASE)


class Nasa(Source):
    """Offers the images that a full-text search finds."""

    summary: ClassVar[str] = "NASA: images of space, Earth, aircraft and people"
    terms: ClassVar[str] = (
        "not subject to copyright where nothing else is said, NASA as source; no key; "
        "https://www.nasa.gov/nasa-brand-center/images-and-media/"
    )
    page_size: ClassVar[int | None] = _PAGE_SIZE
    depth: ClassVar[int | None] = _PAGES * _PAGE_SIZE
    specialized: ClassVar[bool] = True

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._search = config.base(_API) + "search"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of images.

        Raises:
            httpx.HTTPStatusError: when the API is busy or away.
            PermanentError: when it rejects the search, or the response is something else.
        """
        words = answers.words(query, "nasa")
        if query.page >= _PAGES or not licenses.is_allowed(_LICENSE, query.licenses):
            return Page((), more=False)
        response = await http.get(
            self._search,
            params={"q": words, "media_type": "image", "page": query.page + 1, "page_size": query.page_size},
        )
        found = answers.parsed(_Results, answers.read(response, "nasa"), "nasa").collection
        offered, invalid = answers.candidates(_Item, found.items, lambda one: one.candidate(query))
        more = any(link.rel == "next" for link in found.links) and query.page + 1 < _PAGES
        return Page(offered, more, invalid=invalid)


class _Link(BaseModel):
    href: Text = None
    rel: Text = None
    width: Side = None
    height: Side = None


class _Collection(BaseModel):
    items: list[Any]
    links: Listed[_Link] = []


class _Results(BaseModel):
    collection: _Collection


class _Data(BaseModel):
    nasa_id: Text = None
    title: Text = None
    description: Text = None
    center: Text = None
    photographer: Text = None
    secondary_creator: Text = None


class _Item(BaseModel):
    """One of the results, as far as it is used. Its links are the files in several sizes."""

    data: Listed[_Data] = []
    links: Listed[_Link] = []

    def candidate(self, query: Query) -> Candidate | None:
        files = [
            sizes.Size(one.href, one.width, one.height) for one in self.links if one.href and _IMAGE.search(one.href)
        ]
        data = self.data[0] if self.data else _Data()
        author = data.photographer or data.secondary_creator
        texts = filter(None, (data.title, data.description, data.photographer, data.secondary_creator))
        free = not any(map(_OTHERS.search, texts))
        credit = Credit(
            page_url=f"https://images.nasa.gov/details/{data.nasa_id}" if data.nasa_id else None,
            title=data.title,
            author=author or (f"NASA/{data.center}" if data.center else "NASA"),
            license=_LICENSE if free else None,
            license_url=_LICENSE_URL if free else None,
            attribution=answers.attribution(data.title, author, "NASA"),
        )
        return sizes.candidate(files, query, credit)

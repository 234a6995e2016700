"""The Internet Archive, by its search (https://archive.org/advancedsearch.php) and its metadata of items.

A search has the items, and a request for the files of each follows. A candidate is an item's first image: many items
are scans of one book or album.
"""

from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import BaseModel, Field

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import answers, sizes
from pixcrawler_worker.sources.fields import Count, FirstText, Flag, Listed, Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source
from pixcrawler_worker.web.http import AsyncClient

_API = "https://archive.org/"
#: Requests for items at a time.
_CONCURRENCY = 4
_DEPTH = 10_000
#: What the archive calls the formats that can be used.
_FORMATS = frozenset({"JPEG", "PNG", "TIFF", "WebP"})
_FIELDS = ("identifier", "title", "creator", "licenseurl")


class InternetArchive(Source):
    """Offers an image of each item that a full-text search over images finds."""

    summary: ClassVar[str] = "Internet Archive: images that people and libraries have uploaded"
    terms: ClassVar[str] = (
        "licenses as uploaders give them, many have none; no key, a moderate pace; https://archive.org/about/terms.php"
    )
    page_size: ClassVar[int | None] = 40
    depth: ClassVar[int | None] = _DEPTH
    specialized: ClassVar[bool] = True

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of images.

        Raises:
            httpx.HTTPStatusError: when the archive is busy or away.
            PermanentError: when it rejects the search, or the response is something else.
        """
        words = answers.words(query, "internet_archive")
        if (query.page + 1) * query.page_size > _DEPTH:
            return Page((), more=False)
        licensed = "" if query.licenses is None else " AND licenseurl:[* TO *]"
        response = await http.get(
            f"{self.config.base(_API)}advancedsearch.php",
            params={
                "q": f"mediatype:image AND ({words}){licensed}",
                "fl[]": list(_FIELDS),
                "sort[]": "identifier asc",
                "rows": query.page_size,
                "page": query.page + 1,
                "output": "json",
            },
        )
        found = answers.parsed(_Results, answers.read(response, "internet_archive"), "internet_archive").response
        items, invalid = answers.parts(_Item, found.docs)
        # Their files need not be asked for.
        allowed = [one for one in items if licenses.is_allowed(one.license, query.licenses)]
        made = await answers.details(allowed, lambda one: self._candidate(one, query, http), concurrency=_CONCURRENCY)
        candidates = tuple(filter(None, made))
        more = answers.continues(found.docs, query, total=found.total, depth=_DEPTH)
        return Page(candidates, more, invalid=invalid + len(made) - len(candidates))

    async def _candidate(self, item: "_Item", query: Query, http: AsyncClient) -> Candidate | None:
        """Return the first image of an item; None when it has none, or is closed to the public."""
        where = f"{self.config.base(_API)}metadata/{quote(item.identifier, safe='')}"
        response = await http.get(where)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        found, _ = answers.parts(_Details, [answers.read(response, "internet_archive")])
        if not found:
            return None
        (details,) = found
        usable = [file for file in details.files if file.name and file.format in _FORMATS and not file.is_private]
        if details.is_dark or not usable:
            return None
        first = next((file for file in usable if file.source == "original"), usable[0])
        files = [file for file in usable if file is first or file.original == first.name]
        folder = f"{self.config.base(_API)}download/{quote(item.identifier, safe='')}/"
        offered = [sizes.Size(folder + quote(file.name or ""), file.width, file.height) for file in files]
        return sizes.candidate(offered, query, item.credit())


class _Response(BaseModel):
    docs: list[Any]
    total: Count = Field(None, alias="numFound")


class _Results(BaseModel):
    response: _Response


class _Item(BaseModel):
    """An item as the search has it."""

    identifier: str = Field(min_length=1)
    title: FirstText = None
    creator: FirstText = None
    license_url: FirstText = Field(None, alias="licenseurl")

    @property
    def license(self) -> str | None:
        return licenses.identifier(self.license_url or "")

    def credit(self) -> Credit:
        title, author = self.title or self.identifier, self.creator
        return Credit(
            page_url=f"https://archive.org/details/{quote(self.identifier, safe='')}",
            title=title,
            author=author,
            license=self.license,
            license_url=self.license_url,
            attribution=answers.attribution(title, author, self.license, "via Internet Archive"),
        )


class _File(BaseModel):
    name: Text = None
    format: Text = None
    source: Text = None
    original: FirstText = None
    width: Side = None
    height: Side = None
    private: Any = None  # "true" in most answers

    @property
    def is_private(self) -> bool:
        return self.private not in (None, "", False, "false")


class _Details(BaseModel):
    """What an item has: nothing when it was removed."""

    files: Listed[_File] = []
    is_dark: Flag = None

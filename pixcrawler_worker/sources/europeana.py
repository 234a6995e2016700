"""Europeana, by its search (https://pro.europeana.eu/page/search): works of Europe's museums, libraries and archives.

A search has 1,000 results by their numbers. Beyond that those of each size and aspect ratio are searched.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import answers
from pixcrawler_worker.sources.fields import Count, FirstText
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.slices import Slice, Slices
from pixcrawler_worker.web.http import AsyncClient

_API = "https://api.europeana.eu/record/v2/"
_DEPTH = 1_000
#: Families that Europeana counts as open; it has others with restrictions.
_OPEN = frozenset({"cc0", "cc-pdm", "public-domain", "cc-by", "cc-by-sa"})
_RESTRICTED = frozenset({"cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd"})
_SIZES = ("extra_large", "large", "medium", "small")
_RATIOS = ("landscape", "portrait")


class Europeana(Source):
    """Offers the images of works that a full-text search finds."""

    summary: ClassVar[str] = "Europeana: works of Europe's museums, libraries and archives"
    terms: ClassVar[str] = (
        "licenses of each work, credit as given; a key, a moderate pace; https://www.europeana.eu/rights/terms-of-use"
    )
    page_size: ClassVar[int | None] = 100
    specialized: ClassVar[bool] = True

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._search = config.base(_API) + "search.json"
        self._slices = Slices(depth=_DEPTH, split=_split)

    def missing(self) -> str | None:
        """Return what to set when there is no key."""
        where = "https://pro.europeana.eu/page/get-api"
        return None if self.config.api_key else f"set PIXCRAWLER_EUROPEANA_API_KEY ({where})"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of images.

        Raises:
            httpx.HTTPStatusError: when the API is busy or away.
            PermanentError: when it rejects the search or the key, or the response is something else.
        """
        answers.key(self, "europeana")
        words = answers.words(query, "europeana")
        families = set(_OPEN if query.licenses is None else map(licenses.family, query.licenses))
        classes = [name for name, members in (("open", _OPEN), ("restricted", _RESTRICTED)) if families & members]
        if not classes:
            return Page((), more=False)
        root: Slice = (("query", words), ("reusability", ",".join(classes)))

        async def count(part: Slice) -> int:
            return (await self._results(part, 0, 1, http)).total or 0

        place = await self._slices.find(root, query.page, query.page_size, count=count)
        if place is None:
            return Page((), more=False)
        part, page = place
        found = await self._results(part, page * query.page_size, query.page_size, http)
        if found.total is not None:
            self._slices.know(part, found.total)
        offered, invalid = answers.candidates(_Item, found.items, lambda one: one.candidate())
        more = part != root or answers.continues(found.items, query, total=found.total, depth=_DEPTH)
        more = more or self._slices.continues(root, page, query.page_size)
        return Page(offered, more, invalid=invalid)

    async def _results(self, part: Slice, offset: int, rows: int, http: AsyncClient) -> "_Results":
        key = self.config.api_key
        # A part has several values of one parameter.
        parameters: list[tuple[str, str | int | float | bool | None]] = [
            (name, value) for name, value in part if not name.startswith("qf.")
        ]
        parameters += [("qf", f"{name.removeprefix('qf.')}:{value}") for name, value in part if name.startswith("qf.")]
        parameters += [("qf", "TYPE:IMAGE"), ("media", "true"), ("profile", "rich")]
        parameters += [("rows", rows), ("start", offset + 1), ("wskey", key or "")]
        data = answers.read(await http.get(self._search, params=parameters), "europeana", key=key)
        # It also reports errors with the status 200.
        if isinstance(data, dict) and data.get("success") is False:
            said = answers.hidden(answers.said_in(data), key) or "without a reason"
            hint = answers.key_hint("europeana") if "key" in said.lower() else ""
            raise PermanentError(f"europeana answered: {said[:150]}{hint}")
        return answers.parsed(_Results, data, "europeana")


def _split(part: Slice) -> Sequence[Slice]:
    names = {name for name, _ in part}
    if "qf.IMAGE_SIZE" not in names:
        return [(*part, ("qf.IMAGE_SIZE", one)) for one in _SIZES]
    return [] if "qf.IMAGE_ASPECTRATIO" in names else [(*part, ("qf.IMAGE_ASPECTRATIO", one)) for one in _RATIOS]


class _Results(BaseModel):
    items: list[Any]
    total: Count = Field(None, alias="totalResults")


class _Item(BaseModel):
    """One of the results, as far as it is used. Most of its fields are arrays."""

    image: FirstText = Field(None, alias="edmIsShownBy")
    rights: FirstText = None
    title: FirstText = None
    creator: FirstText = Field(None, alias="dcCreator")
    provider: FirstText = Field(None, alias="dataProvider")
    guid: FirstText = None

    def candidate(self) -> Candidate | None:
        if not self.image:
            return None
        license_id = licenses.identifier(self.rights or "")
        # A creator may be the URL of an entry in a directory.
        author = None if (self.creator or "").startswith(("http://", "https://", "#")) else self.creator
        credit = Credit(
            page_url=self.guid,
            title=self.title,
            author=author,
            license=license_id,
            license_url=self.rights,
            attribution=answers.attribution(self.title, author, self.provider, license_id, "via Europeana"),
        )
        return Candidate(url=self.image, credit=credit)

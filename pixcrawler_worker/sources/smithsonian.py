"""The Smithsonian Institution, by its API (https://edan.si.edu/openaccess/apidocs/): works of its museums under CC0."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import answers
from pixcrawler_worker.sources.fields import Count, Listed, Part, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.quota import Quota, utc_now
from pixcrawler_worker.web.http import AsyncClient

_API = "https://api.si.edu/openaccess/api/v1.0/"
_LICENSE = "cc0-1.0"


class Smithsonian(Source):
    """Offers the first image under CC0 of each work that a full-text search finds."""

    summary: ClassVar[str] = "Smithsonian Institution: works of its museums and archives"
    terms: ClassVar[str] = "CC0; a key of api.data.gov, 1,000 requests an hour; https://www.si.edu/termsofuse"
    page_size: ClassVar[int | None] = 100
    specialized: ClassVar[bool] = True

    def __init__(self, config: SourceConfig, *, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(config)
        self._search = config.base(_API) + "search"
        self._quota = Quota("smithsonian", window=timedelta(hours=1), reset=None, now=now)

    def missing(self) -> str | None:
        """Return what to set when there is no key."""
        return None if self.config.api_key else "set PIXCRAWLER_SMITHSONIAN_API_KEY (https://api.data.gov/signup/)"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of works.

        Raises:
            TransientError: when the quota is exhausted; with the time until there is more.
            httpx.HTTPStatusError: when the API is away.
            PermanentError: when it rejects the search or the key, or the response is something else.
        """
        key = answers.key(self, "smithsonian")
        words = answers.words(query, "smithsonian")
        if not licenses.is_allowed(_LICENSE, query.licenses):
            return Page((), more=False)
        self._quota.require()
        response = await http.get(
            self._search,
            params={
                "q": f"{words} AND online_media_type:Images AND media_usage:CC0",
                "start": query.page * query.page_size,
                "rows": query.page_size,
                "api_key": key,
            },
        )
        self._quota.note(response)
        data = answers.read(response, "smithsonian", key=key)
        found = answers.parsed(_Results, data, "smithsonian").response
        offered, invalid = answers.candidates(_Row, found.rows, lambda one: one.candidate())
        return Page(offered, answers.continues(found.rows, query, total=found.total), invalid=invalid)


class _Response(BaseModel):
    rows: list[Any]
    total: Count = Field(None, alias="rowCount")


class _Results(BaseModel):
    response: _Response


class _Usage(BaseModel):
    access: Text = None


class _Medium(BaseModel):
    type: Text = None
    content: Text = None
    usage: Part[_Usage] = _Usage()


class _OnlineMedia(BaseModel):
    media: Listed[_Medium] = []


class _Description(BaseModel):
    online_media: Part[_OnlineMedia] = _OnlineMedia()
    record_link: Text = None
    data_source: Text = None


class _Name(BaseModel):
    content: Text = None


class _FreeText(BaseModel):
    name: Listed[_Name] = []


class _Content(BaseModel):
    description: Part[_Description] = Field(_Description(), alias="descriptiveNonRepeating")
    freetext: Part[_FreeText] = _FreeText()


class _Row(BaseModel):
    """One of the results, as far as it is used."""

    content: Part[_Content]
    title: Text = None

    def candidate(self) -> Candidate | None:
        described = self.content.description
        # A work may have images under other terms, too.
        free = (one for one in described.online_media.media if one.type == "Images" and one.usage.access == "CC0")
        image = next((one.content for one in free if one.content), None)
        if image is None:
            return None
        author = next((one.content for one in self.content.freetext.name if one.content), None)
        credit = Credit(
            page_url=described.record_link,
            title=self.title,
            author=author,
            license=_LICENSE,
            license_url=licenses.deed_url(_LICENSE),
            attribution=answers.attribution(self.title, author, described.data_source, "Smithsonian, CC0"),
        )
        return Candidate(url=image, credit=credit)

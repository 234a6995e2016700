"""Openverse, by its API (https://api.openverse.org/v1/): a search over the openly licensed works of many collections.

Anonymous callers get 20 candidates a page and 240 a query; beyond that the status is 401, which does not mean that a
key is missing.
"""

import contextlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.keywords import search_words
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources.fields import Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.web.http import AsyncClient, read_json

_API = "https://api.openverse.org/v1/"
#: Openverse's names of licenses, by family. Two more, retired by Creative Commons, cannot be searched by name.
_LICENSES = {
    "cc0": "cc0",
    "cc-pdm": "pdm",
    "cc-by": "by",
    "cc-by-sa": "by-sa",
    "cc-by-nc": "by-nc",
    "cc-by-nd": "by-nd",
    "cc-by-nc-sa": "by-nc-sa",
    "cc-by-nc-nd": "by-nc-nd",
}
_NOTHING = Page((), more=False)


class Openverse(Source):
    """Offers the images that a full-text search finds, the most relevant first."""

    summary: ClassVar[str] = "Openverse: openly licensed images of museums, Flickr and more, with author and license"
    terms: ClassVar[str] = (
        "open licenses, credit as given; no key, 20 requests a minute and 200 a day; "
        "https://docs.openverse.org/terms_of_service.html"
    )
    page_size: ClassVar[int | None] = 20
    depth: ClassVar[int | None] = 240

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._images = (config.base_url or _API).rstrip("/") + "/images/"

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of images.

        Raises:
            TransientError: when the API is busy or away.
            PermanentError: when it rejects the search, or the response is something else.
        """
        words = search_words(query.text)
        if not words:
            raise PermanentError(f"openverse cannot search for {query.text!r}: it has no words")
        parameters: dict[str, str | int] = {"q": words, "page": query.page + 1, "page_size": query.page_size}
        if query.licenses is not None:
            families = {_LICENSES[family] for family in map(licenses.family, query.licenses) if family in _LICENSES}
            if not families:
                return _NOTHING
            parameters["license"] = ",".join(sorted(families))
        if not query.safe_search:
            parameters["mature"] = "true"
        response = await http.get(self._images, params=parameters)
        data = read_json(response, "openverse")
        if response.status_code == HTTPStatus.OK:
            return _page(data, query)
        detail = str(data.get("detail", "")) if isinstance(data, dict) else ""
        if query.page > 0 and (response.status_code == HTTPStatus.NOT_FOUND or "depth" in detail):
            return _NOTHING
        raise PermanentError(f"openverse answered {response.status_code}: {detail or 'without a detail'}"[:300])


class _Image(BaseModel):
    """One of the results, as far as it is used."""

    url: str
    width: Side = None
    height: Side = None
    title: Text = None
    creator: Text = None
    foreign_landing_url: Text = None
    license: Text = None
    license_version: Text = None
    license_url: Text = None
    attribution: Text = None

    def candidate(self) -> Candidate:
        credit = Credit(
            page_url=self.foreign_landing_url,
            title=self.title,
            author=self.creator,
            license=licenses.identifier(f"{self.license or ''} {self.license_version or ''}"),
            license_url=self.license_url,
            attribution=self.attribution,
        )
        return Candidate(url=self.url, credit=credit, width=self.width, height=self.height)


class _Results(BaseModel):
    """A response; the number of pages is limited to what can be reached."""

    results: list[Any]
    page_count: Side = None


def _page(data: object, query: Query) -> Page:
    try:
        found = _Results.model_validate(data)
    except ValidationError:
        raise PermanentError(
            "openverse answered with something else than a search: is PIXCRAWLER_OPENVERSE_URL right?"
        ) from None
    # A page may be empty although there are more: what it had was removed meanwhile.
    candidates = tuple(_candidates(found.results))
    # Without their number, there may be more as long as a page has anything.
    more = bool(found.results) if found.page_count is None else query.page + 1 < found.page_count
    return Page(candidates, more, invalid=len(found.results) - len(candidates))


def _candidates(results: Iterable[object]) -> Iterator[Candidate]:
    for result in results:
        # An odd entry does not cost the others.
        with contextlib.suppress(ValidationError):
            yield _Image.model_validate(result).candidate()

"""Openverse, by its API (https://api.openverse.org/v1/): a search over the openly licensed works of many collections.

A search has 20 candidates a page and 240 in all; beyond that the status is 401, which does not mean that a key is
missing. There, those of each license, size and aspect ratio are searched. With a key, a client of OAuth 2, there are
more requests.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, ClassVar

from pydantic import BaseModel

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.keywords import search_words
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import answers
from pixcrawler_worker.sources.fields import Count, Side, Text
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig
from pixcrawler_worker.sources.quota import utc_now
from pixcrawler_worker.sources.slices import Slice, Slices
from pixcrawler_worker.web.http import AsyncClient, Response

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
_DEPTH = 240
_SIZES, _RATIOS = ("large", "medium", "small"), ("wide", "tall", "square")
#: A token is renewed so long before it expires.
_MARGIN = timedelta(minutes=5)


class Openverse(Source):
    """Offers the images that a full-text search finds, the most relevant first."""

    summary: ClassVar[str] = "Openverse: openly licensed images of museums, Flickr and more, with author and license"
    terms: ClassVar[str] = (
        "open licenses, credit as given; no key, 20 requests a minute and 200 a day, or one for 100 and 10,000; "
        "https://docs.openverse.org/terms_of_service.html"
    )
    page_size: ClassVar[int | None] = 20
    depth: ClassVar[int | None] = _DEPTH * (1 + len(_LICENSES) * len(_SIZES) * len(_RATIOS))

    def __init__(self, config: SourceConfig, *, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(config)
        base = config.base(_API)
        self._images, self._tokens = f"{base}images/", f"{base}auth_tokens/token/"
        self._now = now
        self._slices = Slices(depth=_DEPTH, split=_split)
        self._token: tuple[str, datetime] | None = None

    async def search(self, query: Query, http: AsyncClient) -> Page:
        """Return one page of images.

        Raises:
            TransientError: when the API is busy or away.
            PermanentError: when it rejects the search, or the response is something else.
        """
        words = search_words(query.text)
        if not words:
            raise PermanentError(f"openverse cannot search for {query.text!r}: it has no words")
        parameters: dict[str, str | int] = {"q": words}
        if query.licenses is not None:
            families = {_LICENSES[family] for family in map(licenses.family, query.licenses) if family in _LICENSES}
            if not families:
                return _NOTHING
            parameters["license"] = ",".join(sorted(families))
        if not query.safe_search:
            parameters["mature"] = "true"
        root: Slice = tuple(parameters.items())

        async def count(part: Slice) -> int:
            found = await self._results(part, 0, 1, http)
            return (found.result_count or 0) if found else 0

        place = await self._slices.find(root, query.page, query.page_size, count=count)
        if place is None:
            return _NOTHING
        part, page = place
        found = await self._results(part, page, query.page_size, http)
        if found is None:
            return Page((), more=part != root)
        if found.result_count is not None:
            self._slices.know(part, found.result_count)
        more = part != root or self._slices.continues(root, page, query.page_size)
        return _page(found, page, more=more)

    async def _results(self, part: Slice, page: int, page_size: int, http: AsyncClient) -> "_Results | None":
        """Return a page of a search; None beyond its last one."""
        parameters = {**dict(part), "page": page + 1, "page_size": page_size}
        response = await self._request(parameters, http)
        key = self.config.api_key
        if key and response.status_code in answers.KEY_STATUSES and not _is_about_paging(response):
            raise answers.key_error(response, "openverse", key, self._token[0] if self._token else None)
        data = answers.body(response, "openverse", self.config.api_key, self._token[0] if self._token else None)
        if response.status_code == HTTPStatus.OK:
            return answers.parsed(_Results, data, "openverse")
        detail = answers.said_in(data) if isinstance(data, dict) else ""
        if page > 0 and (response.status_code == HTTPStatus.NOT_FOUND or "depth" in detail):
            return None
        raise PermanentError(f"openverse answered {response.status_code}: {detail or 'without a detail'}"[:300])

    async def _request(self, parameters: dict[str, str | int], http: AsyncClient) -> Response:
        """Return the response to a search, with a token where there is a key. One that was revoked is renewed once."""
        if self.config.api_key is None:
            return await http.get(self._images, params=parameters)
        answers.checked_key(self.config.api_key, "openverse")
        for is_last in (False, True):
            token = await self._current_token(http)
            response = await http.get(self._images, params=parameters, headers={"Authorization": f"Bearer {token}"})
            if response.status_code != HTTPStatus.UNAUTHORIZED or _is_about_paging(response) or is_last:
                break
            self._token = None
        return response

    async def _current_token(self, http: AsyncClient) -> str:
        if self._token is not None and self._now() < self._token[1]:
            return self._token[0]
        client_id, _, secret = (self.config.api_key or "").partition(":")
        if not secret:
            # A token that was requested elsewhere.
            return client_id
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        response = await http.post(self._tokens, data=form)
        found = answers.parsed(_Token, answers.read(response, "openverse", key=secret), "openverse")
        lasts = timedelta(seconds=min(found.expires_in or 0, 10**7))
        self._token = found.access_token, self._now() + lasts - _MARGIN
        return found.access_token


def _is_about_paging(response: Response) -> bool:
    """Return whether a page is too deep or too large, which has the status of a wrong key."""
    return b"may not exceed" in response.content


def _split(part: Slice) -> Sequence[Slice]:
    """Return the parts of a search: by license, and then by size and aspect ratio."""
    values = dict(part)
    wanted = str(values.get("license", ",".join(_LICENSES.values()))).split(",")
    if len(wanted) > 1:
        rest = tuple(one for one in part if one[0] != "license")
        return [(*rest, ("license", one)) for one in wanted]
    for name, choices in (("size", _SIZES), ("aspect_ratio", _RATIOS)):
        if name not in values:
            return [(*part, (name, one)) for one in choices]
    return []


class _Token(BaseModel):
    access_token: str
    expires_in: Side = None


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
        license_ = licenses.identifier(f"{self.license or ''} {self.license_version or ''}")
        credit = Credit(
            page_url=self.foreign_landing_url,
            title=self.title,
            author=self.creator,
            license=license_,
            license_url=self.license_url,
            attribution=self.attribution or answers.attribution(self.title, self.creator, license_, "via Openverse"),
        )
        return Candidate(url=self.url, credit=credit, width=self.width, height=self.height)


class _Results(BaseModel):
    """A response; the number of pages is limited to what can be reached."""

    results: list[Any]
    page_count: Side = None
    result_count: Count = None


def _page(found: _Results, page: int, *, more: bool) -> Page:
    # A page may be empty although there are more: what it had was removed meanwhile.
    candidates, invalid = answers.candidates(_Image, found.results, _Image.candidate)
    # Without their number, or with one that this page is beyond, there may be more as long as a page has anything.
    is_known = found.page_count is not None and (page < found.page_count or not found.results)
    continues = page + 1 < (found.page_count or 0) if is_known else bool(found.results)
    return Page(candidates, more or continues, invalid=invalid)

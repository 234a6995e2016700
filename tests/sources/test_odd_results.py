"""Odd values at every place of a provider's answer: they cost no other entry, and raise nothing but the two errors."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import Any

import httpx
import pytest
from fakes.api import KEY, Api
from fakes.europeana import Europeana
from fakes.flickr import Flickr
from fakes.gbif import Gbif
from fakes.inaturalist import INaturalist
from fakes.internet_archive import InternetArchive
from fakes.met import Met
from fakes.nasa import Nasa
from fakes.pexels import Pexels
from fakes.pixabay import Pixabay
from fakes.smithsonian import Smithsonian
from fakes.unsplash import Unsplash
from source_client import with_client

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Query, SourceConfig
from pixcrawler_worker.web.http import translated

APIS: dict[str, type[Api]] = {
    "europeana": Europeana,
    "flickr": Flickr,
    "gbif": Gbif,
    "inaturalist": INaturalist,
    "internet_archive": InternetArchive,
    "met": Met,
    "nasa": Nasa,
    "pexels": Pexels,
    "pixabay": Pixabay,
    "smithsonian": Smithsonian,
    "unsplash": Unsplash,
}
QUERY = Query(text="cat", label="cat", page=0, page_size=3)
ODD: tuple[Any, ...] = (None, True, 0, -1, 1e400, 10**400, "", "a\0b", "\ud800", [], {}, [[[None]]], {"a": {"b": 1}})
Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Return all places of an answer, in lists only the first entry."""
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places(part, (*place, name))


def changed(value: Any, place: Place, odd: Any) -> Any:
    """Return a copy with another value at this place."""
    if not place:
        return odd
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    copy[place[0]] = changed(value[place[0]], place[1:], odd)
    return copy


def recorded(name: str) -> tuple[str, dict[str, str], Page]:
    """Return the base URL of a provider, what it answers to a search, and the page that the source makes of it."""
    with APIS[name](["0.jpg", "1.jpg", "2.jpg"]).serving() as api:
        source = protocol.load(name, SourceConfig(base_url=api.url, api_key=KEY))
        page = with_client(lambda client: source.search(QUERY, client))
        return api.url, api.answers, page


async def replayed(name: str, url: str, answers: dict[str, str]) -> Page | None:
    """Return the page that a source makes of these answers; None when it rejects them."""

    def respond(request: httpx.Request) -> httpx.Response:
        content = answers.get(request.url.raw_path.decode())
        return httpx.Response(404, json={}) if content is None else httpx.Response(200, content=content)

    source = protocol.load(name, SourceConfig(base_url=url, api_key=KEY))
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        try:
            with translated(name):
                return await source.search(QUERY, client)
        except (PermanentError, TransientError):
            return None


#: Where each provider says how many results, or pages of them, a search has.
TOTALS: dict[str, Place] = {
    "europeana": ("totalResults",),
    "flickr": ("photos", "total"),
    "inaturalist": ("total_results",),
    "internet_archive": ("response", "numFound"),
    "pixabay": ("totalHits",),
    "smithsonian": ("response", "rowCount"),
    "unsplash": ("total_pages",),
}


@pytest.mark.parametrize("name", TOTALS)
@pytest.mark.parametrize("total", [None, 0, "12,345", "many", -5, [], 10**400])
def test_a_total_that_says_nothing_costs_no_image_of_its_page_and_no_further_page(name: str, total: Any) -> None:
    url, answers, usual = recorded(name)
    assert not usual.more
    path = search_path(answers)
    odd = answers | {path: json.dumps(changed(json.loads(answers[path]), TOTALS[name], total))}
    page = asyncio.run(replayed(name, url, odd))
    assert page
    assert page.candidates == usual.candidates
    assert page.more, "there may be more, which another request shows"


@pytest.mark.parametrize("name", TOTALS)
def test_a_search_whose_total_is_always_zero_ends(name: str) -> None:
    url, answers, _ = recorded(name)
    path = search_path(answers)
    zero = changed(json.loads(answers[path]), TOTALS[name], 0)
    there = answers | {path: json.dumps(zero)}

    def respond(request: httpx.Request) -> httpx.Response:
        # Further pages have nothing.
        return httpx.Response(200, content=there.get(request.url.raw_path.decode()) or json.dumps(emptied(zero)))

    async def pages() -> list[Page]:
        source = protocol.load(name, SourceConfig(base_url=url, api_key=KEY))
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
            return [await source.search(replace(QUERY, page=number), client) for number in range(2)]

    first, second = asyncio.run(pages())
    assert first.more
    assert second == Page((), more=False)


def search_path(answers: dict[str, str]) -> str:
    """Return the path of a search: others are asked for licenses before it, or for details after it."""
    return next(path for path in answers if "getInfo" not in path and "/metadata/" not in path)


def emptied(value: Any) -> Any:
    """Return an answer without its results."""
    if isinstance(value, dict):
        return {name: emptied(part) for name, part in value.items()}
    return [] if isinstance(value, list) else value


@pytest.mark.parametrize("name", APIS)
def test_an_odd_value_costs_at_most_its_entry(name: str) -> None:
    url, answers, usual = recorded(name)
    assert len(usual.candidates) == 3
    others = {candidate.url for candidate in usual.candidates[1:]}

    async def check() -> None:
        # The search, and the first of the details where they need requests of their own.
        for path, content in list(answers.items())[:2]:
            answer = json.loads(content)
            for place in places(answer):
                for odd in ODD if 0 in place else ODD[:4]:
                    there = answers | {path: json.dumps(changed(answer, place, odd))}
                    page = await replayed(name, url, there)
                    if 0 in place:
                        assert page, (place, odd)
                        assert others <= {candidate.url for candidate in page.candidates}, (place, odd)
                        assert len(page.candidates) + page.invalid <= 3
                    for candidate in page.candidates if page else ():
                        assert candidate.url
                        assert candidate.credit.attribution or not candidate.credit.license, (place, odd)
                        texts = astuple(candidate.credit)
                        assert all(one is None or ("\0" not in one and one.encode()) for one in texts if one != "")

    asyncio.run(check())

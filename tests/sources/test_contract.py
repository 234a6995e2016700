"""One suite for every installed source. A new one adds an adapter here: its queries, and its provider."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pytest
from fakes import hosts, providers
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
from fakes.providers import Catalog, Work
from fakes.smithsonian import Smithsonian
from fakes.unsplash import Unsplash
from source_client import with_client

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Query, Source, SourceConfig
from pixcrawler_worker.web.http import AsyncClient

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """How one source is tested.

    Attributes:
        query: makes the query for a page of a catalog of image names.
        serving: serves that catalog as its provider does, and yields the base URL; None without a provider.
        base: path of the provider's base URL.
        first: path that is requested first; tests of trouble replace its response.
        name_of: returns the name of the image with a URL.
    """

    query: Callable[[Sequence[str], int, int], Query]
    serving: Callable[[Sequence[str]], AbstractContextManager[str]] | None = None
    base: str = ""
    first: str = ""
    name_of: Callable[[str], str] = Api.name_of


def list_query(names: Sequence[str], page: int, size: int) -> Query:
    urls = tuple(f"https://images.example/{name}" for name in names[page * size : (page + 1) * size])
    return Query(text="cat", label="cat", page=page, page_size=size, urls=urls)


def text_query(names: Sequence[str], page: int, size: int) -> Query:
    del names
    return Query(text="cat", label="cat", page=page, page_size=size)


@contextmanager
def index(names: Sequence[str]) -> Iterator[str]:
    body = json.dumps({"dog": ["dog/0.jpg"], "cat": list(names)}).encode()
    with hosts.serving(responses={"/index.json": response(body)}) as server:
        yield server.base


@contextmanager
def provider(names: Sequence[str], *, base: str) -> Iterator[str]:
    works = [Work(number, "cat", number) for number in range(len(names))]
    catalog = Catalog({"cat": works}, {"cat": works})
    with providers.serving(catalog) as server:
        yield server.base + base


@contextmanager
def api(names: Sequence[str], *, kind: type[Api]) -> Iterator[str]:
    with kind(names).serving() as server:
        yield server.url


def api_adapter(kind: type[Api]) -> Adapter:
    """How a source is tested whose provider has a fake of its own."""
    return Adapter(
        query=text_query,
        serving=partial(api, kind=kind),
        base=kind.path,
        first=kind.first,
        name_of=kind.name_of,
    )


ADAPTERS = {
    "urls": Adapter(query=list_query),
    "gallery": Adapter(query=text_query, serving=index, first="/index.json"),
    "commons": Adapter(
        query=text_query,
        serving=partial(provider, base="/w/api.php"),
        base="/w/api.php",
        first="/w/api.php",
        # There is a width before the name of a thumbnail.
        name_of=lambda url: url.rpartition("/")[2].rpartition("px-")[2],
    ),
    "openverse": Adapter(query=text_query, serving=partial(provider, base="/v1"), base="/v1", first="/v1/images/"),
    "inaturalist": api_adapter(INaturalist),
    "gbif": api_adapter(Gbif),
    "met": api_adapter(Met),
    "nasa": api_adapter(Nasa),
    "internet_archive": api_adapter(InternetArchive),
    "pexels": api_adapter(Pexels),
    "unsplash": api_adapter(Unsplash),
    "pixabay": api_adapter(Pixabay),
    "flickr": api_adapter(Flickr),
    "smithsonian": api_adapter(Smithsonian),
    "europeana": api_adapter(Europeana),
}
SOURCES = list(protocol.SOURCES.installed())
WITH_PROVIDER = [name for name in SOURCES if name in ADAPTERS and ADAPTERS[name].serving]


def response(body: bytes, *, status: int = 200, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Setup:
    """A source with a provider of its own on loopback."""

    def __init__(self, name: str, stack: ExitStack, names: Sequence[str], first_response: bytes | None = None) -> None:
        self.name = name
        self.adapter = ADAPTERS[name]
        self.names = names
        base: str | None = None
        if first_response is not None:
            server = stack.enter_context(hosts.serving(responses={self.adapter.first: first_response}))
            base = server.base + self.adapter.base
        elif self.adapter.serving:
            base = stack.enter_context(self.adapter.serving(names))
        self.source: Source = protocol.load(name, SourceConfig(base_url=base, api_key=KEY))

    def run(self, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        return with_client(work, name=self.name)

    def names_in(self, *pages: Page) -> list[str]:
        """Return the names of the images on these pages."""
        return [self.adapter.name_of(candidate.url) for page in pages for candidate in page.candidates]

    def pages(self, size: int, numbers: Sequence[int]) -> list[Page]:
        """Return the pages of these numbers, in that order."""

        async def search(http: AsyncClient) -> list[Page]:
            return [await self.source.search(self.adapter.query(self.names, number, size), http) for number in numbers]

        return self.run(search)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def catalog(count: int) -> list[str]:
    return [f"{number}.jpg" for number in range(count)]


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_tested_here_and_describes_itself(name: str) -> None:
    assert name in ADAPTERS, "give it an adapter"
    source = protocol.load(name, SourceConfig())
    assert source.summary
    assert "\n" not in source.summary
    assert source.terms
    assert "\n" not in source.terms
    assert source.page_size is None or source.page_size > 0
    assert source.depth is None or source.depth >= (source.page_size or 1)
    missing = source.missing()
    assert missing is None or (missing and "\n" not in missing)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_its_pages_bring_every_candidate_once_and_in_order(name: str, count: int, stack: ExitStack) -> None:
    setup = Setup(name, stack, catalog(count))
    for size in (1, 3, 10):
        last = -(-count // size)
        pages = setup.pages(size, range(last + 1))
        assert setup.names_in(*pages) == catalog(count)
        assert all(len(page.candidates) <= size for page in pages)
        # Following `more` misses nothing, and ends.
        assert all(page.more for page in pages[: last - 1])
        assert pages[-1] == Page((), more=False)


@pytest.mark.parametrize("name", SOURCES)
def test_a_page_is_the_same_whenever_and_in_whatever_order_it_is_requested(name: str, stack: ExitStack) -> None:
    setup = Setup(name, stack, catalog(7))
    first = setup.pages(3, [0, 1, 2])
    assert setup.pages(3, [2, 0, 1, 0]) == [first[2], first[0], first[1], first[0]]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("side", [300, 5000])
def test_with_a_target_its_candidates_are_the_same_and_their_alternates_other_urls(
    name: str, side: int, stack: ExitStack
) -> None:
    setup = Setup(name, stack, catalog(5))
    query = replace(setup.adapter.query(setup.names, 0, 10), target_side=side)
    page = setup.run(lambda http: setup.source.search(query, http))
    assert setup.names_in(page) == catalog(5)
    for candidate in page.candidates:
        urls = [candidate.url, *candidate.alternates]
        assert len(set(urls)) == len(urls)
        assert len({setup.adapter.name_of(url) for url in urls}) == 1
        assert all(url.startswith(("http://", "https://")) for url in urls)
    usual = setup.pages(10, [0])[0]
    assert not any(candidate.alternates for candidate in usual.candidates)


@pytest.mark.parametrize("name", SOURCES)
def test_far_beyond_the_end_there_is_nothing(name: str, stack: ExitStack) -> None:
    assert Setup(name, stack, catalog(4)).pages(3, [1000]) == [Page((), more=False)]


@pytest.mark.parametrize("name", SOURCES)
def test_several_pages_may_be_requested_at_once(name: str, stack: ExitStack) -> None:
    setup = Setup(name, stack, catalog(20))

    async def all_at_once(http: AsyncClient) -> list[Page]:
        queries = [setup.adapter.query(setup.names, number, 5) for number in range(4)]
        return await asyncio.gather(*(setup.source.search(query, http) for query in queries))

    assert setup.names_in(*setup.run(all_at_once)) == catalog(20)


@pytest.mark.parametrize("name", SOURCES)
def test_a_candidate_is_a_url_and_texts_or_none(name: str, stack: ExitStack) -> None:
    for page in Setup(name, stack, catalog(5)).pages(2, [0, 1]):
        for candidate in page.candidates:
            assert candidate.url.startswith(("http://", "https://"))
            assert all(value is None or isinstance(value, str) for value in astuple(candidate.credit))


TROUBLE = {
    "busy": response(b"", status=429),
    "broken": response(b"oh", status=500, kind="text/plain"),
    "hangs up": b"",
    "half a response": response(b'{"cat": ["0.jpg"]}')[:-5],
    "gone": response(b"<p>not here", status=404, kind="text/html"),
    "HTML": response(hosts.HTML, kind="text/html"),
    "half a JSON": response(b'{"cat": ["0.jpg", '),
    "no text": response(b"\xff\xfe\x00\xd8"),
    "endlessly deep": response(b"[" * 100_000),
    "a list": response(b"[]"),
    "null": response(b"null"),
    "a number": response(b"1e999"),
    "other values": response(b'{"cat": {"0.jpg": 1}, "results": 5, "query": "x", "photos": [7]}'),
    "no lists": response(b'{"cat": {}, "results": {}, "query": {"pages": {}}}'),
}
#: Trouble that may pass; the rest needs an operator.
TRANSIENT = {"busy", "broken", "hangs up", "half a response"}


@pytest.mark.parametrize("name", WITH_PROVIDER)
@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_with_its_provider_is_one_of_the_two_errors(name: str, trouble: str, stack: ExitStack) -> None:
    setup = Setup(name, stack, catalog(3), first_response=TROUBLE[trouble])
    expected = TransientError if trouble in TRANSIENT else PermanentError
    with pytest.raises((TransientError, PermanentError)) as caught:
        setup.pages(3, [0])
    assert type(caught.value) is expected
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WITH_PROVIDER)
def test_a_provider_that_redirects_to_a_page_names_it_and_no_key(name: str, stack: ExitStack) -> None:
    location = f"/login/{KEY}?next={KEY}"
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    adapter = ADAPTERS[name]
    page = response(b"<h1>Log in", kind="text/html")
    server = stack.enter_context(hosts.serving(responses={adapter.first: redirect, f"/login/{KEY}": page}))
    source = protocol.load(name, SourceConfig(base_url=server.base + adapter.base, api_key=KEY))
    with pytest.raises(PermanentError, match=r"redirected to 'http://127\.0\.0\.1:\d+/login/") as caught:
        with_client(lambda client: source.search(adapter.query(["0.jpg"], 0, 3), client), name=name)
    needs_key = "_API_KEY" in (protocol.load(name, SourceConfig()).missing() or "")
    assert not needs_key or KEY not in str(caught.value)


KEYED = [name for name in WITH_PROVIDER if "_API_KEY" in (protocol.load(name, SourceConfig()).missing() or "")]


@pytest.mark.parametrize("name", KEYED)
@pytest.mark.parametrize("status", [200, 400, 403, 429])
@pytest.mark.parametrize(
    "body", ['{{"error": "{}"}}', '{{"stat": "fail", "code": 100, "message": "{}"}}', "not JSON: {}"]
)
def test_no_error_repeats_the_key(name: str, status: int, body: str, stack: ExitStack) -> None:
    trouble = response(body.format(KEY).encode(), status=status)
    setup = Setup(name, stack, catalog(3), first_response=trouble)
    with pytest.raises((TransientError, PermanentError)) as caught:
        setup.pages(3, [0])
    assert KEY not in str(caught.value)


REJECTIONS = {
    "nothing": (401, b""),
    "HTML": (403, b"<html><h1>Forbidden</h1><p>{key}</p></html>"),
    "JSON": (401, b'{"error": "the key {key} is not known"}'),
    "JSON without a reason": (403, b'{"x": 1}'),
    "very much": (401, b'{"message": "' + b"no " * 1000 + b'"}'),
}


@pytest.mark.parametrize("name", [*KEYED, "openverse"])
@pytest.mark.parametrize("rejection", REJECTIONS)
def test_a_key_that_is_rejected_leads_to_its_setting_and_to_what_to_do(
    name: str, rejection: str, stack: ExitStack
) -> None:
    status, body = REJECTIONS[rejection]
    answer = response(body.replace(b"{key}", KEY.encode()), status=status)
    setup = Setup(name, stack, catalog(3), first_response=answer)
    with pytest.raises(PermanentError) as caught:
        setup.pages(3, [0])
    said = str(caught.value)
    assert f"is PIXCRAWLER_{name.upper()}_API_KEY right? Set a valid key, restart the workers, and retry" in said
    assert KEY not in said
    assert "<" not in said
    assert len(said) < 300


@pytest.mark.parametrize("name", [*KEYED, "openverse"])
@pytest.mark.parametrize("key", ["hunter3", "ada:hunter3", "\u201chunter3\u201d", "hunter3\n"])
def test_what_each_provider_says_to_a_wrong_key_leads_to_its_setting(name: str, key: str, stack: ExitStack) -> None:
    setup = Setup(name, stack, catalog(3))
    setup.source = protocol.load(name, SourceConfig(base_url=setup.source.config.base_url, api_key=key))
    with pytest.raises(PermanentError, match=f"PIXCRAWLER_{name.upper()}_API_KEY right") as caught:
        setup.pages(3, [0])
    assert "hunter3" not in str(caught.value)


def test_there_are_sources_with_a_key() -> None:
    assert set(KEYED) >= {"europeana", "flickr", "pexels", "pixabay", "smithsonian", "unsplash"}


@pytest.mark.parametrize("name", WITH_PROVIDER)
def test_a_provider_that_is_away_may_come_back(name: str, stack: ExitStack) -> None:
    with ExitStack() as short:
        setup = Setup(name, short, catalog(3))
    with pytest.raises(TransientError):
        setup.pages(3, [0])


@pytest.mark.parametrize("name", [name for name in SOURCES if protocol.load(name, SourceConfig()).missing()])
def test_without_its_configuration_it_says_what_to_set(name: str, stack: ExitStack) -> None:
    setup = Setup(name, stack, catalog(3))
    setup.source = protocol.load(name, SourceConfig())
    with pytest.raises(PermanentError, match=f"PIXCRAWLER_{name.upper()}_"):
        setup.pages(3, [0])

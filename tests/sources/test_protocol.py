import asyncio
from dataclasses import FrozenInstanceError

import httpx
import pytest

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Candidate, Page, Query, Source, SourceConfig


class Smallest(Source):
    """The least that a source can be."""

    summary = "one image"
    terms = "none"

    async def search(self, query: Query, http: httpx.AsyncClient) -> Page:
        del http
        return Page((Candidate(url=f"https://images.example/{query.text}.jpg"),), more=False)


def test_a_small_source_has_defaults_that_suit_it() -> None:
    source = Smallest(SourceConfig(api_key="hunter2"))
    assert (source.page_size, source.depth, source.missing()) == (None, None, None)
    assert source.config.api_key == "hunter2"
    page = asyncio.run(source.search(Query(text="cat", label="cat", page=0, page_size=1), httpx.AsyncClient()))
    (candidate,) = page.candidates
    assert candidate == Candidate(url="https://images.example/cat.jpg", credit=Credit(), width=None, height=None)


def test_a_source_without_a_search_cannot_be_made() -> None:
    class Unfinished(Source):
        summary = terms = "none"

    with pytest.raises(TypeError, match="search"):
        Unfinished(SourceConfig())  # type: ignore[abstract]  # that is what is tested


def test_a_query_has_no_limits_unless_they_are_set_and_leaves_out_adult_content() -> None:
    query = Query(text="cat", label="cat", page=0, page_size=50)
    assert (query.urls, query.licenses, query.min_width, query.min_height) == ((), None, 1, 1)
    assert query.safe_search
    with pytest.raises(FrozenInstanceError):
        query.page = 1  # type: ignore[misc]  # that is what is tested


def test_an_installed_source_is_loaded_with_its_configuration() -> None:
    source = protocol.load("gallery", SourceConfig(base_url="https://images.example"))
    assert source.config.base_url == "https://images.example"
    assert source.missing() is None


def test_a_source_that_is_not_installed_is_a_permanent_error() -> None:
    with pytest.raises(PermanentError, match="aquarium"):
        protocol.load("aquarium", SourceConfig())


@pytest.mark.parametrize("given", ["https://mirror.example/api", "https://mirror.example/api/"])
def test_a_base_url_ends_with_a_slash(given: str) -> None:
    assert SourceConfig(base_url=given).base("https://api.example/v1") == "https://mirror.example/api/"
    assert SourceConfig().base("https://api.example/v1") == "https://api.example/v1/"

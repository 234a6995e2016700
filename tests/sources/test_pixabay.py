"""What Pixabay does that others do not."""

from datetime import UTC, datetime, timedelta

import pytest
from fakes.api import KEY
from fakes.pixabay import Pixabay
from source_client import search_with

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def names(count: int) -> list[str]:
    return [f"{number}.jpg" for number in range(count)]


def test_responses_are_kept_for_a_day() -> None:
    now = START
    with Pixabay(names(20)).serving() as api:
        source = protocol.SOURCES.load("pixabay")(SourceConfig(base_url=api.url, api_key=KEY), now=lambda: now)
        first = search_with(source, page_size=10)
        now += timedelta(hours=23, minutes=59)
        assert search_with(source, page_size=10) == first
        assert len(api.requests) == 1
        now += timedelta(minutes=1)
        assert search_with(source, page_size=10) == first
        assert len(api.requests) == 2


def test_the_quota_is_waited_for_as_long_as_it_says() -> None:
    now = START
    with Pixabay(names(30)).serving() as api:
        api.remaining, api.resets_in = 1, 42
        source = protocol.SOURCES.load("pixabay")(SourceConfig(base_url=api.url, api_key=KEY), now=lambda: now)
        search_with(source, page_size=10)
        with pytest.raises(TransientError) as caught:
            search_with(source, page_size=10, page=1)
        assert caught.value.retry_after == timedelta(seconds=42)
        assert len(api.requests) == 1
        now, api.remaining = now + timedelta(seconds=42), 100
        assert len(search_with(source, page_size=10, page=1).candidates) == 10


def test_beyond_500_its_orientations_and_categories_are_searched() -> None:
    with Pixabay(names(900)).serving() as api:
        source = protocol.load("pixabay", SourceConfig(base_url=api.url, api_key=KEY))
        found = [search_with(source, page_size=100, page=4)]
        while found[-1].more:
            found.append(search_with(source, page_size=100, page=4 + len(found)))
        reached = {api.name_of(one.url) for page in found for one in page.candidates}
    assert len(reached) == 900
    assert len(api.requests) < 50


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pages_below_three_entries_are_parts_of_larger_ones(size: int) -> None:
    with Pixabay(names(7)).serving() as api:
        source = protocol.load("pixabay", SourceConfig(base_url=api.url, api_key=KEY))
        found = [search_with(source, page_size=size, page=page) for page in range(-(-7 // size))]
    assert [api.name_of(one.url) for page in found for one in page.candidates] == names(7)


def test_an_error_in_plain_text_is_quoted_without_the_key() -> None:
    with Pixabay(names(1)).serving() as api:
        source = protocol.load("pixabay", SourceConfig(base_url=api.url, api_key="hunter3"))
        with pytest.raises(PermanentError, match=r"Invalid or missing API key .*PIXCRAWLER_PIXABAY_API_KEY") as caught:
            search_with(source)
    assert "hunter3" not in str(caught.value)


def test_a_keyword_that_is_too_long_is_an_error_that_says_so() -> None:
    source = protocol.load("pixabay", SourceConfig(api_key=KEY))
    with pytest.raises(PermanentError, match="more than 100 characters, here 150"):
        search_with(source, text="x" * 150)


def test_photos_come_with_the_size_of_the_file_that_is_offered() -> None:
    with Pixabay(names(1)).serving() as api:
        source = protocol.load("pixabay", SourceConfig(base_url=api.url, api_key=KEY))
        (photo,) = search_with(source, min_width=800, safe_search=False).candidates
        assert search_with(source, licenses=("cc0",)) == Page((), more=False)
    assert (photo.width, photo.height) == (1280, 960)
    assert (photo.credit.author, photo.credit.license) == ("Ada", "licenseref-pixabay")
    assert (api.queries[0]["min_width"], api.queries[0]["safesearch"]) == ("800", "false")

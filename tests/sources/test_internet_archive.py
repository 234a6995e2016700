"""What Internet Archive does that others do not."""

from typing import Any

import source_client
from fakes.api import Api
from fakes.internet_archive import InternetArchive

from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

NAMES = [f"{number}.jpg" for number in range(8)]
NOTHING = Page((), more=False)


def search_in(api: Api, **values: Any) -> Page:
    return source_client.search("internet_archive", api.url, **{"page_size": 20} | values)


def numbers(api: Api, page: Page) -> list[int]:
    return [int(api.name_of(candidate.url).partition(".")[0]) for candidate in page.candidates]


def test_items_of_the_archive_bring_their_first_image_and_credit() -> None:
    api = InternetArchive(NAMES[:2])
    api.closed = ("gone-x", "dark-x")
    with api.serving():
        page = search_in(api)
    assert (numbers(api, page), page.invalid) == ([0, 1], 2)
    assert [one.credit.license for one in page.candidates] == ["cc-by-sa-3.0", None]
    assert page.candidates[0].credit.author == "Ada Example"
    assert page.candidates[0].credit.page_url == "https://archive.org/details/cat-0"
    assert (page.candidates[0].width, page.candidates[0].height) == (4000, 3000)


def test_files_of_items_with_other_licenses_are_not_asked_for() -> None:
    with InternetArchive(NAMES).serving() as api:
        page = search_in(api, licenses=("cc0",))
        assert (numbers(api, page), page.invalid) == ([2, 5], 0)
        assert len(api.requests) == 3
        assert "licenseurl:[* TO *]" in api.queries[0]["q"]


def test_beyond_its_window_it_is_not_asked() -> None:
    source = protocol.load("internet_archive", SourceConfig())
    assert source.depth
    assert source.page_size
    with InternetArchive(NAMES).serving() as api:
        last = source.depth // source.page_size - 1
        assert search_in(api, page=last, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1
        assert search_in(api, page=last + 1, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1

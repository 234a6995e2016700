"""What Internet Archive does that others do not."""

from typing import Any

import pytest
import source_client
from aiohttp import web
from fakes.api import Api, Json
from fakes.internet_archive import InternetArchive

from pixcrawler_worker.errors import TransientError
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


class FailingArchive(InternetArchive):
    """Answers requests for the files of some items with an error of the server, always."""

    failing: tuple[str, ...] = ()

    def respond(self, request: web.Request) -> web.Response:
        if request.path.rpartition("/")[2] in self.failing:
            return web.Response(status=502, text="<h1>Bad Gateway</h1>", content_type="text/html")
        return super().respond(request)


def test_an_item_that_always_fails_does_not_cost_the_others() -> None:
    api = FailingArchive(NAMES)
    api.failing = ("cat-3",)
    with api.serving():
        page = search_in(api)
        assert (numbers(api, page), page.invalid) == ([0, 1, 2, 4, 5, 6, 7], 1)
        api.failing = ("cat-3", "cat-4", "cat-5")
        with pytest.raises(TransientError, match="502"):
            search_in(api)


class PrivateArchive(InternetArchive):
    """Keeps the original of each item from the public."""

    private: object = True

    def _details(self, identifier: str) -> Json:
        details = super()._details(identifier)
        for file in details["files"]:
            file["private"] = self.private if file["name"] == "1.jpg" else "false"
        return details


@pytest.mark.parametrize("private", [True, "true"])
def test_a_file_that_only_its_owner_may_have_is_left_out(*, private: object) -> None:
    api = PrivateArchive(["1.jpg"])
    api.private = private
    with api.serving():
        (found,) = search_in(api).candidates
    assert found.url.endswith("/back%20of%201.jpg")

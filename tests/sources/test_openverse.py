"""What Openverse does that others do not."""

from typing import Any

import pytest
import source_client
from aiohttp import web
from fakes import providers
from fakes.providers import Catalogue, Trouble, Work

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources.protocol import Page


def search(base_url: str, **asked: Any) -> Page:
    return source_client.search("openverse", base_url, **{"page_size": 20} | asked)


def catalogue(count: int) -> Catalogue:
    return Catalogue({}, {"cat": [Work(number, "cat", number) for number in range(count)]})


def answering(data: object, *, status: int = 200) -> Trouble:
    return lambda _number, _request: web.json_response(data, status=status)


def test_the_end_of_what_can_be_reached_is_an_end_and_no_refusal() -> None:
    with providers.serving(catalogue(500)) as server:
        last = search(server.openverse_url, page=11)
        assert (len(last.candidates), last.more) == (20, False)
        assert search(server.openverse_url, page=12) == Page((), more=False)
        assert search(server.openverse_url, page=3, page_size=7).more


def test_licence_author_and_where_it_comes_from_are_known_of_every_picture() -> None:
    with providers.serving(catalogue(4)) as server:
        found = search(server.openverse_url).candidates
    assert [c.credit.license for c in found] == ["cc-by-sa-4.0", "cc0-1.0", "cc-pdm-1.0", "cc-by-2.0"]
    assert [c.credit.author for c in found] == ["Ada & co."] * 4
    assert found[0].credit.attribution == '"cat 0" by Ada & co. is licensed under CC BY-SA 4.0.'
    assert found[0].credit.page_url == "https://pictures.example/0"
    assert [(c.width, c.height) for c in found[:2]] == [(None, None), (96, 64)]


@pytest.mark.parametrize(
    ("wanted", "asked", "found"),
    [
        (None, None, 8),
        (("cc-by", "cc-by-sa-4.0"), "by,by-sa", 4),
        (("cc0", "public-domain"), "cc0", 2),
        (("public-domain",), None, 0),
        (("licenseref-unsplash",), None, 0),
    ],
)
def test_only_licences_that_are_wanted_are_asked_for(
    wanted: tuple[str, ...] | None, asked: str | None, found: int
) -> None:
    with providers.serving(catalogue(8)) as server:
        assert len(search(server.openverse_url, licenses=wanted).candidates) == found
        assert [sent.get("license") for sent in server.asked["openverse"]] == ([asked] if found else [])


def test_adult_content_is_asked_for_only_by_those_who_want_it() -> None:
    with providers.serving(catalogue(1)) as server:
        search(server.openverse_url)
        search(server.openverse_url, safe_search=False)
        assert [asked.get("mature") for asked in server.asked["openverse"]] == [None, "true"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"error": "InputError", "detail": "Invalid input given for fields. 'q' -> too long"}, "'q' -> too long"),
        (401, {"detail": "Authentication credentials were not provided."}, "answered 401: Authentication"),
        (403, {"detail": "no"}, "answered 403: no"),
        (404, {"detail": "Not found."}, "answered 404: Not found"),
        (418, [], "answered 418: without a detail"),
    ],
)
def test_a_refusal_is_told_in_the_providers_words(status: int, body: object, said: str) -> None:
    with (
        providers.serving(catalogue(1), openverse=answering(body, status=status)) as server,
        pytest.raises(PermanentError, match=said),
    ):
        search(server.openverse_url)


def test_an_odd_result_costs_its_neighbours_nothing() -> None:
    odd: list[dict[str, object]] = [
        {},
        {"url": None},
        {"url": "https://x/1", "width": "wide"},
        {"url": ["https://x/1"]},
    ]
    results = [*odd, {"url": "https://x/2", "license": "by"}]
    data = {"results": results, "page_count": 1}
    with providers.serving(catalogue(1), openverse=answering(data)) as server:
        (found,) = search(server.openverse_url).candidates
    assert (found.url, found.credit.license) == ("https://x/2", "cc-by")


def test_a_page_without_results_is_the_last_whatever_the_count_says() -> None:
    with providers.serving(catalogue(1), openverse=answering({"results": [], "page_count": 12})) as server:
        assert search(server.openverse_url) == Page((), more=False)

"""What Openverse does that others do not."""

from typing import Any

import pytest
import source_client
from aiohttp import web
from fakes import providers
from fakes.providers import Catalog, Trouble, Work

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources.protocol import Page


def search(base_url: str, **options: Any) -> Page:
    return source_client.search("openverse", base_url, **{"page_size": 20} | options)


def catalog(count: int) -> Catalog:
    return Catalog({}, {"cat": [Work(number, "cat", number) for number in range(count)]})


def responding(data: object, *, status: int = 200) -> Trouble:
    return lambda _number, _request: web.json_response(data, status=status)


def test_the_end_of_what_can_be_reached_is_not_an_error() -> None:
    with providers.serving(catalog(500)) as server:
        last = search(server.openverse_url, page=11)
        assert (len(last.candidates), last.more) == (20, False)
        assert search(server.openverse_url, page=12) == Page((), more=False)
        assert search(server.openverse_url, page=3, page_size=7).more


def test_every_image_has_its_license_author_and_page() -> None:
    with providers.serving(catalog(4)) as server:
        found = search(server.openverse_url).candidates
    assert [c.credit.license for c in found] == ["cc-by-sa-4.0", "cc0-1.0", "cc-pdm-1.0", "cc-by-2.0"]
    assert [c.credit.author for c in found] == ["Ada & co."] * 4
    assert found[0].credit.attribution == '"cat 0" by Ada & co. is licensed under CC BY-SA 4.0.'
    assert found[0].credit.page_url == "https://images.example/0"
    assert [(c.width, c.height) for c in found[:2]] == [(None, None), (96, 64)]


@pytest.mark.parametrize(
    ("licenses", "requested", "found"),
    [
        (None, None, 8),
        (("cc-by", "cc-by-sa-4.0"), "by,by-sa", 4),
        (("cc0", "public-domain"), "cc0", 2),
        (("public-domain",), None, 0),
        (("licenseref-unsplash",), None, 0),
    ],
)
def test_only_licenses_of_the_query_are_requested(
    licenses: tuple[str, ...] | None, requested: str | None, found: int
) -> None:
    with providers.serving(catalog(8)) as server:
        assert len(search(server.openverse_url, licenses=licenses).candidates) == found
        assert [sent.get("license") for sent in server.requests["openverse"]] == ([requested] if found else [])


def test_adult_content_is_requested_only_without_safe_search() -> None:
    with providers.serving(catalog(1)) as server:
        search(server.openverse_url)
        search(server.openverse_url, safe_search=False)
        assert [sent.get("mature") for sent in server.requests["openverse"]] == [None, "true"]


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
def test_a_rejection_quotes_the_provider(status: int, body: object, said: str) -> None:
    with (
        providers.serving(catalog(1), openverse=responding(body, status=status)) as server,
        pytest.raises(PermanentError, match=said),
    ):
        search(server.openverse_url)


def test_an_odd_result_does_not_cost_the_others() -> None:
    odd: list[dict[str, object]] = [
        {},
        {"url": None},
        {"url": ["https://x/1"]},
    ]
    results: list[object] = [None, 5, "x", [], *odd, {"url": "https://x/2", "license": "by"}]
    data = {"results": results, "page_count": 1}
    with providers.serving(catalog(1), openverse=responding(data)) as server:
        page = search(server.openverse_url)
    (found,) = page.candidates
    assert (found.url, found.credit.license, page.invalid) == ("https://x/2", "cc-by", 7)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("width", "160", (160, "by", "cc-by-4.0")),
        ("width", 160.0, (160, "by", "cc-by-4.0")),
        ("width", 160.5, (None, "by", "cc-by-4.0")),
        ("width", -1, (None, "by", "cc-by-4.0")),
        ("width", 10**12, (None, "by", "cc-by-4.0")),
        ("width", "9" * 5000, (None, "by", "cc-by-4.0")),
        ("creator", 17, (None, "17", "cc-by-4.0")),
        ("creator", {"name": "x"}, (None, None, "cc-by-4.0")),
        ("license_version", 4.0, (None, "by", "cc-by-4.0")),
        ("license_version", None, (None, "by", "cc-by")),
        ("license", None, (None, "by", "licenseref-4.0")),
    ],
)
def test_an_odd_field_does_not_cost_its_result(field: str, value: object, expected: tuple[object, ...]) -> None:
    result = {"url": "https://x/1", "creator": "by", "license": "by", "license_version": "4.0", field: value}
    data = {"results": [result], "page_count": 1}
    with providers.serving(catalog(1), openverse=responding(data)) as server:
        (found,) = search(server.openverse_url).candidates
    assert (found.width, found.credit.author, found.credit.license) == expected


def test_an_empty_page_does_not_end_the_search() -> None:
    with providers.serving(catalog(1), openverse=responding({"results": [], "page_count": 12})) as server:
        assert search(server.openverse_url) == Page((), more=True)

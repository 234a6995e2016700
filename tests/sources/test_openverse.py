"""What Openverse does that others do not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import source_client
from aiohttp import web
from fakes import providers
from fakes.providers import Catalog, Trouble, Work
from source_client import search_with

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig


def search(base_url: str, **options: Any) -> Page:
    return source_client.search("openverse", base_url, **{"page_size": 20} | options)


def catalog(count: int) -> Catalog:
    return Catalog({}, {"cat": [Work(number, "cat", number) for number in range(count)]})


def responding(data: object, *, status: int = 200) -> Trouble:
    return lambda _number, _request: web.json_response(data, status=status)


def test_the_end_of_what_can_be_reached_is_not_an_error() -> None:
    with providers.serving(catalog(500)) as server:
        last = search(server.openverse_url, page=11)
        assert (len(last.candidates), last.more) == (20, True)
        assert search(server.openverse_url, page=1000) == Page((), more=False)
        assert search(server.openverse_url, page=3, page_size=7).more


def test_beyond_240_its_licenses_sizes_and_aspect_ratios_are_searched() -> None:
    with providers.serving(catalog(1100)) as server:
        source = protocol.load("openverse", SourceConfig(base_url=server.openverse_url))
        found = [search_with(source, page_size=20, page=11)]
        while found[-1].more:
            found.append(search_with(source, page_size=20, page=11 + len(found)))
        reached = {candidate.url for page in found for candidate in page.candidates}
        assert len(reached) == 1100
        # A license with 275 is divided by size, and the parts of that need not be.
        assert {sent.get("aspect_ratio") for sent in server.requests["openverse"]} == {None}
        assert {sent.get("size") for sent in server.requests["openverse"]} == {None, "large", "medium", "small"}
        assert found[-1] == Page((), more=False)


def test_only_licenses_of_the_query_are_divided() -> None:
    with providers.serving(catalog(1100)) as server:
        source = protocol.load("openverse", SourceConfig(base_url=server.openverse_url))
        assert search_with(source, page_size=20, page=12, licenses=("cc-by", "cc0")).candidates
        assert {sent["license"] for sent in server.requests["openverse"]} == {"by,cc0", "by"}


def test_with_a_key_requests_have_a_token_that_is_renewed_in_time() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    with providers.serving(catalog(50)) as server:
        config = SourceConfig(base_url=server.openverse_url, api_key="ada:hunter2")
        source = protocol.SOURCES.load("openverse")(config, now=lambda: now)
        for _ in range(2):
            assert len(search_with(source, page_size=20).candidates) == 20
        now += timedelta(hours=9, minutes=56)
        search_with(source, page_size=20)
        assert server.authorized == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
        # One that was revoked is renewed once.
        server.tokens = ["another"]
        assert len(search_with(source, page_size=20).candidates) == 20
        assert server.authorized[3:] == ["Bearer token-2", "Bearer token-3"]
        assert server.requests["tokens"][0] == {
            "grant_type": "client_credentials",
            "client_id": "ada",
            "client_secret": "hunter2",
        }


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("hunter3", "answered 401: Authentication credentials .*; is PIXCRAWLER_OPENVERSE_API_KEY right"),
        ("ada:hunter3", "answered 401: Invalid client: .*; is PIXCRAWLER_OPENVERSE_API_KEY right"),
    ],
)
def test_a_wrong_key_is_named_and_not_shown(key: str, said: str) -> None:
    with providers.serving(catalog(1)) as server:
        source = protocol.load("openverse", SourceConfig(base_url=server.openverse_url, api_key=key))
        with pytest.raises(PermanentError, match=said) as caught:
            search_with(source)
    assert "hunter3" not in str(caught.value)


def test_every_image_has_its_license_author_and_page() -> None:
    with providers.serving(catalog(4)) as server:
        found = search(server.openverse_url).candidates
    assert [c.credit.license for c in found] == ["cc-by-sa-4.0", "cc0-1.0", "cc-pdm-1.0", "cc-by-2.0"]
    assert [c.credit.author for c in found] == ["Ada & co."] * 4
    assert found[0].credit.attribution == '"cat 0" by Ada & co. is licensed under CC BY-SA 4.0.'
    assert found[0].credit.page_url == "https://images.example/0"
    assert [(c.width, c.height) for c in found[:2]] == [(None, None), (96, 64)]


def test_an_attribution_that_is_missing_is_made_of_the_rest() -> None:
    image = {"url": "https://images.example/0.jpg", "title": "A cat", "license": "by", "license_version": "4.0"}
    answer = responding({"result_count": 2, "page_count": 1, "results": [image, image | {"creator": "Ada"}]})
    with providers.serving(catalog(0), openverse=answer) as server:
        lines = [candidate.credit.attribution for candidate in search(server.openverse_url).candidates]
    assert lines == ["A cat, cc-by-4.0, via Openverse", "A cat by Ada, cc-by-4.0, via Openverse"]


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

"""What Wikimedia Commons does that others do not."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import source_client
from aiohttp import web
from fakes import providers
from fakes.providers import Catalog, Trouble, Work
from source_client import LOOPBACK, search_with

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Candidate, Page, SourceConfig
from pixcrawler_worker.web.policy import Policy


def search(base_url: str, **options: Any) -> Page:
    return source_client.search("commons", base_url, **options)


def catalog(count: int) -> Catalog:
    return Catalog({"cat": [Work(number, "cat", number) for number in range(count)]}, {})


def responding(data: object) -> Trouble:
    return lambda _number, _request: web.json_response(data)


def first_of(found: Page) -> Candidate:
    return found.candidates[0]


def described(*pages: dict[str, Any], **file: Any) -> tuple[Candidate, ...]:
    """Return the candidates of a search that finds these pages, and one whose file has these fields."""
    info = {"url": "https://x/1", "mediatype": "BITMAP"} | file
    found = [*pages, {"pageid": 1, "index": 9, "title": "File:A.b.jpg", "imageinfo": [info]}]
    with providers.serving(
        catalog(1), commons=responding({"batchcomplete": True, "query": {"pages": found}})
    ) as server:
        return search(server.commons_url).candidates


def test_parts_of_a_batch_become_one_page_in_the_order_of_relevance() -> None:
    with providers.serving(catalog(120)) as server:
        page = search(server.commons_url)
        assert [c.credit.title for c in page.candidates] == [f"cat {number}" for number in range(50)]
        assert page.more
        assert [request.get("iicontinue") for request in server.requests["commons"]] == [None, "x|1", "x|2"]
        last = search(server.commons_url, page=2)
        assert (len(last.candidates), last.more) == (20, False)


def test_every_image_has_its_license_author_and_page() -> None:
    with providers.serving(catalog(4)) as server:
        found = search(server.commons_url).candidates
    assert [c.credit.license for c in found] == ["cc-by-sa-4.0", "cc0-1.0", "public-domain", "cc-by-2.0"]
    assert [c.credit.author for c in found] == ["Ada & co."] * 4
    assert found[0].credit.license_url == "https://creativecommons.org/licenses/by-sa/4.0"
    assert found[2].credit.license_url is None
    assert found[0].credit.page_url == "https://commons.wikimedia.org/wiki/File:0.jpg"
    assert found[0].credit.attribution == "cat 0 by Ada & co., CC BY-SA 4.0, via Wikimedia Commons"


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ({}, "1280px-0.jpg"),
        ({"min_width": 1281}, "1920px-0.jpg"),
        ({"min_width": 3840}, "3840px-0.jpg"),
        ({"min_width": 5000}, "0.jpg"),
        ({"min_height": 800}, "0.jpg"),
    ],
)
def test_the_smallest_thumbnail_that_suffices_is_taken_and_the_original_when_none_does(
    options: dict[str, int], file: str
) -> None:
    with providers.serving(catalog(1)) as server:
        found = first_of(search(server.commons_url, **options))
    assert found.url.rpartition("/")[2] == file
    assert (found.width or 0) >= options.get("min_width", 1)
    assert (found.height or 0) >= options.get("min_height", 1)


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("ratelimited", True),
        ("readonly", True),
        ("internal_api_error_DBQueryError", True),
        ("badvalue", False),
        ("unknown_generator", False),
    ],
)
def test_errors_with_status_200_are_errors(code: str, *, passes: bool) -> None:
    trouble = responding({"error": {"code": code, "info": "so it is"}})
    with (
        providers.serving(catalog(1), commons=trouble) as server,
        pytest.raises(TransientError if passes else PermanentError, match=f"commons answered the error {code}: so it"),
    ):
        search(server.commons_url)


@pytest.mark.parametrize(
    ("respond", "seconds"),
    [
        (lambda: providers.lagging(7), 7),
        (lambda: providers.throttled(11), 11),
        (lambda: web.Response(status=429), 60),
        (lambda: web.Response(status=503, headers={"Retry-After": "13"}), 13),
        (lambda: web.json_response({"error": {"code": "maxlag", "info": "lag"}}), 5),
    ],
)
def test_a_retry_after_is_passed_on_at_once(respond: Callable[[], web.Response], seconds: int) -> None:
    with providers.serving(catalog(1), commons=lambda _number, _request: respond()) as server:
        with pytest.raises(TransientError) as caught:
            search(server.commons_url)
        assert caught.value.retry_after == timedelta(seconds=seconds)
        assert len(server.requests["commons"]) == 1


def test_a_request_is_repeated_after_a_hiccup() -> None:
    def stumble(number: int, _request: web.Request) -> web.Response | None:
        return providers.down() if number < 2 else None

    with providers.serving(catalog(3), commons=stumble) as server:
        assert len(search(server.commons_url).candidates) == 3
        assert len(server.requests["commons"]) == 3


def test_a_provider_that_is_down_is_an_error_after_three_requests() -> None:
    with providers.serving(catalog(1), commons=providers.down) as server:
        with pytest.raises(TransientError, match="commons answered 503: '<h1>Service Unavailable</h1>'") as caught:
            search(server.commons_url)
        assert caught.value.retry_after is None
        assert len(server.requests["commons"]) == 3


def test_a_user_agent_that_names_no_client_is_a_permanent_error() -> None:
    with (
        providers.serving(catalog(1)) as server,
        pytest.raises(PermanentError, match="answered 403 with something that is not JSON: 'Please set a user-agent"),
    ):
        search(server.commons_url, policy=Policy(user_agent="python-requests/2", allowed_networks=LOOPBACK))


def test_a_continuation_without_end_is_not_followed_for_ever() -> None:
    def again(_number: int, _request: web.Request) -> web.Response:
        return web.json_response({"continue": {"iicontinue": "x", "continue": "||"}, "query": {"pages": []}})

    def further(number: int, _request: web.Request) -> web.Response:
        return web.json_response({"continue": {"iicontinue": str(number), "continue": "||"}})

    for trouble, requests in ((again, 2), (further, 100)):
        with providers.serving(catalog(1), commons=trouble) as server:
            assert search(server.commons_url) == Page((), more=False)
            assert len(server.requests["commons"]) == requests


ODD: dict[str, dict[str, Any]] = {
    "no file": {},
    "a file that is missing": {"imageinfo": [{"filemissing": True}]},
    "no description": {"imageinfo": None},
    "a document": {"imageinfo": [{"url": "https://x/a.pdf", "mediatype": "OFFICE"}]},
    "a number for a text": {"imageinfo": [{"url": 7, "mediatype": "BITMAP"}]},
    "a text for a file": {"imageinfo": ["https://x/a.jpg"]},
    "an object for a list": {"imageinfo": {"0": {}}},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_file_does_not_cost_the_others(odd: str) -> None:
    (found,) = described({"pageid": 2, "index": 1} | ODD[odd])
    assert (found.url, found.credit.title, found.credit.license) == ("https://x/1", "A.b", None)
    assert found.credit.attribution == "A.b, via Wikimedia Commons"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", "wide"),
        ("width", -1),
        ("height", 10**12),
        ("thumburl", None),
        ("descriptionurl", False),
        ("extmetadata", None),
        ("extmetadata", []),
        ("extmetadata", 7),
        ("extmetadata", {"Artist": None}),
        ("extmetadata", {"Artist": {"value": []}}),
    ],
)
def test_an_odd_field_does_not_cost_its_file(field: str, value: object) -> None:
    page = {"pageid": 2, "index": 1, "imageinfo": [{"url": "https://x/a.jpg", "mediatype": "BITMAP", field: value}]}
    found = {candidate.url: candidate for candidate in described(page)}
    odd = found["https://x/a.jpg"]
    assert (odd.width, odd.height, odd.credit.author) == (None, None, None)


def test_entries_without_a_url_are_counted() -> None:
    data = {"batchcomplete": True, "query": {"pages": [None, 5, {"pageid": 3, "imageinfo": [{}]}]}}
    with providers.serving(catalog(1), commons=lambda *_: web.json_response(data)) as server:
        assert search(server.commons_url) == Page((), more=False, invalid=3)


def test_an_empty_page_does_not_end_the_search() -> None:
    data = {"batchcomplete": True, "continue": {"gsroffset": 50, "continue": "gsroffset||"}}
    with providers.serving(catalog(1), commons=lambda *_: web.json_response(data)) as server:
        assert search(server.commons_url) == Page((), more=True)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<style>.x{color:red}</style><div class='fn'>Bob</div>", "Bob"),
        ("<div style='display: none'>label QS:Len,&quot;x&quot;<p>more</div>Title", "Title"),
        ("<span hidden>no</span><script>alert(1)</script>yes", "yes"),
        ("Zo\u00eb &amp; <i>\u00c5nn</i><br>two lines<br/>three", "Zo\u00eb & \u00c5nn two lines three"),
        ("<div style='display:none'><img src=x><br>a</div>b</div>c", "b c"),
    ],
)
def test_the_text_of_html_is_what_a_browser_shows(html: str, text: str) -> None:
    info = {"url": "https://x/a.jpg", "mediatype": "BITMAP", "extmetadata": {"Artist": {"value": html}}}
    found = {candidate.url: candidate for candidate in described({"pageid": 2, "index": 1, "imageinfo": [info]})}
    assert found["https://x/a.jpg"].credit.author == text


@pytest.mark.parametrize(
    ("metadata", "license_id"),
    [
        ([], None),
        ({"License": {"value": "gfdl"}, "LicenseShortName": {"value": "GFDL"}}, "licenseref-gfdl"),
        (
            {"License": {"value": "cc-by-sa-3.0-migrated"}, "LicenseShortName": {"value": "CC BY-SA 3.0"}},
            "cc-by-sa-3.0",
        ),
        ({"LicenseUrl": {"value": "https://x/"}, "License": {"value": "cc-by-2.5"}}, "cc-by-2.5"),
        ({"License": "cc0"}, None),
        ({"License": {"value": 7}}, "licenseref-7"),
    ],
)
def test_a_license_is_found_in_any_of_its_fields(metadata: object, license_id: str | None) -> None:
    (found,) = described(extmetadata=metadata)
    assert found.credit.license == license_id


def test_html_in_a_description_becomes_plain_text() -> None:
    (found,) = described(extmetadata={"Artist": {"value": "<a href='x'>\n Ada</a> &amp; <b>co</b>"}})
    assert found.credit.author == "Ada & co"


def test_beyond_10_000_ranges_of_widths_are_searched() -> None:
    with providers.serving(Catalog({"cat": [Work(number, "cat", number) for number in range(10_300)]}, {})) as server:
        source = protocol.load("commons", SourceConfig(base_url=server.commons_url))
        last = search_with(source, name="commons", page=199)
        assert (len(last.candidates), last.more) == (50, True)
        page = search_with(source, name="commons", page=200)
        assert (len(page.candidates), page.more) == (50, True)
        ranges = [sent["gsrsearch"] for sent in server.requests["commons"] if "gsrsearch" in sent]
        assert ranges[-1].startswith("filetype:bitmap cat filew:")
        # The number of pages of all ranges is known without requesting them.
        assert search_with(source, name="commons", page=10_000) == Page((), more=False)
        counted = [sent["srsearch"] for sent in server.requests["commons"] if "srsearch" in sent]
        widths = [int(one) for search in counted[1:] for one in search.partition("filew:")[2].split(",")]
        assert (min(widths), max(widths)) == (1, 1_000_000)

"""Odd values in any field of a provider's answer, and odd keywords: they cost no other entry, and each is counted."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Query, SourceConfig


def answered(source: str, content: str, **values: Any) -> tuple[Page, list[httpx.Request]]:
    """Return a page of a source whose provider gives this answer, and the requests."""
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, content=content.encode("utf-8", "surrogatepass"))

    async def run() -> Page:
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
            usual: dict[str, Any] = {"text": "cat", "label": "cat", "page": 0, "page_size": 20}
            query = Query(**usual | values)
            return await protocol.load(source, SourceConfig(base_url="https://api.example/")).search(query, client)

    return asyncio.run(run()), requests


#: Values as they stand in JSON.
ODD = (
    *("null", "true", "false", "0", "-1", "0.5", "NaN", "Infinity", "-Infinity", "1e400", "9" * 400, "9" * 5000, "[]"),
    *("{}", "[[[[]]]]", '{"a": {"b": [null]}}', '""', '" "', '"\\ud800"', '"a\\u0000b"', '"\\udfff\\ud83d"'),
    *('"\\u202e\\u200b"', '"<![x]>y"', '"<!-"', '"<b"', '"&#xd800;&#99999999999;"', '"</p></p><i hidden>x"', '"None"'),
    json.dumps("<" * 3000),
    json.dumps("<!--" * 1000),
    json.dumps("x" * 100_000),
)
COMMONS_FIELDS = (
    *("pageid", "index", "title", "imageinfo", "url", "mediatype", "width", "height", "thumburl", "thumbwidth"),
    *("thumbheight", "descriptionurl", "extmetadata", "Artist", "Artist.value", "LicenseShortName.value"),
    *("License.value", "LicenseUrl.value", "Attribution.value", "ObjectName.value"),
)
OPENVERSE_FIELDS = (
    *("url", "width", "height", "title", "creator", "foreign_landing_url", "license", "license_version"),
    *("license_url", "attribution", "id", "mature"),
)
#: The fields without which an entry is none.
COMMONS_NEEDS, OPENVERSE_NEEDS = {"imageinfo", "url"}, {"url"}


def commons_entry(number: int, odd: dict[str, str]) -> str:
    def field(name: str, usual: object) -> str:
        return f"{json.dumps(name.removesuffix('.value').rpartition('.')[2])}: {odd.get(name, json.dumps(usual))}"

    described = [
        f'"{name}": ' + odd.get(name, f'{{"value": {odd.get(f"{name}.value", json.dumps("CC0"))}}}')
        for name in ("Artist", "LicenseShortName", "License", "LicenseUrl", "Attribution", "ObjectName")
    ]
    extmetadata = odd.get("extmetadata", f"{{{', '.join(described)}}}")
    info = ", ".join(
        (
            *(field("url", f"https://x.example/{number}.jpg"), field("mediatype", "BITMAP"), field("width", 900)),
            *(field("height", 900), field("thumburl", f"https://x.example/{number}.jpg"), field("thumbwidth", 640)),
            *(
                field("thumbheight", 640),
                field("descriptionurl", "https://x.example/"),
                f'"extmetadata": {extmetadata}',
            ),
        )
    )
    imageinfo = odd.get("imageinfo", f"[{{{info}}}]")
    page = (field("pageid", number), field("index", number), field("title", "File:A.jpg"), f'"imageinfo": {imageinfo}')
    return f"{{{', '.join(page)}}}"


def openverse_entry(number: int, odd: dict[str, str]) -> str:
    usual = dict.fromkeys(OPENVERSE_FIELDS, "x") | {"url": f"https://x.example/{number}.jpg", "width": 9, "height": 9}
    return (
        f"{{{', '.join(f'{json.dumps(name)}: {odd.get(name, json.dumps(value))}' for name, value in usual.items())}}}"
    )


def entries(fields: tuple[str, ...]) -> st.SearchStrategy[Any]:
    entry = st.dictionaries(st.sampled_from(fields), st.sampled_from(ODD), min_size=1, max_size=4)
    return st.lists(entry | st.sampled_from(ODD), max_size=6)


def check(page: Page, odd: list[Any], needed: set[str]) -> None:
    """Assert that each entry is a candidate or counted, and that those with all that they need are candidates."""
    urls = [candidate.url for candidate in page.candidates]
    assert urls[-3:] == [f"https://x.example/{100 + at}.jpg" for at in range(3)]
    drawings = sum(isinstance(one, dict) and "mediatype" in one for one in odd)
    assert len(odd) + 3 - drawings <= len(urls) + page.invalid <= len(odd) + 3
    harmless = sum(isinstance(one, dict) and needed.isdisjoint(one) and "mediatype" not in one for one in odd)
    assert len(urls) >= harmless + 3
    for candidate in page.candidates:
        for text in candidate.credit.__slots__:
            value = getattr(candidate.credit, text)
            assert value is None or (isinstance(value, str) and "\0" not in value and value.encode() is not None)
            assert value not in {"nan", "inf", "True", "NaN"}


@settings(deadline=None, max_examples=150)
@given(odd=entries(COMMONS_FIELDS))
@example(odd=[{"pageid": "[]"}, {"pageid": "null"}, {"pageid": "null"}, {"Artist.value": '"<![x]>y"'}, "9" * 5000])
def test_every_entry_of_commons_is_a_candidate_or_counted(odd: list[Any]) -> None:
    made = [commons_entry(at, one) if isinstance(one, dict) else one for at, one in enumerate(odd)]
    good = [commons_entry(100 + at, {"index": str(10**200 + at)}) for at in range(3)]
    content = f'{{"batchcomplete": true, "query": {{"pages": [{", ".join([*made, *good])}]}}}}'
    check(answered("commons", content)[0], odd, COMMONS_NEEDS)


@settings(deadline=None, max_examples=150)
@given(odd=entries(OPENVERSE_FIELDS))
@example(odd=[{"title": '"\\ud800"'}, {"creator": "NaN"}, {"width": "9" * 5000}])
def test_every_entry_of_openverse_is_a_candidate_or_counted(odd: list[Any]) -> None:
    made = [openverse_entry(at, one) if isinstance(one, dict) else one for at, one in enumerate(odd)]
    good = [openverse_entry(100 + at, {}) for at in range(3)]
    page, _ = answered("openverse", f'{{"page_count": 1, "results": [{", ".join([*made, *good])}]}}')
    check(page, odd, OPENVERSE_NEEDS)


@pytest.mark.parametrize("odd", [*ODD, '{"gsroffset": null}', '{"gsroffset": 20, "x": []}'])
@pytest.mark.parametrize("field", ["batchcomplete", "continue", "error", "warnings"])
def test_an_odd_value_beside_the_entries_of_commons_does_not_cost_them(field: str, odd: str) -> None:
    if field == "error" and json.loads(odd, parse_int=lambda _: 1):
        return  # an error is one, whatever it says
    content = f'{{"{field}": {odd}, "query": {{"pages": [{commons_entry(1, {})}]}}}}'
    page, _ = answered("commons", content)
    assert [candidate.url for candidate in page.candidates] == ["https://x.example/1.jpg"]
    assert page.more == (field == "continue" and "gsroffset" in odd and "20" in odd)


@pytest.mark.parametrize("query", ["[]", "null", "{}", '{"pages": null}', '{"pages": []}'])
def test_an_empty_page_of_commons_is_one_in_every_notation(query: str) -> None:
    page, _ = answered("commons", f'{{"batchcomplete": "", "continue": {{"gsroffset": 20}}, "query": {query}}}')
    assert (page.candidates, page.more) == ((), True)


@pytest.mark.parametrize("odd", [*ODD, '"2"', "2.0"])
def test_an_odd_number_of_pages_does_not_cost_the_entries_of_openverse(odd: str) -> None:
    page, _ = answered("openverse", f'{{"page_count": {odd}, "results": [{openverse_entry(1, {})}]}}')
    assert [candidate.url for candidate in page.candidates] == ["https://x.example/1.jpg"]
    assert page.more, "without a number there may be more"


def test_a_description_of_a_megabyte_costs_no_time() -> None:
    for html in ("<" * 1_000_000, "<!--" * 250_000, "<a hidden>" * 100_000, "<![" * 300_000, "&" * 1_000_000):
        begun = time.process_time()
        content = commons_entry(1, {"Artist.value": json.dumps(html)})
        answered("commons", f'{{"batchcomplete": true, "query": {{"pages": [{content}]}}}}')
        assert time.process_time() - begun < 2


KEYWORDS = [
    ("red panda", "red panda"),
    ("cat -dog", "cat dog"),
    ("intitle:cat", "intitle cat"),
    ('"red panda"~2', "red panda 2"),
    ("insource:/x.*/", "insource x."),
    ("cat OR dog", "cat or dog"),
    ("cat && !dog || ++bird", "cat dog bird"),
    ("AC/DC", "AC DC"),
    ("t-shirt", "t-shirt"),
    ("C++", "C++"),
    ("\U0001f431", "\U0001f431"),
    ("--cat", "cat"),
]


@pytest.mark.parametrize(("keyword", "sent"), KEYWORDS)
def test_a_keyword_is_words_and_no_operators(keyword: str, sent: str) -> None:
    _, (request,) = answered("commons", '{"batchcomplete": true}', text=keyword)
    assert request.url.params["gsrsearch"] == f"filetype:bitmap {sent}"
    _, (request,) = answered("openverse", '{"page_count": 0, "results": []}', text=keyword)
    assert request.url.params["q"] == sent


@pytest.mark.parametrize("source", ["commons", "openverse"])
@pytest.mark.parametrize("keyword", ["???", '"', "-", "* ~ ()", "!!", "\\"])
def test_a_keyword_without_words_is_an_error_that_says_so(source: str, keyword: str) -> None:
    with pytest.raises(PermanentError, match="has no words"):
        answered(source, "{}", text=keyword)

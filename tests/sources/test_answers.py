from datetime import timedelta

import httpx
import pytest
from pydantic import BaseModel

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import answers
from pixcrawler_worker.sources.protocol import Candidate, Query
from pixcrawler_worker.web.http import translated

KEY = "hunter2 &x"


def response(status: int, content: str, **headers: str) -> httpx.Response:
    request = httpx.Request("GET", f"https://api.example/search?key={KEY}")
    return httpx.Response(status, text=content, headers=headers, request=request)


class Named(BaseModel):
    name: str


@pytest.mark.parametrize("written", [KEY, "hunter2%20%26x", "hunter2+%26x"])
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("form", ["{}", '{{"error": "wrong: {}"}}', '{{"errors": ["{}"]}}', '"{}"'])
def test_no_error_repeats_the_key(status: int, written: str, form: str) -> None:
    with pytest.raises((PermanentError, TransientError)) as caught, translated("museum"):  # noqa: PT012 - 200 is read on
        data = answers.read(response(status, form.format(written)), "museum", key=KEY)
        answers.parsed(Named, data, "museum")
    assert "hunter2" not in str(caught.value)


def test_a_wait_is_kept_without_the_key() -> None:
    with pytest.raises(TransientError) as caught, translated("museum"):
        answers.read(response(429, KEY, **{"Retry-After": "7"}), "museum", key=KEY)
    assert caught.value.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"message": "no"}', "museum answered 400: no"),
        ('{"error": {"code": "X", "message": "not now"}}', "museum answered 400: not now"),
        ('{"errors": ["one", "two"]}', "museum answered 400: one"),
        ('{"reason": 5}', "museum answered 400: 5"),
        ("[]", "museum answered 400: without a reason"),
        ("<p>no", "not JSON"),
        ("[" * 900 + "]" * 900, "museum answered 400: without a reason"),
    ],
)
def test_a_rejection_quotes_the_provider(content: str, said: str) -> None:
    with pytest.raises(PermanentError, match=said):
        answers.read(response(400, content), "museum")


def test_a_rejected_key_names_its_setting() -> None:
    with pytest.raises(PermanentError, match="is PIXCRAWLER_MUSEUM_API_KEY right"):
        answers.read(response(401, '{"error": "no"}'), "museum", key=KEY)


def test_odd_results_are_counted() -> None:
    def made(one: Named) -> Candidate | None:
        return Candidate(url=one.name) if one.name else None

    found, invalid = answers.candidates(Named, [{"name": "a"}, {}, None, {"name": ""}, 5, {"name": "b"}], made)
    assert ([one.url for one in found], invalid) == (["a", "b"], 4)


def test_a_keyword_is_words() -> None:
    assert answers.words(Query(text='"red" -panda', label="x", page=0, page_size=1), "museum") == "red panda"
    with pytest.raises(PermanentError, match="museum cannot search for '-': it has no words"):
        answers.words(Query(text="-", label="x", page=0, page_size=1), "museum")


def test_an_attribution_has_what_is_known() -> None:
    assert answers.attribution("A Cat", "Ada", None, "via X") == "A Cat by Ada, via X"
    assert answers.attribution(None, "Ada") == "Untitled by Ada"
    assert answers.attribution(None, None, "via X") == "via X"


class Located(BaseModel):
    url: str


def test_a_url_without_a_scheme_is_one_of_https() -> None:
    def made(one: Located) -> Candidate:
        return Candidate(url=one.url, alternates=("//a.example/large.jpg", "http://a.example/small.jpg"))

    results = [{"url": "//a.example/1.jpg"}, {"url": "http://a.example/2.jpg"}, {"url": "/3.jpg"}]
    found, invalid = answers.candidates(Located, results, made)
    assert [one.url for one in found] == ["https://a.example/1.jpg", "http://a.example/2.jpg", "/3.jpg"]
    assert {one.alternates for one in found} == {("https://a.example/large.jpg", "http://a.example/small.jpg")}
    assert invalid == 0

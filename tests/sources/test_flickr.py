"""What Flickr does that others do not."""

import pytest
from fakes.api import KEY
from fakes.flickr import Flickr
from source_client import search_with

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, Source, SourceConfig


def names(count: int) -> list[str]:
    return [f"{number}.jpg" for number in range(count)]


def flickr(api: Flickr, key: str = KEY) -> Source:
    return protocol.load("flickr", SourceConfig(base_url=api.url, api_key=key))


def test_beyond_its_depth_the_time_of_upload_is_divided() -> None:
    api = Flickr(names(3200))
    with api.serving():
        source = flickr(api)
        found = [search_with(source, page_size=500, page=5)]
        while found[-1].more:
            found.append(search_with(source, page_size=500, page=5 + len(found)))
        reached = {api.name_of(one.url) for page in found for one in page.candidates}
        probes = sum(one.get("per_page") == "1" for one in api.queries)
    assert len(reached) == 3200
    assert probes < 20
    assert found[-1] == Page((), more=False)


def test_photos_come_with_the_smallest_size_that_suffices() -> None:
    api = Flickr(names(4))
    with api.serving():
        usual = search_with(flickr(api)).candidates
        large = search_with(flickr(api), min_width=2000).candidates
    assert [(one.width, one.height) for one in usual] == [(1024, 768)] * 4
    # Without an original, the largest there is.
    assert [one.width for one in large] == [1024, 4000, 1024, 4000]
    assert [one.credit.license for one in usual] == ["cc-by-2.0", "cc-by-sa-2.0", "cc0-1.0", "cc-by-4.0"]
    assert usual[0].credit.page_url == "https://www.flickr.com/photos/123@N01/53000"
    assert usual[0].credit.attribution == "A cat by Ada Example, cc-by-2.0, via Flickr"


def test_only_open_licenses_and_those_of_the_query_are_searched() -> None:
    api = Flickr(names(8))
    with api.serving():
        source = flickr(api)
        search_with(source)
        assert len(search_with(source, licenses=("cc-by",)).candidates) == 4
        assert search_with(source, licenses=("licenseref-unsplash",)) == Page((), more=False)
    sent = [one["license"] for one in api.queries if "license" in one]
    assert sent == ["1,2,3,4,5,6,7,8,9,10,11", "4,11"]
    assert [one["method"] for one in api.queries].count("flickr.photos.licenses.getInfo") == 1


@pytest.mark.parametrize(("code", "kind"), [(10, TransientError), (105, TransientError), (18, PermanentError)])
def test_an_error_with_status_200_is_one(code: int, kind: type[Exception]) -> None:
    api = Flickr(names(1))
    api.error = code
    with api.serving(), pytest.raises(kind, match=f"flickr answered the error {code}: Sorry"):
        search_with(flickr(api))


def test_a_wrong_key_is_named_and_not_shown() -> None:
    with Flickr().serving() as api, pytest.raises(PermanentError, match="PIXCRAWLER_FLICKR_API_KEY right") as caught:
        search_with(flickr(api, "hunter3"))
    assert "hunter3" not in str(caught.value)

"""What GBIF does that others do not."""

from typing import Any

import source_client
from fakes.api import Api
from fakes.gbif import Gbif

from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

NAMES = [f"{number}.jpg" for number in range(8)]
NOTHING = Page((), more=False)


def search_in(api: Api, **values: Any) -> Page:
    return source_client.search("gbif", api.url, **{"page_size": 20} | values)


def numbers(api: Api, page: Page) -> list[int]:
    return [int(api.name_of(candidate.url).partition(".")[0]) for candidate in page.candidates]


def test_images_of_gbif_have_their_own_license_before_that_of_their_occurrence() -> None:
    with Gbif(NAMES[:3]).serving() as api:
        found = search_in(api).candidates
    assert [one.credit.license for one in found] == ["licenseref-ada-all-rights-reserved", "cc0-1.0", "cc-by-4.0"]
    assert [one.credit.author for one in found] == ["Ada Example", "Museum of Examples", "Ada Example"]
    assert found[0].credit.license_url is None
    assert found[2].credit.attribution == "Ailurus fulgens by Ada Example, cc-by-4.0, via GBIF.org"
    assert found[0].credit.page_url == "https://www.gbif.org/occurrence/4000000000"


def test_only_licenses_of_the_query_are_searched_at_gbif() -> None:
    with Gbif(NAMES).serving() as api:
        assert numbers(api, search_in(api, licenses=("cc-by", "cc0-1.0"))) == [1, 2, 4, 5, 7]
        assert api.requests[0].query.getall("license") == ["CC0_1_0", "CC_BY_4_0"]
        assert search_in(api, licenses=("cc-by-sa",)) == NOTHING
        assert len(api.requests) == 1


def test_beyond_its_window_it_is_not_asked() -> None:
    source = protocol.load("gbif", SourceConfig())
    assert source.depth
    assert source.page_size
    with Gbif(NAMES).serving() as api:
        last = source.depth // source.page_size - 1
        assert search_in(api, page=last, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1
        assert search_in(api, page=last + 1, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1

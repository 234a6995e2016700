"""What iNaturalist does that others do not."""

from typing import Any

import source_client
from fakes.api import Api
from fakes.inaturalist import INaturalist

from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

NAMES = [f"{number}.jpg" for number in range(8)]
NOTHING = Page((), more=False)


def search_in(api: Api, **values: Any) -> Page:
    return source_client.search("inaturalist", api.url, **{"page_size": 20} | values)


def numbers(api: Api, page: Page) -> list[int]:
    return [int(api.name_of(candidate.url).partition(".")[0]) for candidate in page.candidates]


def test_photos_of_inaturalist_come_with_license_author_and_size() -> None:
    with INaturalist(NAMES[:3]).serving() as api:
        first, second, _ = search_in(api, text="red panda").candidates
    assert (first.credit.license, second.credit.license) == ("cc-by-nc", "cc0-1.0")
    assert (first.credit.author, second.credit.author) == ("Ada Example", "ada")
    assert first.credit.title == "Ailurus fulgens"
    assert first.credit.page_url == "https://www.inaturalist.org/observations/1000"
    assert (first.width, first.height, second.width, second.height) == (None, None, 1024, 768)
    assert first.url.endswith("/photos/0/large.jpg")
    assert api.queries[0] == {
        "q": "red panda",
        "search_on": "names",
        "photos": "true",
        "photo_license": "cc0,cc-by,cc-by-sa,cc-by-nc,cc-by-nd,cc-by-nc-sa,cc-by-nc-nd",
        "quality_grade": "research",
        "order_by": "id",
        "order": "desc",
        "page": "1",
        "per_page": "20",
    }


def test_the_original_of_inaturalist_is_taken_only_where_it_is_needed() -> None:
    with INaturalist(NAMES[:2]).serving() as api:
        found = search_in(api, min_width=1500).candidates
        assert [one.url.rpartition("/")[2] for one in found] == ["original.jpg"] * 2
        assert (found[1].width, found[1].height) == (2048, 1536)


def test_only_licenses_of_the_query_are_searched_at_inaturalist() -> None:
    with INaturalist(NAMES).serving() as api:
        assert numbers(api, search_in(api, licenses=("cc-by-sa-4.0", "cc0"))) == [1, 3, 5, 7]
        assert search_in(api, licenses=("public-domain",)) == NOTHING
        assert len(api.requests) == 1


def test_beyond_its_window_it_is_not_asked() -> None:
    source = protocol.load("inaturalist", SourceConfig())
    assert source.depth
    assert source.page_size
    with INaturalist(NAMES).serving() as api:
        last = source.depth // source.page_size - 1
        assert search_in(api, page=last, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1
        assert search_in(api, page=last + 1, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1

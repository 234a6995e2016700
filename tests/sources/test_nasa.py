"""What NASA does that others do not."""

from typing import Any

import source_client
from fakes.api import Api
from fakes.nasa import Nasa

from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

NAMES = [f"{number}.jpg" for number in range(8)]
NOTHING = Page((), more=False)


def search_in(api: Api, **values: Any) -> Page:
    return source_client.search("nasa", api.url, **{"page_size": 20} | values)


def test_the_smallest_size_of_nasa_that_suffices_is_taken() -> None:
    with Nasa(NAMES[:1]).serving() as api:
        (usual,) = search_in(api).candidates
        (large,) = search_in(api, min_width=1900).candidates
        (huge,) = search_in(api, min_height=9000).candidates
    assert (usual.url.rpartition("~")[2], usual.width, usual.height) == ("medium.jpg", 1280, 853)
    assert (large.url.rpartition("~")[2], huge.url.rpartition("~")[2]) == ("large.jpg", "orig.jpg")


def test_images_of_others_at_nasa_have_no_license() -> None:
    with Nasa(NAMES[:4]).serving() as api:
        found = search_in(api).candidates
    assert [one.credit.license for one in found] == ["public-domain"] * 3 + [None]
    assert [one.credit.author for one in found[:2]] == ["NASA/JPL", "Ada Example"]


def test_beyond_its_window_it_is_not_asked() -> None:
    source = protocol.load("nasa", SourceConfig())
    assert source.depth
    assert source.page_size
    with Nasa(NAMES).serving() as api:
        last = source.depth // source.page_size - 1
        assert search_in(api, page=last, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1
        assert search_in(api, page=last + 1, page_size=source.page_size) == NOTHING
        assert len(api.requests) == 1

"""Which size each source with several of them offers for a target, and in which order the others follow."""

import re
from typing import Any

import pytest
from fakes import providers
from fakes.api import KEY, Api
from fakes.flickr import Flickr
from fakes.inaturalist import INaturalist
from fakes.internet_archive import InternetArchive
from fakes.met import Met
from fakes.nasa import Nasa
from fakes.pexels import Pexels
from fakes.pixabay import Pixabay
from fakes.providers import Catalog, Work
from fakes.unsplash import Unsplash
from source_client import search_with

from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Candidate, SourceConfig

APIS: dict[str, type[Api]] = {
    "flickr": Flickr,
    "inaturalist": INaturalist,
    "internet_archive": InternetArchive,
    "met": Met,
    "nasa": Nasa,
    "pexels": Pexels,
    "pixabay": Pixabay,
    "unsplash": Unsplash,
}
#: For each source and target the sides of the chosen size, and what distinguishes the URLs of all sizes, in order.
EXPECTED: dict[str, list[tuple[int, tuple[int | None, int | None], str]]] = {
    # Its photo 1 has an original of 4000x3000.
    "flickr": [
        (300, (500, 375), "/m/ /l/ /o/"),
        (376, (1024, 768), "/l/ /o/ /m/"),
        (769, (4000, 3000), "/o/ /l/ /m/"),
        (9000, (4000, 3000), "/o/ /l/ /m/"),
    ],
    "inaturalist": [
        (180, (240, 180), "small medium large original"),
        (181, (500, 375), "medium large original small"),
        (1000, (2048, 1536), "original large medium small"),
    ],
    "nasa": [
        (400, (640, 427), "small medium large orig thumb"),
        (800, (1280, 853), "medium large orig small thumb"),
        (5000, (6000, 4000), "orig large medium small thumb"),
    ],
    "pexels": [
        (200, (320, 240), "w=320 w=640 w=960 w=1280 w=1920 w=2560 photos"),
        (720, (960, 720), "w=960 w=1280 w=1920 w=2560 photos w=640 w=320"),
        (3000, (4000, 3000), "photos w=2560 w=1920 w=1280 w=960 w=640 w=320"),
    ],
    "pixabay": [(480, (640, 480), "small get"), (481, (1280, 960), "get small")],
    "unsplash": [
        (300, (400, 300), "w=400 w=1080 images"),
        (301, (1080, 810), "w=1080 images w=400"),
        (811, (4000, 3000), "images w=1080 w=400"),
    ],
    "met": [(300, (None, None), "CRDImages/1 web-large")],
}


def candidate(name: str, **values: Any) -> Candidate:
    """Return what the source offers of image 1."""
    with APIS[name](["0.jpg", "1.jpg"]).serving() as api:
        source = protocol.load(name, SourceConfig(base_url=api.url, api_key=KEY))
        return search_with(source, name=name, page_size=10, **values).candidates[1]


def marks(found: Candidate, of: str) -> str:
    """Return in which order the URLs of a candidate have these marks."""
    known = sorted(of.split(), key=len, reverse=True)
    any_of = re.compile("|".join(map(re.escape, known)))
    return " ".join(any_of.findall(url)[-1] for url in (found.url, *found.alternates))


@pytest.mark.parametrize(
    ("name", "side", "sides", "order"), [(name, *one) for name, cases in EXPECTED.items() for one in cases]
)
def test_the_smallest_size_whose_shorter_side_meets_the_target_is_offered(
    name: str, side: int, sides: tuple[int | None, int | None], order: str
) -> None:
    found = candidate(name, target_side=side)
    assert (found.width, found.height) == sides
    assert marks(found, order) == order


def test_a_minimum_leaves_out_what_is_below_it() -> None:
    found = candidate("flickr", target_side=300, min_width=600)
    assert (found.width, marks(found, "/m/ /l/ /o/")) == (1024, "/l/ /o/")


@pytest.mark.parametrize(
    ("side", "steps"),
    [
        (100, [250, 330, 500, 960, 1280, 1920, 3840, None]),
        (700, [1280, 1920, 3840, None, 960, 500, 330, 250]),
        (3000, [None, 3840, 1920, 1280, 960, 500, 330, 250]),
    ],
)
def test_commons_has_thumbnails_of_the_widths_that_it_keeps_ready(side: int, steps: list[int | None]) -> None:
    with providers.serving(Catalog({"cat": [Work(0, "cat", 0)]}, {})) as server:
        source = protocol.load("commons", SourceConfig(base_url=server.commons_url))
        (found,) = search_with(source, target_side=side).candidates
    widths = [re.search(r"/(\d+)px-0\.jpg$", url) for url in (found.url, *found.alternates)]
    assert [int(width[1]) if width else None for width in widths] == steps
    assert found.width == (steps[0] or 5514)
    assert min(found.width or 0, found.height or 0) >= side

from typing import Any

import pytest

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.sources import sizes
from pixcrawler_worker.sources.protocol import Query
from pixcrawler_worker.sources.sizes import Size, of_width, ranked, scaled

SMALL, USUAL, LARGE, UNKNOWN = Size("s", 320, 240), Size("u", 1024, 768), Size("l", 4000, 3000), Size("x")


def query(**values: Any) -> Query:
    return Query(text="cat", label="cat", page=0, page_size=1, **values)


def chosen(offered: list[Size], wanted: Query) -> Size:
    return ranked(offered, wanted)[0]


def test_the_smallest_that_is_large_enough_is_chosen() -> None:
    assert chosen([LARGE, SMALL, UNKNOWN, USUAL], query()) == USUAL
    assert chosen([LARGE, SMALL, UNKNOWN, USUAL], query(min_height=800)) == LARGE
    assert chosen([LARGE, SMALL, USUAL], query(min_width=5000)) == LARGE


def test_without_one_it_is_the_largest_or_the_last() -> None:
    assert chosen([SMALL, UNKNOWN], query()) == SMALL
    assert chosen([Size("a"), Size("b")], query()) == Size("b")
    assert ranked([], query()) == []
    assert sizes.candidate([], query(), Credit()) is None


@pytest.mark.parametrize(("side", "best"), [(1, SMALL), (240, SMALL), (241, USUAL), (768, USUAL), (769, LARGE)])
def test_the_shorter_side_has_to_meet_the_target(side: int, best: Size) -> None:
    assert chosen([LARGE, SMALL, USUAL], query(target_side=side)) == best
    portrait = [Size(size.url, size.height, size.width) for size in (USUAL, LARGE, SMALL)]
    assert chosen(portrait, query(target_side=side)).url == best.url


def test_larger_ones_follow_then_smaller_ones_and_then_those_of_unknown_sides() -> None:
    offered = [UNKNOWN, SMALL, LARGE, USUAL, Size("m", 640, 480), Size("y")]
    names = [size.url for size in ranked(offered, query(target_side=700))]
    assert names == ["u", "l", "m", "s", "y", "x"]
    assert [size.url for size in ranked(offered, query(target_side=9999))] == ["l", "u", "m", "s", "y", "x"]


def test_what_is_below_the_minimum_is_no_alternate() -> None:
    offered = [SMALL, USUAL, LARGE]
    assert [size.url for size in ranked(offered, query(target_side=100, min_width=500))] == ["u", "l"]
    assert [size.url for size in ranked([SMALL, UNKNOWN], query(target_side=100, min_width=500))] == ["x"]
    # The worker rejects it, with the reason.
    assert [size.url for size in ranked([SMALL], query(target_side=100, min_width=500))] == ["s"]


def test_a_candidate_has_alternates_once_with_a_target_only() -> None:
    offered = [SMALL, USUAL, Size("u", 1024, 768), LARGE]
    found = sizes.candidate(offered, query(target_side=500), Credit(title="cat"), use_url="use")
    assert found is not None
    assert (found.url, found.width, found.height, found.alternates) == ("u", 1024, 768, ("l", "s"))
    assert (found.credit.title, found.use_url) == ("cat", "use")
    usual = sizes.candidate(offered, query(), Credit())
    assert usual is not None
    assert (usual.url, usual.alternates) == ("u", ())


def test_a_file_of_a_width_keeps_its_proportions() -> None:
    assert of_width(4000, 3000, 1280) == (1280, 960)
    assert of_width(800, 600, 1280) == (800, 600)
    assert of_width(100_000, 1, 10) == (10, 1)
    assert of_width(None, 600, 10) is None


def test_a_file_that_was_scaled_down_keeps_its_proportions() -> None:
    assert scaled(4000, 3000, 1024) == (1024, 768)
    assert scaled(300, 5000, 1024) == (61, 1024)
    assert scaled(800, 600, 1024) == (800, 600)
    assert scaled(100_000, 1, 10) == (10, 1)
    assert scaled(None, 600, 1024) is None

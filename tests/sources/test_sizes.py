from typing import Any

from pixcrawler_worker.sources.protocol import Query
from pixcrawler_worker.sources.sizes import Size, chosen, scaled

SMALL, USUAL, LARGE, UNKNOWN = Size("s", 320, 240), Size("u", 1024, 768), Size("l", 4000, 3000), Size("x")


def query(**values: Any) -> Query:
    return Query(text="cat", label="cat", page=0, page_size=1, **values)


def test_the_smallest_that_is_large_enough_is_chosen() -> None:
    assert chosen([LARGE, SMALL, UNKNOWN, USUAL], query()) == USUAL
    assert chosen([LARGE, SMALL, UNKNOWN, USUAL], query(min_height=800)) == LARGE
    assert chosen([LARGE, SMALL, USUAL], query(min_width=5000)) == LARGE


def test_without_one_it_is_the_largest_or_the_last() -> None:
    assert chosen([SMALL, UNKNOWN], query()) == SMALL
    assert chosen([Size("a"), Size("b")], query()) == Size("b")
    assert chosen([], query()) is None


def test_a_file_that_was_scaled_down_keeps_its_proportions() -> None:
    assert scaled(4000, 3000, 1024) == (1024, 768)
    assert scaled(300, 5000, 1024) == (61, 1024)
    assert scaled(800, 600, 1024) == (800, 600)
    assert scaled(100_000, 1, 10) == (10, 1)
    assert scaled(None, 600, 1024) is None

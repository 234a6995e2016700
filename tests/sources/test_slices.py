import asyncio
from collections.abc import Sequence

import pytest

from pixcrawler_worker.sources.slices import Slice, Slices

ROOT: Slice = (("q", "cat"), ("from", 0), ("to", 64))
DEPTH = 10


def halves(part: Slice) -> Sequence[Slice]:
    """Return the halves of a range of numbers; none of one number."""
    values = dict(part)
    first, last = int(values["from"]), int(values["to"])
    if last - first < 2:
        return []
    middle = (first + last) // 2
    return [(("q", "cat"), ("from", start), ("to", end)) for start, end in ((first, middle), (middle, last))]


class Provider:
    """Has results at these numbers, and returns 10 of a search."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self.counts = 0
        self.slices = Slices(depth=DEPTH, split=halves)

    def found(self, part: Slice) -> list[int]:
        values = dict(part)
        return [one for one in self.numbers if int(values["from"]) <= one < int(values["to"])]

    async def count(self, part: Slice) -> int:
        self.counts += 1
        return len(self.found(part))

    def page(self, page: int, size: int) -> list[int] | None:
        place = asyncio.run(self.slices.find(ROOT, page, size, count=self.count))
        if place is None:
            return None
        part, number = place
        return self.found(part)[:DEPTH][number * size : (number + 1) * size]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 10])
@pytest.mark.parametrize("numbers", [range(64), range(0, 64, 3), [*range(30), *range(50, 64)], range(11)])
def test_all_results_are_reached(numbers: Sequence[int], size: int) -> None:
    provider = Provider(list(numbers))
    pages: list[list[int]] = []
    while (page := provider.page(len(pages), size)) is not None:
        pages.append(page)
    assert all(pages)
    reach = DEPTH // size
    assert [one for page in pages[:reach] for one in page] == provider.found(ROOT)[: reach * size]
    assert {one for page in pages for one in page} == set(numbers)
    # Every worker finds the same page, whatever it requested before.
    assert [Provider(list(numbers)).page(number, size) for number in range(len(pages))] == pages


def test_numbers_of_results_are_asked_for_once() -> None:
    provider = Provider(list(range(64)))
    for _ in range(2):
        assert provider.page(4, 5) is not None
        counts = provider.counts
    assert provider.counts == counts


def test_a_query_within_reach_has_no_parts() -> None:
    provider = Provider(list(range(9)))
    assert provider.page(0, 5) == [0, 1, 2, 3, 4]
    assert provider.counts == 0
    assert provider.page(2, 5) is None
    assert provider.counts == 1
    assert not provider.slices.continues(ROOT, 1, 5)


def test_the_last_page_of_a_query_says_whether_there_are_parts() -> None:
    provider = Provider(list(range(64)))
    provider.slices.know(ROOT, 64)
    assert not provider.slices.continues(ROOT, 0, 5)
    assert provider.slices.continues(ROOT, 1, 5)


def test_what_cannot_be_divided_is_cut_off() -> None:
    provider = Provider([5] * 30 + [40] * 3)
    pages = [provider.page(number, 5) for number in range(10)]
    assert sum(len(page or []) for page in pages[2:]) == DEPTH + 3
    assert pages[-1] is None


def test_it_remembers_a_limited_number_of_results() -> None:
    provider = Provider(list(range(64)))
    assert provider.page(2, 5) is not None
    counts = provider.counts
    for number in range(10_000):
        provider.slices.know((("q", number),), 1)
    assert provider.page(2, 5) is not None
    assert provider.counts == 2 * counts

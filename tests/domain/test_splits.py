from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain import splits

RATIOS = {"train": 0.8, "val": 0.1, "test": 0.1}


def split_of(position: int, bounds: list[int]) -> int:
    return sum(position >= bound for bound in bounds[:-1])


def test_a_position_is_the_head_of_a_hash_and_never_changes() -> None:
    # printf 7:00ff | sha256sum
    assert splits.position(7, b"\x00\xff") == 0x0CD46B9B13971D20
    assert splits.position(8, b"\x00\xff") != 0x0CD46B9B13971D20


def test_splits_have_about_their_ratios() -> None:
    bounds = splits.bounds(RATIOS)
    counts = Counter(split_of(splits.position(0, number.to_bytes(32)), bounds) for number in range(20_000))
    assert counts[0] == pytest.approx(16_000, rel=0.03)
    assert counts[1] == pytest.approx(2_000, rel=0.1)
    assert counts[2] == pytest.approx(2_000, rel=0.1)


def test_ratios_are_taken_as_they_are_written() -> None:
    assert splits.bounds({"train": 0.1, "val": 0.2, "test": 0.7})[-1] == splits.WHOLE
    assert splits.bounds({"train": 8, "val": 1, "test": 1}) == splits.bounds(RATIOS)
    assert splits.bounds({}) == []


@given(st.lists(st.floats(min_value=0.001, max_value=1000), min_size=1, max_size=10))
def test_bounds_rise_to_the_whole(ratios: list[float]) -> None:
    bounds = splits.bounds({str(number): ratio for number, ratio in enumerate(ratios)})
    assert bounds == sorted(bounds)
    assert bounds[-1] == splits.WHOLE
    assert bounds[0] > 0

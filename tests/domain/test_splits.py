from collections import Counter

import pytest
from export import exporting
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain import splits

RATIOS = {"train": 0.8, "val": 0.1, "test": 0.1}


def test_a_position_is_the_head_of_a_hash_and_never_changes() -> None:
    # printf 7:00ff | sha256sum
    assert exporting.position("00ff", seed=7) == 0x0CD46B9B13971D20
    assert exporting.position("00ff", seed=8) != 0x0CD46B9B13971D20


def test_splits_have_about_their_ratios() -> None:
    counts = Counter(exporting.split_of(number.to_bytes(32).hex(), RATIOS) for number in range(20_000))
    assert counts["train"] == pytest.approx(16_000, rel=0.03)
    assert counts["val"] == pytest.approx(2_000, rel=0.1)
    assert counts["test"] == pytest.approx(2_000, rel=0.1)


def test_bounds_cut_the_whole_by_the_ratios() -> None:
    assert splits.bounds(RATIOS) == [splits.WHOLE * 8 // 10, splits.WHOLE * 9 // 10, splits.WHOLE]


def test_ratios_are_exact_decimals() -> None:
    assert splits.bounds({"train": 0.1, "val": 0.2, "test": 0.7})[-1] == splits.WHOLE
    assert splits.bounds({"train": 8, "val": 1, "test": 1}) == splits.bounds(RATIOS)
    assert splits.bounds({}) == []


@given(st.lists(st.floats(min_value=0.001, max_value=1000), min_size=1, max_size=10))
def test_bounds_rise_to_the_whole(ratios: list[float]) -> None:
    bounds = splits.bounds({str(number): ratio for number, ratio in enumerate(ratios)})
    assert bounds == sorted(bounds)
    assert bounds[-1] == splits.WHOLE
    assert bounds[0] > 0

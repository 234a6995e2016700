"""Neighbors are exactly those that a comparison of all pairs finds, and clusters do not grow by chains."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pixcrawler_worker.validate import duplicates

Hashes = NDArray[np.uint64]


def hashes(*values: int) -> Hashes:
    return np.array(values, dtype=np.uint64)


def near(phash: Hashes, dhash: Hashes | None = None, *, distance: int = 3, confirm: int = 64) -> dict[int, int]:
    order = np.arange(len(phash))
    agreed = np.zeros(len(phash), dtype=np.uint64) if dhash is None else dhash
    return duplicates.near(phash, agreed, order, max_distance=distance, confirm_distance=confirm)


def by_all_pairs(phash: Hashes, distance: int) -> dict[int, int]:
    """The same, by definition."""
    kept_by: dict[int, int] = {}
    for other in range(len(phash)):
        for one in range(other):
            if one not in kept_by and int(phash[one] ^ phash[other]).bit_count() <= distance:
                kept_by[other] = one
                break
    return kept_by


#: Hashes that are often close to each other: a few bits away from a few centers, in any band.
crowded = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 63), max_size=5)).map(
        lambda drawn: [0, 2**64 - 1, 0x0123_4567_89AB_CDEF][drawn[0]] ^ sum(1 << bit for bit in set(drawn[1]))
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(crowded, st.integers(0, 6))
def test_neighbors_are_those_of_a_comparison_of_all_pairs(values: list[int], distance: int) -> None:
    phash = hashes(*values)
    assert near(phash, distance=distance) == by_all_pairs(phash, distance)


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 5, 6])
def test_no_neighbor_is_missed_wherever_its_bits_differ(distance: int) -> None:
    chance = np.random.default_rng(distance)
    center = int(chance.integers(0, 2**64, dtype=np.uint64))
    places = list(combinations(range(64), min(distance, 2)))
    for chosen in [places[at] for at in chance.permutation(len(places))[:150]]:
        rest = [bit for bit in chance.permutation(64).tolist() if bit not in chosen][: distance - len(chosen)]
        other = center ^ sum(1 << bit for bit in (*chosen, *rest))
        assert near(hashes(center, other), distance=distance) == {1: 0}


def test_a_near_duplicate_has_a_similar_dhash_too() -> None:
    phash = hashes(5, 5, 5)
    # The third is similar only to the second, which is not kept.
    assert near(phash, hashes(0, 0xFF, 0x1FF), confirm=8) == {1: 0}


def test_similarity_to_an_image_that_is_not_kept_does_not_count() -> None:
    # Each is three bits from the one before, and six from the one before that.
    chain = hashes(0b0, 0b111, 0b111111, 0b111111111)
    assert near(chain) == {1: 0, 3: 2}


def test_the_best_is_kept_by_size_then_bytes_then_age_and_never_an_invalid_one() -> None:
    valid = np.array([1, 1, 1, 1, 0], dtype=np.int8)
    pixels = np.array([100, 400, 400, 400, 900], dtype=np.int64)
    size = np.array([90, 10, 50, 50, 999], dtype=np.int64)
    ids = np.array([1, 2, 4, 3, 5], dtype=np.int64)
    assert duplicates.best_first(valid, pixels, size, ids).tolist() == [3, 2, 1, 0, 4]


def test_the_best_of_exact_duplicates_is_kept() -> None:
    digests = np.array([b"a" * 32, b"b" * 32, b"a" * 32, b"c" * 32, b"a" * 32], dtype="V32")
    order = np.array([4, 3, 2, 1, 0])
    assert duplicates.exact(digests, order) == {0: 4, 2: 4}
    assert duplicates.exact(digests[:0], order[:0]) == {}


def test_no_image_and_one_image_have_no_neighbors() -> None:
    assert near(hashes()) == {}
    assert near(hashes(7)) == {}


def test_planted_neighbors_among_many_are_all_found() -> None:
    chance = np.random.default_rng(3)
    phash = chance.integers(0, 2**64, 50_000, dtype=np.uint64)
    for at in range(1000):
        flips = chance.choice(64, at % 4, replace=False)
        phash[49_000 + at] = phash[at] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    assert near(phash) == {49_000 + at: at for at in range(1000)}


def test_thousands_of_images_that_look_the_same_cost_neither_time_nor_memory() -> None:
    # Placeholders of a site, each encoded again: all pairs of them are similar.
    count = 20_000
    same = np.full(count, 0x0F0F_1234_5678_9ABC, dtype=np.uint64)
    begun = time.process_time()
    found = duplicates.near(same, same, np.arange(count)[::-1], max_distance=3, confirm_distance=8)
    assert found == dict.fromkeys(range(count - 1), count - 1)
    # The same with hashes that differ a little.
    noisy = same[:4000] ^ np.uint64(1) << np.arange(4000, dtype=np.uint64) % np.uint64(3)
    varied = same[:4000] ^ np.arange(4000, dtype=np.uint64) % np.uint64(256)
    assert len(duplicates.near(noisy, varied, np.arange(4000), max_distance=3, confirm_distance=8)) == 3999
    assert time.process_time() - begun < 10

"""Exact duplicates and near duplicates among the images of a job.

Near neighbors are found exactly by multi-index hashing (M. Norouzi, A. Punjani, D. J. Fleet: Fast Exact Search in
Hamming Space with Multi-Index Hashing, 2014): of two 64-bit hashes that differ in at most d bits, cut into four bands
of 16, at least one band differs in at most d // 4 bits. So for d up to 3 only hashes that share a band are compared.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

_BANDS = 4
_BAND_BITS = 16
_BAND = np.uint64(0xFFFF)
#: Pairs that are compared at a time, in 64 MB of temporary arrays.
_BATCH = 2_000_000
#: Comparisons of two images that take less time than looking for those that share a band, among a million.
_MAX_COMPARED = 100_000_000


def best_first(
    valid: NDArray[np.int8], pixels: NDArray[np.int64], file_size: NDArray[np.int64], image_id: NDArray[np.int64]
) -> Positions:
    """Return the positions of images, the best first: of duplicates the best one is kept.

    Valid images come first, so that no image is flagged as a duplicate of an invalid one; then those with more pixels,
    with more bytes per pixel, and the older ones. Sharpness does not count, because spoiled copies are sharpened.

    Args:
        valid: 1 for valid images, by position.
        pixels: width x height.
        file_size: bytes.
        image_id: ids, ascending with age.
    """
    density = file_size / np.maximum(pixels, 1)
    return np.lexsort((image_id, -density, -pixels, -valid))


def exact(digests: NDArray[np.void], order: Positions) -> dict[int, int]:
    """Return the positions of exact duplicates, each with the position of the image that is kept.

    Args:
        digests: SHA-256 of each image, as 32 raw bytes.
        order: positions, best first.
    """
    ranks = _ranks(order)
    _, group = np.unique(digests, return_inverse=True)
    by_group = np.lexsort((ranks, group))
    sorted_groups = group[by_group]
    first = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]] if len(by_group) else np.zeros(0, dtype=bool)
    keepers = np.maximum.accumulate(np.where(first, np.arange(len(by_group)), 0))
    return {int(by_group[at]): int(by_group[keepers[at]]) for at in np.flatnonzero(~first)}


def near(phash: Hashes, dhash: Hashes, order: Positions, *, max_distance: int, confirm_distance: int) -> dict[int, int]:
    """Return the positions of near duplicates, each with the position of the image that is kept.

    An image is a near duplicate of the best similar image that is kept itself. Similarity to an image that is not kept
    does not count, so that chains of small differences do not grow.

    Args:
        phash: perceptual hashes by position.
        dhash: difference hashes, which have to be similar too.
        order: positions of the images to compare, best first.
        max_distance: bits that two phashes may differ in, 0 to 6.
        confirm_distance: bits that two dhashes may differ in.
    """
    # Images with the same hashes are similar to the same others: the best of them decides for all.
    pairs = np.stack((phash[order], dhash[order]), axis=1)
    _, first, same = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    leaders = np.sort(first)
    of_leader = _keepers(pairs[leaders, 0], pairs[leaders, 1], max_distance, confirm_distance)
    leader = first[same.reshape(-1)]
    kept_by = np.where(leader == np.arange(len(order)), -1, leader)
    found = of_leader >= 0
    keeper_of = np.full(len(order), -1, dtype=np.int64)
    keeper_of[leaders[found]] = leaders[of_leader[found]]
    kept_by = np.where(keeper_of[leader] >= 0, keeper_of[leader], kept_by)
    return {int(order[at]): int(order[kept_by[at]]) for at in np.flatnonzero(kept_by >= 0)}


def _keepers(phash: Hashes, dhash: Hashes, max_distance: int, confirm_distance: int) -> Positions:
    """Return for each rank, the best first, the best similar rank that is kept itself; -1 where there is none.

    The better neighbors of a rank are not listed, because there may be as many pairs as there are images, squared. The
    best of them is enough: if it is kept, it is the answer; if not, it is left out, and the next one is looked for.
    """
    count = len(phash)
    keeper = np.full(count, -1, dtype=np.int64)
    kept = np.zeros(count, dtype=bool)
    open_ = np.arange(count)
    while len(open_):
        candidates = np.flatnonzero(keeper < 0)
        best = _best_neighbors(phash, dhash, candidates, open_, max_distance, confirm_distance)
        kept[open_[best == count]] = True
        near_kept = (best < count) & kept[np.minimum(best, count - 1)]
        keeper[open_[near_kept]] = best[near_kept]
        open_ = open_[(best < count) & ~near_kept]
    return keeper


def _best_neighbors(  # noqa: PLR0913, PLR0917 - two hashes, two sets, two distances
    phash: Hashes, dhash: Hashes, candidates: Positions, open_: Positions, max_distance: int, confirm_distance: int
) -> Positions:
    """Return for each open rank the best similar candidate that is better than it; the number of ranks without one."""
    none = len(phash)
    best = np.full(none, none, dtype=np.int64)
    if len(open_) < len(candidates) and len(open_) * len(candidates) <= _MAX_COMPARED:
        for at in open_:
            better = candidates[: np.searchsorted(candidates, at)]
            close = np.bitwise_count(phash[better] ^ phash[at]) <= max_distance
            close &= np.bitwise_count(dhash[better] ^ dhash[at]) <= confirm_distance
            if close.any():
                best[at] = better[np.argmax(close)]
        return best[open_]
    for one, other in _neighbors(phash[candidates], max_distance):
        sure = np.bitwise_count(dhash[candidates[one]] ^ dhash[candidates[other]]) <= confirm_distance
        low, high = np.minimum(one[sure], other[sure]), np.maximum(one[sure], other[sure])
        np.minimum.at(best, candidates[high], candidates[low])
    return best[open_]


def _neighbors(hashes: Hashes, max_distance: int) -> Iterator[tuple[Positions, Positions]]:
    """Yield pairs of positions whose hashes differ in at most `max_distance` bits; a pair may come several times."""
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * _BAND_BITS)) & _BAND
        for flips in _flips(max_distance // _BANDS):
            for one, other in _sharing(keys, flips):
                close = np.bitwise_count(hashes[one] ^ hashes[other]) <= max_distance
                yield one[close], other[close]


def _flips(bits: int) -> list[np.uint64]:
    """Return the masks that flip at most `bits` bits of a band."""
    return [
        np.uint64(sum(1 << at for at in places))
        for count in range(bits + 1)
        for places in combinations(range(_BAND_BITS), count)
    ]


def _sharing(keys: Hashes, flip: np.uint64) -> Iterator[tuple[Positions, Positions]]:
    """Yield pairs of positions whose keys differ in exactly the bits of `flip`, in batches."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    flipped = ordered ^ flip
    begin = np.searchsorted(ordered, flipped, side="left")
    if flip == 0:
        # Every pair once: only with later positions.
        begin = np.arange(1, len(keys) + 1)
    end = np.searchsorted(ordered, flipped, side="right")
    counts = np.maximum(end - begin, 0)
    if flip != 0:
        counts[ordered > flipped] = 0  # every pair once: from the smaller key
    upto = np.cumsum(counts)
    start = 0
    while start < len(keys):
        # As many positions as fill a batch, at least one: a large bucket can exceed the batch.
        done = upto[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(upto, done + _BATCH, side="right")))
        part = counts[start:stop]
        total = int(part.sum())
        if total:
            left = np.repeat(np.arange(start, stop), part)
            within = np.arange(total) - np.repeat(np.cumsum(part) - part, part)
            right = np.repeat(begin[start:stop], part) + within
            yield order[left], order[right]
        start = stop


def _ranks(order: Positions) -> Positions:
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks

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
    ranked_phash, ranked_dhash = phash[order], dhash[order]
    kept_by = np.full(len(order), -1, dtype=np.int64)
    better, worse = _close_pairs(ranked_phash, ranked_dhash, max_distance, confirm_distance)
    # Best first: whether the better one of a pair is kept is known before the worse one is compared.
    for one, other in zip(better.tolist(), worse.tolist(), strict=True):
        if kept_by[other] < 0 and kept_by[one] < 0:
            kept_by[other] = one
    return {int(order[at]): int(order[kept_by[at]]) for at in np.flatnonzero(kept_by >= 0)}


def _close_pairs(phash: Hashes, dhash: Hashes, max_distance: int, confirm_distance: int) -> tuple[Positions, Positions]:
    """Return the pairs of ranks that are close by both hashes, each once, by the worse rank and then by the better."""
    found: list[NDArray[np.int64]] = []
    for one, other in _neighbors(phash, max_distance):
        sure = np.bitwise_count(dhash[one] ^ dhash[other]) <= confirm_distance
        low, high = np.minimum(one[sure], other[sure]), np.maximum(one[sure], other[sure])
        found.append(high * len(phash) + low)
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs = np.unique(np.concatenate(found))
    return pairs % len(phash), pairs // len(phash)


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

"""Perceptual hashes of an image in gray, as imagehash builds them. Imported by the decode process only.

Both are taken from reductions of the same pixels, to 32x32 and to 9x8. Pillow makes each of them on its own, and
computes its weights again for every image, which together takes two and a half times as long as matrix products with
weights that are kept. The reduced pixels are the same, bit by bit: hashes that are recorded stay comparable.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Pixels along the sides of the two reductions. With the larger ones in the middle, the weights for a width are the
#: first of all that there are for a side, and those for a height the last.
_WIDE, _SQUARE = (9, 8), (32, 32)
_ACROSS, _SIDES = _WIDE[0] + _SQUARE[0], (_WIDE[0], _SQUARE[0], _WIDE[1])
#: Pillow's `PRECISION_BITS` and `LANCZOS` (libImaging/Resample.c): weights are whole numbers, of which this is one.
_ONE, _SUPPORT = 1 << 22, 3.0
#: Sides of images whose weights are kept, of 31 kB each on average: more would be taken for what images leave.
_KEPT = 96
#: Rows are the eight lowest cosines over 32 samples (DCT-II, not normalized, as in scipy.fftpack).
_DCT: NDArray[np.float64] = 2 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))


def hashes(gray: Image.Image) -> tuple[int, int]:
    """Return the DCT hash and the difference hash of an image, 64 bits each.

    Args:
        gray: of the mode `L` or `F`, at most a few hundred pixels a side.

    Returns:
        phash: whether each of the lowest 8x8 frequencies is above their median.
        dhash: whether each pixel is brighter than its left neighbor. In both, the first flag is the highest bit.
    """
    wide, square = reductions(gray)
    low = _DCT @ square @ _DCT.T
    # Of 64 values, the median is the mean of the two in the middle; np.median takes ten times as long to find it.
    middle = np.partition(low, (31, 32), axis=None)[31:33]
    return _bits(low > middle.mean()), _bits(wide[:, 1:] > wide[:, :-1])


def reductions(gray: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixels of an image reduced to 9x8 and to 32x32 by Lanczos, as `Image.resize` reduces them."""
    if gray.mode != "L" or any(_is_vertical_first(gray, *size) for size in (_WIDE, _SQUARE)):
        return _resized(gray, _WIDE), _resized(gray, _SQUARE)
    across = _weights(gray.width)[:_ACROSS].astype(np.float64)
    down = _weights(gray.height)[_WIDE[0] :].astype(np.float64)
    # All sums are whole numbers below 2**53, so they are exact in any order. Half of the second product is not needed,
    # and takes less than another call.
    narrow = _rounded(np.asarray(gray).astype(np.float64) @ across.T)
    both = _rounded(down @ narrow)
    return both[_SQUARE[1] :, : _WIDE[0]], both[: _SQUARE[1], _WIDE[0] :]


def _is_vertical_first(gray: Image.Image, columns: int, rows: int) -> bool:
    """Return whether Pillow reduces the height before the width, which rounds other sums."""
    across, down = gray.width - columns, gray.height - rows
    return down > 0 and down > across * 2


def _resized(gray: Image.Image, size: tuple[int, int]) -> NDArray[np.float64]:
    pixels = np.array(gray.resize(size, Image.Resampling.LANCZOS), dtype=np.float64)
    if gray.mode == "F":  # A TIFF's floats may be infinite, or not a number.
        pixels[~np.isfinite(pixels)] = 0
    return pixels


def _rounded(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums of weighted pixels as pixels, in place."""
    sums += _ONE / 2
    sums *= 1 / _ONE
    np.floor(sums, out=sums)
    return np.clip(sums, 0, 255, out=sums)


@lru_cache(_KEPT)
def _weights(size: int) -> NDArray[np.float32]:
    """Return what each of `size` pixels adds to those of the reductions, in whole numbers.

    Returns:
        a row for each pixel of all reductions (`_SIDES`), as `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow
        make them. Their 23 bits fit into a float of 32.
    """
    scale = np.repeat([size / count for count in _SIDES], _SIDES)[:, np.newaxis]
    centers = (np.concatenate([np.arange(count) for count in _SIDES])[:, np.newaxis] + 0.5) * scale
    filter_scale = np.maximum(scale, 1.0)
    support = _SUPPORT * filter_scale
    positions = np.arange(size)
    inside = positions >= (centers - support + 0.5).astype(np.int64)
    inside &= positions < (centers + support + 0.5).astype(np.int64)
    distances = ((positions - centers + 0.5) * (1 / filter_scale))[inside]
    weights = np.zeros(inside.shape)
    weights[inside] = np.sinc(distances) * np.sinc(distances / _SUPPORT)
    weights *= _ONE / weights.sum(axis=1, keepdims=True)
    whole: NDArray[np.float32] = np.trunc(weights + np.copysign(0.5, weights)).astype(np.float32)
    return whole


def _bits(flags: NDArray[np.bool_]) -> int:
    """Return 64 flags as one number, the first flag its highest bit."""
    return int.from_bytes(np.packbits(flags).tobytes())

"""Perceptual hashes: the same, bit by bit, as of the reductions that Pillow makes."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inspection import samples
from numpy.typing import NDArray
from PIL import Image

from pixcrawler_worker.inspection.hashes import hashes, reductions

_SIDES = st.integers(1, 260)
_KINDS = ["noise", "edges", "waves", "flat"]


def made(kind: str, width: int, height: int, seed: int) -> Image.Image:
    """Return an image in gray."""
    chance = np.random.default_rng(seed)
    pixels: NDArray[np.generic]
    match kind:
        case "noise":
            pixels = chance.integers(0, 256, (height, width))
        case "edges":
            pixels = chance.integers(0, 2, (height, width)) * 255
        case "waves":
            pixels = np.clip(np.cumsum(chance.normal(0, 5, (height, width)), axis=1) + 128, 0, 255)
        case _:
            pixels = np.full((height, width), chance.integers(0, 256))
    return Image.fromarray(pixels.astype(np.uint8))


def by_pillow(gray: Image.Image) -> list[NDArray[np.float64]]:
    """Return both reductions as Pillow makes them."""
    return [np.array(gray.resize(size, Image.Resampling.LANCZOS), dtype=np.float64) for size in ((9, 8), (32, 32))]


def hashes_by_pillow(gray: Image.Image) -> tuple[int, int]:
    """Return both hashes of the reductions that Pillow makes."""
    wide, square = by_pillow(gray)
    cosines = 2 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))
    low = cosines @ square @ cosines.T
    bits = low > np.sort(low, axis=None)[31:33].mean(), wide[:, 1:] > wide[:, :-1]
    phash, dhash = (int("".join(str(int(bit)) for bit in of.flat), 2) for of in bits)
    return phash, dhash


@given(st.sampled_from(_KINDS), _SIDES, _SIDES, st.integers(0, 2**32))
@example("noise", 173, 173, 0)
@example("noise", 257, 129, 0)
@example("noise", 60, 256, 0)  # so tall that Pillow reduces the height first
@example("noise", 250, 200, 56)  # where sums in 32 bits are rounded otherwise
@example("noise", 173, 173, 96)
@example("edges", 9, 8, 0)  # as they are, and enlarged
@example("edges", 32, 32, 0)
@example("waves", 1, 1, 0)
def test_hashes_are_those_of_the_reductions_of_pillow(kind: str, width: int, height: int, seed: int) -> None:
    gray = made(kind, width, height, seed)

    # By pixel: few of those that differ by one change a bit.
    assert all((mine == its).all() for mine, its in zip(reductions(gray), by_pillow(gray), strict=True))
    assert hashes(gray) == hashes_by_pillow(gray)


@pytest.mark.parametrize("order", [1, -1])
def test_weights_of_many_sizes_are_not_confused(order: int) -> None:
    # More than are kept, and then the first ones again.
    sizes = [*range(33, 289), *range(33, 97)][::order]

    for size in sizes:
        gray = made("noise", size, 321 - size, size)
        assert hashes(gray) == hashes_by_pillow(gray), size


def test_floats_have_the_hashes_of_the_same_bytes() -> None:
    # Of 32x32 pixels none is rounded.
    gray = samples.scene(32, 32).convert("L")

    assert hashes(gray)[0] == hashes(gray.convert("F"))[0]

"""Sheets of thumbnails: one JPEG with several images in square cells. The worker imports this: no Pillow here."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

#: Cells of a row, and of a sheet. A browser that shows one of them decodes the sheet: 16 of 160 pixels take 1.6 MB.
COLUMNS, CELLS = 4, 16
#: The longest side of a cell, in pixels.
MAX_SIDE = 1_024

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class ThumbnailSheet:
    """Thumbnails in one JPEG.

    Attributes:
        body: the JPEG.
        sizes: width and height of each thumbnail, in the order of the cells. Each is at the top left of its cell.
    """

    body: bytes
    sizes: tuple[tuple[int, int], ...]


def join_tiles(tiles: Iterable[bytes]) -> bytes:
    """Return files in one request, each with its length before it."""
    return b"".join(_LENGTH.pack(len(tile)) + tile for tile in tiles)


def split_tiles(request: bytes) -> list[bytes]:
    """Return the files of a request."""
    tiles, at = [], 0
    while at < len(request):
        (length,) = _LENGTH.unpack_from(request, at)
        at += _LENGTH.size
        tiles.append(request[at : at + length])
        at += length
    return tiles

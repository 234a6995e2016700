import struct

import pytest
from inspection import samples

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection.containers import boxes
from pixcrawler_worker.inspection.limits import Limits

SIZE = (160, 120, 1)


def image_size(width: int, height: int) -> bytes:
    return samples.box(b"ispe", struct.pack(">III", 0, width, height))


def test_the_largest_size_is_found_at_any_place_where_decoders_look() -> None:
    inside = samples.box(b"iprp", samples.box(b"ipco", image_size(20, 900) + image_size(700, 30)))

    assert boxes.largest(samples.variant("avif"), Limits()) == SIZE
    assert boxes.largest(samples.avif_with(samples.box(b"meta", bytes(4) + inside)), Limits()) == (700, 900, 1)


def test_what_follows_a_container_is_read_after_it() -> None:
    body = samples.box(b"moov", samples.box(b"trak", b"")) + samples.box(b"meta", b"") + image_size(5, 6)

    assert boxes.largest(body, Limits()) == (5, 6, 1)


def references(version: int, count: int) -> bytes:
    ids = ">I" if version else ">H"
    one = samples.box(b"dimg", struct.pack(ids, 1) + struct.pack(">H", 3) + struct.pack(ids, 2) * 3)
    return samples.box(b"iref", bytes([version, 0, 0, 0]) + one * count)


def locations(version: int, items: int, extents: int) -> bytes:
    number = ">I" if version > 1 else ">H"
    one = struct.pack(number, 1) + bytes(2 if version else 0) + struct.pack(">HIH", 0, 0, extents) + bytes(8 * extents)
    return samples.box(b"iloc", bytes([version, 0, 0, 0, 0x44, 0x40]) + struct.pack(number, items) + one * items)


def information(version: int) -> bytes:
    return samples.box(b"iinf", bytes([version, 0, 0, 0]) + struct.pack(">I" if version else ">H", 40))


def groups() -> bytes:
    one = samples.box(b"altr", bytes(8) + struct.pack(">I", 7) + bytes(28))
    return samples.box(b"grpl", one * 5)


@pytest.mark.parametrize(
    "body",
    [
        references(0, 10),
        references(1, 10),
        locations(0, 8, 4),
        locations(1, 8, 4),
        locations(2, 8, 4),
        information(0),
        information(1),
        groups(),
    ],
    ids=["references", "long references", "locations", "locations 1", "locations 2", "items", "many items", "groups"],
)
def test_forty_items_are_counted_in_every_layout_of_their_tables(body: bytes) -> None:
    boxes.largest(body, Limits(max_items=40))

    with pytest.raises(RejectedError, match="more than 39 entries in its tables of items") as rejected:
        boxes.largest(body, Limits(max_items=39))
    assert rejected.value.reason is Reason.TOO_COMPLEX


def test_items_of_several_tables_are_added_up() -> None:
    body = references(0, 10) + samples.box(b"meta", bytes(4) + information(0))

    boxes.largest(body, Limits(max_items=40 + 40))
    with pytest.raises(RejectedError, match="more than 79 entries"):
        boxes.largest(body, Limits(max_items=79))

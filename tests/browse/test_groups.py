from dataclasses import replace

from pixcrawler_worker.browse.groups import near_duplicates
from pixcrawler_worker.db.browsed_images import BrowsedImage
from pixcrawler_worker.db.image_records import ImageRecord

RECORD = ImageRecord(
    **dict.fromkeys(ImageRecord.__slots__),  # type: ignore[arg-type]  # each test sets what it is about
)


def image(
    number: int, phash: int | None, *, keeper: int | None = None, side: int = 100, **metrics: float
) -> BrowsedImage:
    record = replace(RECORD, id=number, phash=phash, dhash=phash, width=side, height=side, file_size=1000)
    return BrowsedImage(
        crawl_job_id=1, record=record, caption=None, columns={}, measured_sha256=None, valid=None, findings=(),
        metrics=metrics, keeper_id=keeper,
    )  # fmt: skip


def test_images_with_similar_hashes_are_a_group_with_the_largest_first() -> None:
    images = [image(1, 0b111 << 40), image(2, -1), image(3, 0b110 << 40, side=300), image(4, 0b101 << 40)]
    assert near_duplicates(images) == [[2, 0, 3]]


def test_what_the_validation_keeps_is_first_and_its_groups_are_joined_with_those_of_hashes() -> None:
    images = [image(1, 0), image(2, 2**62 - 1, keeper=1, side=900), image(3, 1), image(4, 0x0F0F << 30, keeper=99)]
    assert near_duplicates(images) == [[0, 2, 1]]


def test_large_groups_come_first() -> None:
    few = [image(1, 0xAAAA), image(2, 0xAAAA)]
    many = [image(number, 0x5555 << 32) for number in (3, 4, 5)]
    assert near_duplicates([*few, *many]) == [[2, 3, 4], [0, 1]]


def test_plain_images_and_those_without_hashes_are_in_no_group() -> None:
    images = [image(1, 7, entropy=0.5), image(2, 7, std=0.1), image(3, None), image(4, None), image(5, 7, entropy=6.0)]
    assert near_duplicates(images) == []
    assert near_duplicates([]) == []

"""Which of several columns with URLs is meant."""

import io

import pytest
from list_samples import table

from pixcrawler_worker.crawl.lists import reading
from pixcrawler_worker.crawl.lists.rows import Columns, Notes

PAGE, IMAGE = "http://a.example/observations/1", "http://b.example/1/medium.jpeg?2"


def read(content: bytes, column: str | None = None) -> tuple[list[str], list[str]]:
    notes = Notes()
    rows = list(reading.read(io.BytesIO(content), "list", Columns(column), notes))
    return [row.url for row in rows], list(notes.lines("list"))


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        # An export of iNaturalist, a feed of products, what schema.org has of a page.
        (("url", "image_url"), "image_url"),
        (("link", "image_link"), "image_link"),
        (("url", "image"), "image"),
        (("source_url", "photo_url"), "photo_url"),
    ],
)
def test_a_page_is_no_image_and_what_was_chosen_is_said(header: tuple[str, str], chosen: str) -> None:
    content = table(",", header, (PAGE, IMAGE))
    other = next(one for one in header if one != chosen)
    assert read(content) == (
        [IMAGE],
        [f'list: the URLs are those in the column "{chosen}", though {other} may be meant: choose with --url-column'],
    )
    assert read(content, other) == ([PAGE], [])


def test_images_stay_what_they_are_where_others_have_images_too() -> None:
    for first, second in ((IMAGE, PAGE), (IMAGE, f"{IMAGE}3"), (PAGE, f"{PAGE}3")):
        assert read(table(",", ("url", "image_url"), (first, second)))[0] == [first]
    assert read(table(",", ("url", "href"), (PAGE, IMAGE)))[0] == [PAGE]
    assert read(table(",", ("page_url", "url"), (PAGE, IMAGE))) == ([IMAGE], [])


def test_a_url_that_cannot_be_divided_is_no_image() -> None:
    assert read(table(",", ("url", "image_url"), ("http://[::1", PAGE)))[0] == ["http://[::1"]


def test_a_caption_that_is_a_url_does_not_make_its_column_one_of_urls() -> None:
    rows = [(PAGE, f"{IMAGE}0"), ("a cat", f"{IMAGE}1"), ("b", f"{IMAGE}2")]
    assert read(table("\t", *rows)) == ([url for _, url in rows], [])
    assert read(table(",", ("words", "where"), *rows)) == ([url for _, url in rows], [])

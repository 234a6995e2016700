import pytest
from source_client import search_with

from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Candidate, Page, SourceConfig

#: What a list may hold: the source checks nothing, and requests nothing.
LISTED = (
    "https://a.example/1.jpg",
    "https://a.example/1.jpg",
    "HTTPS://a.example/ü b.jpg?size=large#top",
    "file:///etc/passwd",
    "not a URL",
    "",
)


def search(
    urls: tuple[str, ...], *, page: int = 0, page_size: int = 10, rows: tuple[ListRow, ...] | None = None
) -> Page:
    source = protocol.load("urls", SourceConfig())
    rows = tuple(map(ListRow, urls)) if rows is None else rows
    return search_with(source, page=page, page_size=page_size, urls=urls, rows=rows)


def test_it_needs_no_configuration() -> None:
    assert protocol.load("urls", SourceConfig()).missing() is None


def test_it_offers_the_list_unchanged() -> None:
    assert search(LISTED).candidates == tuple(Candidate(url=url) for url in LISTED)


def test_it_offers_what_the_list_says_about_the_images() -> None:
    row = ListRow("https://a.example/1.jpg", "A cat.\x00", "cat", {"width": 7, "tags": ["a"]}, 3)
    (candidate,) = search((row.url,), rows=(row,)).candidates
    assert candidate == Candidate(url=row.url, caption=row.caption, label="cat", columns={"width": 7, "tags": ["a"]})


def test_it_offers_a_list_of_which_only_the_urls_are_known() -> None:
    assert search(LISTED, rows=()) == search(LISTED)


@pytest.mark.parametrize(("given", "more"), [(0, False), (1, False), (3, True)])
def test_a_page_that_is_not_full_is_the_last(given: int, *, more: bool) -> None:
    page = search(LISTED[:given], page=4, page_size=3)
    assert len(page.candidates) == given
    assert page.more is more

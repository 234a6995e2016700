from dataclasses import replace

from doubles import stub_source

from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.sources.recent_pages import RecentPages

QUERY = Query(text="cat", label="cat", page=0, page_size=10)
SOURCE = stub_source()


def page(count: int = 1) -> Page:
    return Page(tuple(Candidate(url=f"https://images.example/{number}.jpg") for number in range(count)), more=True)


def test_a_page_is_that_of_the_same_job_source_and_query() -> None:
    pages, kept = RecentPages(), page()
    pages.keep(1, "shelf", SOURCE, QUERY, kept)
    assert pages.find(1, "shelf", SOURCE, replace(QUERY)) is kept
    assert pages.find(2, "shelf", SOURCE, QUERY) is None
    assert pages.find(1, "other", SOURCE, QUERY) is None
    assert pages.find(1, "shelf", stub_source(), QUERY) is None
    for changed in (replace(QUERY, page=1), replace(QUERY, text="dog"), replace(QUERY, licenses=("cc0",))):
        assert pages.find(1, "shelf", SOURCE, changed) is None


def test_the_last_page_counts() -> None:
    pages, kept = RecentPages(), page(3)
    pages.keep(1, "shelf", SOURCE, QUERY, page(2))
    pages.keep(1, "shelf", SOURCE, QUERY, kept)
    assert pages.find(1, "shelf", SOURCE, QUERY) is kept


def test_pages_are_kept_for_an_hour() -> None:
    now = 5.0
    pages = RecentPages(clock=lambda: now)
    pages.keep(1, "shelf", SOURCE, QUERY, page())
    now += 3599
    assert pages.find(1, "shelf", SOURCE, QUERY)
    now += 1
    assert pages.find(1, "shelf", SOURCE, QUERY) is None


def test_the_oldest_pages_make_room_even_for_empty_ones() -> None:
    pages = RecentPages(max_candidates=20)
    for number, count in enumerate((8, 8, 8)):
        pages.keep(number, "shelf", SOURCE, QUERY, page(count))
    assert [pages.find(number, "shelf", SOURCE, QUERY) is not None for number in range(3)] == [False, True, True]
    for number in range(100):
        pages.keep(number, "shelf", SOURCE, QUERY, page(0))
    assert sum(pages.find(number, "shelf", SOURCE, QUERY) is not None for number in range(100)) == 20
    pages.keep(1000, "shelf", SOURCE, QUERY, page(50))
    assert pages.find(1000, "shelf", SOURCE, QUERY) is None

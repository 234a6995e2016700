import json
from collections.abc import Sequence

import pytest
from factories import make_history
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.crawl_history import CrawlHistory, SearchHistory
from pixcrawler_worker.errors import PermanentError


def make_result(page: int, *, source: str = "a", failed: bool = False, **values: object) -> CrawlChunkResult:
    chunk = CrawlChunk(source=source, query="cat", label="cat", page=page, page_size=10, quota=10)
    return CrawlChunkResult(chunk=chunk, failed=failed, **values)  # type: ignore[arg-type]


results = st.builds(
    make_result,
    st.integers(0, 5),
    source=st.sampled_from("ab"),
    failed=st.booleans(),
    offered=st.integers(0, 9),
    stored=st.integers(0, 3),
    left=st.lists(st.integers(0, 9), max_size=2).map(tuple),
    more=st.booleans(),
    reasons=st.sampled_from(
        [{}, {"known_url": 2}, {"known_url": 1, "duplicate_url": 1}, {"known_url": 1, "timeout": 1}]
    ),
)


def read_at_once(found: Sequence[CrawlChunkResult], source: str) -> tuple[object, ...]:
    """What all results of a search say, read in the order of their pages."""
    failures = next_page = offered = stored = 0
    pages: int | None = None
    left: dict[int, tuple[int, ...]] = {}
    for result in sorted(found, key=lambda result: result.chunk.page):
        if result.chunk.source == source:
            failures = failures + 1 if result.failed else 0
            next_page = result.chunk.page + 1
            offered, stored = offered + result.offered, stored + result.stored
            left |= {result.chunk.page: result.left}
            pages = pages if result.more else min(next_page, pages or next_page)
    return failures, next_page, offered, stored, pages, {page: at for page, at in left.items() if at}


@given(st.lists(results, max_size=12), st.integers(0, 12))
def test_sums_that_were_kept_meanwhile_are_those_of_all_results(found: list[CrawlChunkResult], kept: int) -> None:
    history = CrawlHistory.from_json(json.loads(json.dumps(make_history(found[:kept]).to_json())))
    for result in found[kept:]:
        history.add(result)
    assert history == make_history(found)
    for source in "ab":
        one = history.of("cat", "cat", source)
        sums = one.failures, one.next_page, one.offered, one.stored, one.pages, one.left
        assert sums == read_at_once(found, source)


def test_a_search_that_there_was_not_has_brought_nothing() -> None:
    assert CrawlHistory().of("cat", "cat", "a") == SearchHistory()


def test_rounds_are_free_for_pages_of_known_urls_alone_and_for_a_long_list() -> None:
    history = make_history(
        [
            make_result(0, offered=2, reasons={"known_url": 1, "duplicate_url": 1}),
            make_result(1, offered=2, reasons={"known_url": 1, "timeout": 1}),
            make_result(2, offered=2, stored=1, reasons={"known_url": 1}),
            make_result(19_999, source="urls"),
        ]
    )
    assert history.free_rounds(list_source="urls") == 1 + 2
    assert history.free_rounds(list_source="other") == 1


@pytest.mark.parametrize("value", [{}, {"known_pages": 0}, {"known_pages": 0, "searches": [{"query": "cat"}]}])
def test_kept_sums_that_are_not_complete_are_an_error(value: dict[str, object]) -> None:
    with pytest.raises(PermanentError, match="history"):
        CrawlHistory.from_json(value)

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from factories import make_history
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult
from pixcrawler_worker.domain.crawl_history import CrawlHistory
from pixcrawler_worker.domain.crawl_planning import SourceLimits, balance, fill, next_round
from pixcrawler_worker.domain.keywords import Keyword

CAT, DOG, OWL = (Keyword(name, name) for name in ("cat", "dog", "owl"))

# Shares

entries = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=9)


@given(st.integers(-5, 200), entries)
def test_balance_adds_all_that_the_caps_allow(total: int, have_and_caps: list[tuple[int, int]]) -> None:
    have, caps = [entry[0] for entry in have_and_caps], [entry[1] for entry in have_and_caps]
    added = balance(total, have, caps)
    assert sum(added) == min(max(total, 0), sum(caps))
    assert all(0 <= new <= cap for new, cap in zip(added, caps, strict=True))


@given(st.integers(0, 200), entries)
def test_balance_raises_the_lowest_first(total: int, have_and_caps: list[tuple[int, int]]) -> None:
    have, caps = [entry[0] for entry in have_and_caps], [entry[1] for entry in have_and_caps]
    added = balance(total, have, caps)
    after = [old + new for old, new in zip(have, added, strict=True)]
    could_grow = [level for level, new, cap in zip(after, added, caps, strict=True) if new < cap]
    grew = [level for level, new in zip(after, added, strict=True) if new]
    assert not grew or not could_grow or max(grew) - min(could_grow) <= 1


def test_the_remainder_goes_to_the_first_entries() -> None:
    assert balance(5, [0] * 7, [100] * 7) == (1, 1, 1, 1, 1, 0, 0)


def test_balance_evens_out_differences() -> None:
    assert balance(10, [7, 0, 3], [100, 100, 100]) == (0, 7, 3)
    assert balance(10, [0, 0, 0], [1, 100, 100]) == (1, 5, 4)


def test_balance_takes_no_time_for_large_numbers() -> None:
    assert sum(balance(10**9, [0] * 50, [2**31] * 50)) == 10**9


@given(st.integers(0, 200), st.lists(st.integers(0, 60), max_size=9))
def test_fill_fills_one_cap_after_the_other(total: int, caps: list[int]) -> None:
    shares = fill(total, caps)
    assert sum(shares) == min(total, sum(caps))
    assert all(0 <= share <= cap for share, cap in zip(shares, caps, strict=True))
    full = [share == cap for share, cap in zip(shares, caps, strict=True)]
    assert all(share == 0 for at, share in enumerate(shares) if not all(full[:at]))


# Rounds


def plan(
    *classes: Keyword,
    sources: dict[str, int | None] | None = None,
    max_images: int = 10,
    page_size: int = 10,
    history: Sequence[CrawlChunkResult] = (),
) -> tuple[CrawlChunk, ...]:
    return next_round(
        keywords=classes,
        sources={name: SourceLimits(page_size, pages) for name, pages in (sources or {"a": None}).items()},
        max_images=max_images,
        history=make_history(history),
    )


def make_chunk(page: int = 0, quota: int = 10, *, source: str = "a", keyword: Keyword = CAT) -> CrawlChunk:
    return CrawlChunk(source=source, query=keyword.query, label=keyword.label, page=page, page_size=10, quota=quota)


@given(
    classes=st.integers(1, 7),
    sources=st.lists(st.sampled_from([None, 3, 1]), min_size=1, max_size=3),
    max_images=st.integers(1, 300),
    page_size=st.integers(1, 40),
)
def test_quotas_of_the_first_round_sum_to_the_limit_or_to_all_candidates(
    classes: int, sources: list[int | None], max_images: int, page_size: int
) -> None:
    names = [Keyword(str(number), str(number)) for number in range(classes)]
    chunks = plan(
        *names,
        sources={str(number): pages for number, pages in enumerate(sources)},
        max_images=max_images,
        page_size=page_size,
    )
    can_be_had = sum(classes * page_size * (10**6 if pages is None else pages) for pages in sources)
    assert sum(one.quota for one in chunks) == min(max_images, can_be_had)
    assert all(1 <= one.quota <= page_size for one in chunks)
    assert len({(one.source, one.query, one.page) for one in chunks}) == len(chunks)


def test_five_images_over_seven_keywords_are_exactly_five() -> None:
    chunks = plan(*(Keyword(str(number), str(number)) for number in range(7)), max_images=5)
    assert [(one.query, one.quota) for one in chunks] == [(str(number), 1) for number in range(5)]


def test_a_class_gets_no_more_than_its_own_limit() -> None:
    chunks = plan(replace(CAT, max_images=3), DOG, max_images=20)
    assert Counter({one.query: one.quota for one in chunks if one.query == "cat"}) == {"cat": 3}
    assert sum(one.quota for one in chunks) == 20


def test_a_class_that_has_its_images_gets_no_chunks() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(), offered=3, stored=3)]
    assert {one.query for one in plan(replace(CAT, max_images=3), DOG, max_images=20, history=history)} == {"dog"}


def test_sources_of_a_class_get_equal_shares_and_classes_alternate() -> None:
    chunks = plan(CAT, DOG, sources={"a": None, "b": None}, max_images=40, page_size=5)
    assert [(one.query, one.source, one.page, one.quota) for one in chunks] == [
        (query, source, page, 5) for page in (0, 1) for query in ("cat", "dog") for source in ("a", "b")
    ]


def test_a_source_with_too_few_candidates_leaves_its_share_to_the_others() -> None:
    chunks = plan(CAT, sources={"small": 1, "large": None}, max_images=30, page_size=10)
    assert Counter({"small": 10, "large": 20}) == sum((Counter({one.source: one.quota}) for one in chunks), Counter())


def test_every_source_has_pages_of_its_own_size() -> None:
    sources = {"small": SourceLimits(3, 4), "large": SourceLimits(10)}
    chunks = next_round(keywords=[CAT], sources=sources, max_images=40, history=CrawlHistory())
    assert [(one.source, one.page, one.page_size, one.quota) for one in chunks if one.source == "small"] == [
        ("small", page, 3, 3) for page in range(4)
    ]
    assert [(one.page_size, one.quota) for one in chunks if one.source == "large"] == [(10, 10), (10, 10), (10, 8)]


def test_a_job_that_has_its_images_gets_no_chunks() -> None:
    assert plan(CAT, history=[CrawlChunkResult(chunk=make_chunk(), offered=10, stored=10)]) == ()
    assert plan(CAT, max_images=5, history=[CrawlChunkResult(chunk=make_chunk(), offered=10, stored=10)]) == ()


def test_leftovers_come_before_new_pages() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(quota=4), offered=5, stored=4, left=(5, 6, 7, 8, 9))]
    chunks = plan(CAT, max_images=6, history=history)
    assert [(one.page, one.only, one.quota) for one in chunks] == [(0, (5, 6, 7, 8, 9), 2)]


def test_leftovers_that_do_not_suffice_are_followed_by_new_pages() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(quota=9), offered=9, stored=9, left=(9,))]
    chunks = plan(CAT, max_images=14, history=history)
    assert [(one.page, one.only) for one in chunks] == [(0, (9,)), (1, None)]
    assert sum(one.quota for one in chunks) == 5


def test_leftovers_that_were_processed_are_not_requested_again() -> None:
    first = CrawlChunkResult(chunk=make_chunk(quota=4), offered=4, stored=4, left=(4, 5, 6, 7, 8, 9))
    again = CrawlChunkResult(
        chunk=replace(make_chunk(quota=2), only=(4, 5, 6, 7, 8, 9)), offered=3, stored=1, left=(7, 8, 9)
    )
    (one,) = plan(CAT, max_images=6, history=[first, again])
    assert (one.page, one.only) == (0, (7, 8, 9))


def test_leftovers_that_are_too_few_to_count_on_come_after_further_pages() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(), offered=9, stored=3, left=(9,))]
    assert [(one.page, one.quota) for one in plan(CAT, max_images=4, history=history)] == [(1, 1)]
    last = [replace(history[0], more=False)]
    assert [(one.page, one.only, one.quota) for one in plan(CAT, max_images=4, history=last)] == [(0, (9,), 1)]


def test_a_source_is_not_counted_on_for_more_than_its_last_candidates_are_likely_to_bring() -> None:
    of_a = CrawlChunkResult(chunk=make_chunk(), offered=4, stored=2, left=tuple(range(4, 10)), more=False)
    of_b = CrawlChunkResult(chunk=make_chunk(source="b"), offered=10, stored=5)
    chunks = plan(CAT, sources={"a": None, "b": None}, max_images=21, history=[of_a, of_b])
    shares = sum((Counter({one.source: one.quota}) for one in chunks), Counter[str]())
    assert shares == {"a": 2, "b": 12}


def test_the_share_of_a_source_that_failed_goes_to_the_others_while_they_have_candidates() -> None:
    sound = [CrawlChunkResult(chunk=make_chunk(source=name), offered=10, stored=5) for name in "ab"]
    failed = CrawlChunkResult(chunk=make_chunk(1), failed=True)
    sources: dict[str, int | None] = {"a": None, "b": None}
    chunks = plan(CAT, sources=sources, max_images=20, history=[*sound, failed])
    assert {one.source for one in chunks} == {"b"}
    exhausted = replace(sound[1], more=False)
    chunks = plan(CAT, sources=sources, max_images=20, history=[sound[0], exhausted, failed])
    assert {(one.source, one.page) for one in chunks if one.page == 2} == {("a", 2)}


def test_a_source_without_further_pages_is_not_searched() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(), offered=10, stored=2, more=False)]
    assert plan(CAT, history=history) == ()
    other = plan(CAT, sources={"a": None, "b": None}, history=history)
    assert {one.source for one in other} == {"b"}


def test_a_source_with_a_known_number_of_pages_ends_with_them() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(page), offered=10, stored=2) for page in range(2)]
    assert {one.page for one in plan(CAT, sources={"a": 3}, history=history)} == {2}
    assert plan(CAT, sources={"a": 2}, history=history) == ()


def test_a_source_that_fails_at_once_is_dropped_for_that_class_alone() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(), failed=True)]
    assert plan(CAT, history=history) == ()
    chunks = plan(CAT, DOG, sources={"a": None, "b": None}, history=history)
    assert {(one.query, one.source) for one in chunks} == {("cat", "b"), ("dog", "a"), ("dog", "b")}


def test_a_source_that_failed_once_between_good_pages_is_still_searched() -> None:
    history = [
        CrawlChunkResult(chunk=make_chunk(0), offered=10, stored=1),
        CrawlChunkResult(chunk=make_chunk(1), failed=True),
    ]
    assert {one.page for one in plan(CAT, max_images=2, history=history)} == {2}
    history.append(CrawlChunkResult(chunk=make_chunk(2), failed=True))
    assert plan(CAT, max_images=2, history=history) == ()


def test_failures_count_in_a_row_only() -> None:
    history = [
        CrawlChunkResult(chunk=make_chunk(page), offered=10, stored=1, failed=page % 2 == 1) for page in range(6)
    ]
    assert plan(CAT, max_images=20, history=history)


def test_the_order_in_which_chunks_ended_does_not_matter() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(page), offered=10, stored=page, more=page < 3) for page in range(4)]
    assert plan(CAT, max_images=50, history=history) == plan(CAT, max_images=50, history=history[::-1])


def test_results_of_a_removed_keyword_are_ignored() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(keyword=OWL), offered=10, stored=10)]
    assert sum(one.quota for one in plan(CAT, history=history)) == 10


@pytest.mark.parametrize(("stored", "pages"), [(100, 1), (50, 3), (25, 5), (10, 10), (1, 10), (0, 10)])
def test_the_worse_the_yield_the_more_pages_are_requested(stored: int, pages: int) -> None:
    history = [CrawlChunkResult(chunk=make_chunk(), offered=100, stored=stored)]
    chunks = plan(CAT, max_images=stored + 100, page_size=100, history=history)
    assert len(chunks) == pages
    assert sum(one.quota for one in chunks) == 100
    assert max(one.quota for one in chunks) - min(one.quota for one in chunks) <= 1


def repeated(page: int) -> CrawlChunkResult:
    return CrawlChunkResult(chunk=make_chunk(page), offered=10, reasons={"duplicate_url": 9, "invalid_entry": 1})


def test_a_search_that_repeats_itself_is_given_few_pages_and_ends() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(0), offered=10, stored=10)]
    assert len(plan(CAT, max_images=500, history=history)) > 10
    history += [repeated(1), repeated(2)]
    rounds = []
    while chunks := plan(CAT, max_images=500, history=history):
        rounds.append([one.page for one in chunks])
        history += [repeated(one.page) for one in chunks]
    assert rounds == [[3, 4], [5, 6], [7, 8], [9, 10]]


def test_empty_pages_are_repetitions_too_and_a_new_candidate_ends_them() -> None:
    history = [CrawlChunkResult(chunk=make_chunk(page)) for page in range(3)]
    assert [one.page for one in plan(CAT, max_images=500, history=history)] == [3, 4]
    found = CrawlChunkResult(chunk=make_chunk(3), offered=10, stored=1, reasons={"duplicate_url": 9})
    assert len(plan(CAT, max_images=500, history=[*history, found])) > 2
    assert len(plan(CAT, max_images=500, history=[found, *history])) > 2


def test_pages_that_other_jobs_have_are_no_repetitions_and_neither_are_those_of_a_list() -> None:
    known = [
        CrawlChunkResult(chunk=make_chunk(page), offered=10, reasons={"known_url": 5, "duplicate_url": 5})
        for page in range(20)
    ]
    assert len(plan(CAT, max_images=500, history=known)) > 2
    same = [repeated(page) for page in range(20)]
    limits = {"a": SourceLimits(10, 100, is_list=True)}
    chunks = next_round(keywords=[CAT], sources=limits, max_images=500, history=make_history(same))
    assert len(chunks) > 2


# Several searches for a keyword


def test_searches_of_a_class_get_equal_shares_and_the_keywords_come_first() -> None:
    chunks = plan(
        replace(CAT, expansions=("kitten", "Katze")), DOG, sources={"a": None, "b": None}, max_images=24, page_size=10
    )
    assert [(one.query, one.label, one.source, one.quota) for one in chunks] == [
        ("cat", "cat", "a", 2),
        ("cat", "cat", "b", 2),
        ("dog", "dog", "a", 6),
        ("dog", "dog", "b", 6),
        ("kitten", "cat", "a", 2),
        ("kitten", "cat", "b", 2),
        ("Katze", "cat", "a", 2),
        ("Katze", "cat", "b", 2),
    ]


def test_few_images_are_those_of_the_keyword_itself() -> None:
    chunks = plan(replace(CAT, expansions=("kitten", "Katze")), max_images=2, sources={"a": None, "b": None})
    assert [(one.query, one.source) for one in chunks] == [("cat", "a"), ("cat", "b")]


def test_what_a_search_could_not_bring_is_shared_out_within_the_class() -> None:
    history = [
        CrawlChunkResult(chunk=make_chunk(quota=5), offered=5, stored=5, more=True),
        CrawlChunkResult(chunk=replace(make_chunk(quota=5), query="kitten"), offered=2, stored=2, more=False),
    ]
    chunks = plan(replace(CAT, expansions=("kitten",)), max_images=10, history=history)
    assert {(one.query, one.label, one.quota) for one in chunks} == {("cat", "cat", 3)}


def test_images_of_all_searches_count_for_the_limit_of_their_class() -> None:
    history = [CrawlChunkResult(chunk=replace(make_chunk(), query="kitten"), offered=4, stored=4)]
    cat = replace(CAT, max_images=6, expansions=("kitten",))
    assert sum(one.quota for one in plan(cat, DOG, max_images=100, history=history) if one.label == "cat") == 2


def test_a_list_is_not_searched_once_more_for_each_text() -> None:
    chunks = next_round(
        keywords=[replace(CAT, expansions=("kitten",))],
        sources={"list": SourceLimits(10, 3, is_list=True), "a": SourceLimits(10)},
        max_images=30,
        history=CrawlHistory(),
    )
    assert {(one.query, one.source) for one in chunks} == {("cat", "list"), ("cat", "a"), ("kitten", "a")}


def test_a_list_of_any_length_is_read_to_its_end() -> None:
    pages, history, rounds = 25_000, list[CrawlChunkResult](), 0
    # A job with one round, whose candidates all fail.
    while rounds < 1 + make_history(history).free_rounds(list_source="urls"):
        found = plan(CAT, sources={"urls": pages}, max_images=10 * pages, history=history)
        rounds += 1
        history += [CrawlChunkResult(chunk=chunk, offered=10, more=True) for chunk in found]
    assert [result.chunk.page for result in history] == list(range(pages))
    # A search of as many pages is not a list.
    assert make_history(history).free_rounds(list_source="other") == 0

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.crawl_planning import (
    CrawlChunk,
    CrawlChunkResult,
    SourceLimits,
    balance,
    fill,
    next_round,
)
from pixcrawler_worker.domain.keywords import Keyword

CAT, DOG, OWL = (Keyword(name, name) for name in ("cat", "dog", "owl"))

# Shares

entries = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=9)


@given(st.integers(-5, 200), entries)
def test_balance_deals_out_all_that_the_caps_allow(total: int, have_and_caps: list[tuple[int, int]]) -> None:
    have, caps = [entry[0] for entry in have_and_caps], [entry[1] for entry in have_and_caps]
    added = balance(total, have, caps)
    assert sum(added) == min(max(total, 0), sum(caps))
    assert all(0 <= new <= cap for new, cap in zip(added, caps, strict=True))


@given(st.integers(0, 200), entries)
def test_balance_leaves_nobody_behind_who_could_grow(total: int, have_and_caps: list[tuple[int, int]]) -> None:
    have, caps = [entry[0] for entry in have_and_caps], [entry[1] for entry in have_and_caps]
    added = balance(total, have, caps)
    after = [old + new for old, new in zip(have, added, strict=True)]
    could_grow = [level for level, new, cap in zip(after, added, caps, strict=True) if new < cap]
    grew = [level for level, new in zip(after, added, strict=True) if new]
    assert not grew or not could_grow or max(grew) - min(could_grow) <= 1


def test_odd_images_go_to_the_first() -> None:
    assert balance(5, [0] * 7, [100] * 7) == (1, 1, 1, 1, 1, 0, 0)


def test_balance_evens_out_what_is_uneven() -> None:
    assert balance(10, [7, 0, 3], [100, 100, 100]) == (0, 7, 3)
    assert balance(10, [0, 0, 0], [1, 100, 100]) == (1, 5, 4)


def test_balance_takes_no_time_for_large_numbers() -> None:
    assert sum(balance(10**9, [0] * 50, [2**31] * 50)) == 10**9


@given(st.integers(0, 200), st.lists(st.integers(0, 60), max_size=9))
def test_fill_fills_one_after_the_other(total: int, caps: list[int]) -> None:
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
        history=history,
    )


def asked(page: int = 0, quota: int = 10, *, source: str = "a", keyword: Keyword = CAT) -> CrawlChunk:
    return CrawlChunk(source=source, query=keyword.query, label=keyword.label, page=page, page_size=10, quota=quota)


@given(
    classes=st.integers(1, 7),
    sources=st.lists(st.sampled_from([None, 3, 1]), min_size=1, max_size=3),
    max_images=st.integers(1, 300),
    page_size=st.integers(1, 40),
)
def test_quotas_of_the_first_round_sum_to_what_is_wanted_or_can_be_had(
    classes: int, sources: list[int | None], max_images: int, page_size: int
) -> None:
    names = [Keyword(str(number), str(number)) for number in range(classes)]
    slices = plan(
        *names,
        sources={str(number): pages for number, pages in enumerate(sources)},
        max_images=max_images,
        page_size=page_size,
    )
    can_be_had = sum(classes * page_size * (10**6 if pages is None else pages) for pages in sources)
    assert sum(part.quota for part in slices) == min(max_images, can_be_had)
    assert all(1 <= part.quota <= page_size for part in slices)
    assert len({(part.source, part.query, part.page) for part in slices}) == len(slices)


def test_five_images_over_seven_keywords_are_exactly_five() -> None:
    slices = plan(*(Keyword(str(number), str(number)) for number in range(7)), max_images=5)
    assert [(part.query, part.quota) for part in slices] == [(str(number), 1) for number in range(5)]


def test_a_class_gets_no_more_than_its_own_limit() -> None:
    slices = plan(replace(CAT, max_images=3), DOG, max_images=20)
    assert Counter({part.query: part.quota for part in slices if part.query == "cat"}) == {"cat": 3}
    assert sum(part.quota for part in slices) == 20


def test_a_class_that_has_its_images_is_not_asked_for_again() -> None:
    history = [CrawlChunkResult(chunk=asked(), offered=3, stored=3)]
    assert {part.query for part in plan(replace(CAT, max_images=3), DOG, max_images=20, history=history)} == {"dog"}


def test_sources_of_a_class_take_equal_parts_and_classes_alternate() -> None:
    slices = plan(CAT, DOG, sources={"a": None, "b": None}, max_images=40, page_size=5)
    assert [(part.query, part.source, part.page, part.quota) for part in slices] == [
        (query, source, page, 5) for page in (0, 1) for query in ("cat", "dog") for source in ("a", "b")
    ]


def test_a_source_that_has_too_little_leaves_its_part_to_the_others() -> None:
    slices = plan(CAT, sources={"small": 1, "large": None}, max_images=30, page_size=10)
    assert Counter({"small": 10, "large": 20}) == sum(
        (Counter({part.source: part.quota}) for part in slices), Counter()
    )


def test_every_source_is_asked_in_pages_of_its_own_size() -> None:
    sources = {"small": SourceLimits(3, 4), "large": SourceLimits(10)}
    slices = next_round(keywords=[CAT], sources=sources, max_images=40)
    assert [(part.source, part.page, part.page_size, part.quota) for part in slices if part.source == "small"] == [
        ("small", page, 3, 3) for page in range(4)
    ]
    assert [(part.page_size, part.quota) for part in slices if part.source == "large"] == [(10, 10), (10, 10), (10, 8)]


def test_a_job_that_has_its_images_is_asked_for_nothing() -> None:
    assert plan(CAT, history=[CrawlChunkResult(chunk=asked(), offered=10, stored=10)]) == ()
    assert plan(CAT, max_images=5, history=[CrawlChunkResult(chunk=asked(), offered=10, stored=10)]) == ()


def test_leftovers_are_asked_before_new_pages() -> None:
    history = [CrawlChunkResult(chunk=asked(quota=4), offered=5, stored=4, left=(5, 6, 7, 8, 9))]
    slices = plan(CAT, max_images=6, history=history)
    assert [(part.page, part.only, part.quota) for part in slices] == [(0, (5, 6, 7, 8, 9), 2)]


def test_leftovers_that_do_not_suffice_are_followed_by_new_pages() -> None:
    history = [CrawlChunkResult(chunk=asked(quota=9), offered=9, stored=9, left=(9,))]
    slices = plan(CAT, max_images=14, history=history)
    assert [(part.page, part.only) for part in slices] == [(0, (9,)), (1, None)]
    assert sum(part.quota for part in slices) == 5


def test_leftovers_that_were_judged_are_not_asked_again() -> None:
    first = CrawlChunkResult(chunk=asked(quota=4), offered=5, stored=4, left=(5, 6, 7, 8, 9))
    again = CrawlChunkResult(chunk=replace(asked(quota=2), only=(5, 6, 7, 8, 9)), offered=3, stored=1, left=(8, 9))
    (part,) = plan(CAT, max_images=6, history=[first, again])
    assert (part.page, part.only) == (0, (8, 9))


def test_a_stream_without_further_pages_is_not_asked() -> None:
    history = [CrawlChunkResult(chunk=asked(), offered=10, stored=2, more=False)]
    assert plan(CAT, history=history) == ()
    other = plan(CAT, sources={"a": None, "b": None}, history=history)
    assert {part.source for part in other} == {"b"}


def test_a_stream_whose_pages_are_counted_ends_with_them() -> None:
    history = [CrawlChunkResult(chunk=asked(page), offered=10, stored=2) for page in range(2)]
    assert {part.page for part in plan(CAT, sources={"a": 3}, history=history)} == {2}
    assert plan(CAT, sources={"a": 2}, history=history) == ()


def test_a_source_that_fails_at_once_is_dropped_for_that_class_alone() -> None:
    history = [CrawlChunkResult(chunk=asked(), failed=True)]
    assert plan(CAT, history=history) == ()
    slices = plan(CAT, DOG, sources={"a": None, "b": None}, history=history)
    assert {(part.query, part.source) for part in slices} == {("cat", "b"), ("dog", "a"), ("dog", "b")}


def test_a_source_that_failed_once_amid_good_pages_is_asked_on() -> None:
    history = [CrawlChunkResult(chunk=asked(0), offered=10, stored=1), CrawlChunkResult(chunk=asked(1), failed=True)]
    assert {part.page for part in plan(CAT, max_images=2, history=history)} == {2}
    history.append(CrawlChunkResult(chunk=asked(2), failed=True))
    assert plan(CAT, max_images=2, history=history) == ()


def test_failures_count_in_a_row_only() -> None:
    history = [CrawlChunkResult(chunk=asked(page), offered=10, stored=1, failed=page % 2 == 1) for page in range(6)]
    assert plan(CAT, max_images=20, history=history)


def test_the_order_in_which_slices_ended_does_not_matter() -> None:
    history = [CrawlChunkResult(chunk=asked(page), offered=10, stored=page, more=page < 3) for page in range(4)]
    assert plan(CAT, max_images=50, history=history) == plan(CAT, max_images=50, history=history[::-1])


def test_what_a_job_no_longer_asks_for_is_forgotten() -> None:
    history = [CrawlChunkResult(chunk=asked(keyword=OWL), offered=10, stored=10)]
    assert sum(part.quota for part in plan(CAT, history=history)) == 10


@pytest.mark.parametrize(("stored", "pages"), [(100, 1), (50, 2), (25, 4), (10, 10), (1, 10), (0, 10)])
def test_the_worse_the_yield_the_more_pages_are_asked_for(stored: int, pages: int) -> None:
    history = [CrawlChunkResult(chunk=asked(), offered=100, stored=stored)]
    slices = plan(CAT, max_images=stored + 100, page_size=100, history=history)
    assert len(slices) == pages
    assert sum(part.quota for part in slices) == 100
    assert max(part.quota for part in slices) - min(part.quota for part in slices) <= 1


# JSON


def test_a_chunk_is_its_payload() -> None:
    chunk = replace(asked(page=3), only=(1, 2))
    assert chunk.to_json() == {
        "source": "a",
        "query": "cat",
        "label": "cat",
        "page": 3,
        "page_size": 10,
        "quota": 10,
        "only": (1, 2),
    }
    for one in (chunk, asked()):
        assert CrawlChunk.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_result_has_everything_but_the_chunk() -> None:
    result = CrawlChunkResult(
        chunk=asked(), offered=5, stored=3, left=(6, 7), more=False, downloaded=4, reasons={"too_small": 2}
    )
    assert result.to_json() == {
        "offered": 5,
        "stored": 3,
        "downloaded": 4,
        "reasons": {"too_small": 2},
        "left": (6, 7),
        "more": False,
    }
    assert CrawlChunkResult.from_json(asked(), json.loads(json.dumps(result.to_json()))) == result

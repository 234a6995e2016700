"""Rounds over one and several sources, and whole jobs run in this process."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import ledger
import pytest
from doubles import (
    StubSource,
    WatchedDownloader,
    counted,
    drive,
    first,
    image_urls,
    last_details,
    page_of,
    planned_chunks,
    query,
    run,
    start,
    status,
    stub_source,
    urls_of,
    with_sources,
)
from fakes.hosts import HostileServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger import at_once
from sqlalchemy import event

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.domain.retry import MAX_ATTEMPTS
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.sources.recent_pages import RecentPages

pytestmark = pytest.mark.usefixtures("sound")


@contextmanager
def statements(runtime: Runtime) -> Iterator[list[str]]:
    """Record the statements that are sent by way of SQLAlchemy."""
    recorded: list[str] = []
    engine = runtime.sessions.kw["bind"]

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        recorded.append(statement)

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield recorded
    finally:
        event.remove(engine, "before_cursor_execute", record)


# Rounds


def test_concluding_at_once_from_two_workers_plans_one_round(runtime: Runtime, host: HostileServer) -> None:
    listed = [host.url(f"/fault/404/once-{number}") for number in range(20)]
    ref, messages = start(runtime, listed, job={"max_images": 3}, chunk_size=3)
    # The message that concludes is lost: everybody finds the job at the same moment.
    held = ledger.claim(runtime.sessions, first(messages).chunk_id)
    with runtime.sessions.begin() as session:
        chunks.finish(
            session, held, result={"offered": 3, "stored": 0, "left": [], "more": True, "reasons": {}}, gains={}
        )
    found = at_once(*[partial(submission.conclude, runtime, CRAWL, ref.id)] * 6)
    assert sum(map(bool, found)) == 1
    assert query(runtime, "SELECT round FROM pixcrawler.crawl_plans") == [(2,)]
    assert sorted(part[2] for part in planned_chunks(runtime, ref)) == list(range(len(planned_chunks(runtime, ref))))


@pytest.mark.parametrize("order", ["the same", "reversed", "others before them"])
def test_leftovers_of_a_page_that_is_searched_again_are_found_in_any_order(
    runtime: Runtime, host: HostileServer, order: str
) -> None:
    """As after a restart: a new process does not have the pages that another one has searched."""
    bad = [host.url(f"/fault/404/again-{order}-{number}") for number in range(10)]
    good = image_urls(host, f"again-{order}".replace(" ", "-"), 9)
    # A URL that is there twice is counted once.
    pages = [bad, [*good, good[5]]]
    searches: Counter[int] = Counter()

    def answer(query: Query) -> Page:
        searches[query.page] += 1
        listed = pages[query.page] if query.page < len(pages) else []
        if query.page == 1 and searches[1] > 1:
            more = {"the same": listed, "reversed": listed[::-1], "others before them": [*bad[:4], *listed]}
            listed = more[order]
        found = tuple(Candidate(url=url, credit=Credit(title=url)) for url in listed)
        return Page(found, more=query.page == 0)

    there = replace(
        with_sources(runtime, stub=StubSource(answer)),
        recent_pages=RecentPages(max_candidates=0),
    )
    ref, messages = start(there, job={"max_images": 12}, chunk_size=10, sources=["stub"])
    # Nothing was rejected for now, so no page reads all chunks of the job to find out.
    with statements(there) as sent:
        drive(there, messages)
    assert not any("payload @>" in statement for statement in sent)
    assert searches[1] == 2
    assert urls_of(there, ref) == set(good)
    assert query(
        there,
        "SELECT DISTINCT title = original_url FROM images JOIN pixcrawler.image_facts"
        " ON image_id = images.id WHERE images.crawl_job_id = :id",
        id=ref.id,
    ) == [(True,)]
    assert counted(there, ref) == (19, 9, 9)
    assert last_details(there, ref)["reasons"] == {"not_found": 10, "duplicate_url": 1}


def test_a_retry_finds_what_was_rejected_for_now_in_a_page_that_has_another_order(
    runtime: Runtime, host: HostileServer
) -> None:
    bad = [host.url(f"/fault/404/other-order-{number}") for number in range(10)]
    good = image_urls(host, "other-order", 6)
    later = image_urls(host, "other-order-later", 2)
    pages = [bad, [*later, *good]]
    again = [bad, [*good[:2], *later, *good[2:]]]
    searches: Counter[int] = Counter()
    tries: Counter[str] = Counter()
    down = True

    def answer(query: Query) -> Page:
        searches[query.page] += 1
        listed = (pages if searches[query.page] == 1 else again)[query.page] if query.page < len(pages) else []
        return Page(tuple(Candidate(url=url) for url in listed), more=query.page == 0)

    def before_fetch(url: str) -> None:
        tries[url] += 1
        if down and url in later:
            raise RejectedError(Reason.TIMEOUT, "it takes too long")

    there = replace(
        with_sources(runtime, stub=StubSource(answer)),
        recent_pages=RecentPages(max_candidates=0),
        downloader=WatchedDownloader(runtime, before_fetch),
    )
    try:
        # The first round leaves candidates of the second page, which the second round has.
        ref, messages = start(there, job={"max_images": 12}, chunk_size=10, sources=["stub"])
        drive(there, messages)
        assert (searches[1], urls_of(there, ref)) == (2, set(good))
        assert [tries[url] for url in later] == [1, 1], "once for each time that the job runs"
        down = False
        drive(there, submission.retry(there, CRAWL, ref.id))
    finally:
        there.run(there.downloader.aclose())
    assert urls_of(there, ref) == {*good, *later}
    assert last_details(there, ref)["reasons"] == {"not_found": 10}
    assert counted(there, ref) == (18, 8, 8)


@pytest.mark.parametrize(("broken", "rounds"), [(0, 1), (4, 2), (30, 3)])
def test_rounds_go_on_until_the_images_are_there(
    runtime: Runtime, host: HostileServer, broken: int, rounds: int
) -> None:
    bad = [host.url(f"/fault/404/rounds-{broken}-{number}") for number in range(broken)]
    ref, messages = start(
        runtime, [*bad, *image_urls(host, f"rounds-{broken}", 30)], job={"max_images": 5}, chunk_size=5
    )
    drive(runtime, messages)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.valid_images, job.progress) == (JobStatus.COMPLETED, 5, 100)
    assert query(runtime, "SELECT round FROM pixcrawler.crawl_plans") == [(rounds,)]


def test_rounds_end_when_every_source_is_exhausted(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(
        runtime, image_urls(host, "exhausted", 7), job={"max_images": 50}, chunk_size=3, max_rounds=100
    )
    drive(runtime, messages)
    assert (status(runtime, ref), len(urls_of(runtime, ref))) == (JobStatus.COMPLETED, 7)


@pytest.mark.parametrize("limit", [1, 3])
def test_rounds_end_when_they_are_used_up(runtime: Runtime, host: HostileServer, limit: int) -> None:
    def nothing_new(search: Query) -> Page:
        return replace(page_of(image_urls(host, "used-up", search.page_size), replace(search, page=0)), more=True)

    endless = StubSource(nothing_new)
    ref, messages = start(
        with_sources(runtime, endless=endless),
        sources=["endless"],
        job={"max_images": 9},
        chunk_size=3,
        max_rounds=limit,
    )
    drive(with_sources(runtime, endless=endless), messages)
    assert query(runtime, "SELECT round FROM pixcrawler.crawl_plans") == [(limit,)]
    assert (status(runtime, ref), len(urls_of(runtime, ref))) == (JobStatus.COMPLETED, 3)


@pytest.mark.parametrize("more", ["https://example.org/?page=2", 1])
def test_a_source_may_say_with_any_value_that_it_has_more(runtime: Runtime, host: HostileServer, more: Any) -> None:
    urls = image_urls(host, f"any-{type(more).__name__}", 6)

    def answer(query: Query) -> Page:
        found = tuple(Candidate(url=url) for url in urls[2 * query.page : 2 * query.page + 2])
        return Page(found, more=more if query.page < 2 else None)  # type: ignore[arg-type]  # what it is about

    there = with_sources(runtime, stub=StubSource(answer))
    ref, messages = start(there, sources=["stub"], job={"max_images": 7}, chunk_size=3)
    drive(there, messages)
    assert urls_of(there, ref) == set(urls)
    assert status(there, ref) is JobStatus.COMPLETED
    assert "reason" not in last_details(there, ref)


def test_several_sources_alternate_with_equal_shares(runtime: Runtime, host: HostileServer) -> None:
    both = {name: stub_source(*image_urls(host, f"turns-{name}", 20)) for name in ("one", "two")}
    there = with_sources(runtime, **both)
    ref, messages = start(
        there, sources=["one", "two"], job={"keywords": ["cat", "dog"], "max_images": 24}, chunk_size=3
    )
    planned = planned_chunks(runtime, ref)
    assert Counter((source, label) for source, label, _, _ in planned) == {
        (source, label): 2 for source in ("one", "two") for label in ("cat", "dog")
    }
    assert {label for _, label, _, _ in planned[:4]} == {"cat", "dog"}
    assert {source for source, _, _, _ in planned[:4]} == {"one", "two"}
    assert sum(quota for *_, quota in planned) == 24
    drive(there, messages)
    assert status(runtime, ref) is JobStatus.COMPLETED
    # A source has the same images for both keywords, and a job stores each URL once: later pages fill up.
    counts = query(runtime, "SELECT label, count(*) FROM pixcrawler.image_facts GROUP BY 1 ORDER BY 1")
    assert sum(count for _, count in counts) == 24


def test_where_one_source_is_down_the_other_fills_up(runtime: Runtime, host: HostileServer) -> None:
    def busy(_: Query) -> Page:
        raise TransientError("busy")

    there = with_sources(runtime, down=StubSource(busy), well=stub_source(*image_urls(host, "fills-up", 40)))
    ref, messages = start(there, sources=["down", "well"], job={"max_images": 10}, chunk_size=10)
    assert planned_chunks(runtime, ref) == [("down", "cat", 0, 5), ("well", "cat", 0, 5)]
    for _ in range(3):
        assert status(runtime, ref) is JobStatus.RUNNING
        drive(there, messages)
        ledger.make_due(runtime.sessions, ref)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.valid_images, job.failed_chunks) == (JobStatus.COMPLETED, 10, 1)
    assert last_details(runtime, ref)["errors"] == {"busy; its part is left to the other sources": 1}


def test_an_only_source_is_retried_longer(runtime: Runtime) -> None:
    def busy(_: Query) -> Page:
        raise TransientError("busy")

    there = with_sources(runtime, down=StubSource(busy))
    ref, messages = start(there, sources=["down", "down"])
    for _ in range(MAX_ATTEMPTS):
        assert status(runtime, ref) is JobStatus.RUNNING
        drive(there, messages)
        ledger.make_due(runtime.sessions, ref)
    assert status(runtime, ref) is JobStatus.FAILED
    assert last_details(runtime, ref)["errors"] == {"busy": 1}


def test_a_requested_delay_is_respected_whether_or_not_there_are_other_sources(
    runtime: Runtime, host: HostileServer
) -> None:
    delays = [timedelta(seconds=9)] * 7

    def throttled(search: Query) -> Page:
        if delays:
            raise TransientError("too many requests", retry_after=delays.pop())
        return page_of(image_urls(host, "throttled", 5), search)

    there = with_sources(runtime, one=StubSource(throttled), other=stub_source(*image_urls(host, "not-throttled", 5)))
    ref, messages = start(there, sources=["one", "other"], job={"max_images": 10}, chunk_size=10)
    while delays:
        drive(there, messages)
        ((rest,),) = query(runtime, "SELECT max(available_at) - clock_timestamp() FROM pixcrawler.chunks")
        assert timedelta(seconds=7) < rest < timedelta(seconds=18)
        ledger.make_due(runtime.sessions, ref)
    drive(there, messages)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.valid_images, job.failed_chunks) == (JobStatus.COMPLETED, 10, 0)


def test_a_keyword_gets_no_more_images_than_its_cap(runtime: Runtime, host: HostileServer) -> None:
    found = {"cat": image_urls(host, "cap-cat", 20), "dog": image_urls(host, "cap-dog", 20)}
    there = with_sources(runtime, shelf=StubSource(lambda search: page_of(found[search.text], search)))
    keywords: list[object] = [{"query": "cat", "label": "feline", "max_images": 3}, "dog"]
    ref, messages = start(there, sources=["shelf"], job={"keywords": keywords, "max_images": 12}, chunk_size=4)
    drive(there, messages)
    counts = query(runtime, "SELECT label, query, count(*) FROM pixcrawler.image_facts GROUP BY 1, 2 ORDER BY 1")
    assert counts == [("dog", "dog", 9), ("feline", "cat", 3)]
    assert status(runtime, ref) is JobStatus.COMPLETED


def test_five_images_over_seven_keywords_are_one_for_each_of_five(runtime: Runtime, host: HostileServer) -> None:
    keywords = [f"k{number}" for number in range(7)]
    there = with_sources(
        runtime, shelf=StubSource(lambda search: page_of(image_urls(host, f"five-{search.text}", 5), search))
    )
    ref, messages = start(there, sources=["shelf"], job={"keywords": keywords, "max_images": 5})
    assert planned_chunks(runtime, ref) == [("shelf", keyword, 0, 1) for keyword in keywords[:5]]
    drive(there, messages)
    assert query(runtime, "SELECT label FROM pixcrawler.image_facts ORDER BY 1") == [(k,) for k in keywords[:5]]


def test_a_row_that_is_broken_under_a_running_job_ends_it_with_what_it_has(
    runtime: Runtime, host: HostileServer
) -> None:
    bad = [host.url(f"/fault/404/under-{number}") for number in range(3)]
    ref, messages = start(runtime, [*image_urls(host, "under", 2), *bad], job={"max_images": 4}, chunk_size=2)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET keywords = '7' WHERE id = :id", id=ref.id)
    drive(runtime, messages)
    assert (status(runtime, ref), len(urls_of(runtime, ref))) == (JobStatus.COMPLETED, 2)
    assert "keywords must be an array" in last_details(runtime, ref)["reason"]


def test_a_source_that_loses_its_configuration_ends_the_job_with_what_it_has(
    runtime: Runtime, host: HostileServer
) -> None:
    source = stub_source(*image_urls(host, "loses", 4))
    there = with_sources(runtime, shelf=source)
    ref, messages = start(there, sources=["shelf"], job={"max_images": 9}, chunk_size=2)
    for _ in range(2):
        messages = run(there, messages)
    source.lacks = "set its key"
    drive(there, messages)
    assert status(runtime, ref) is JobStatus.COMPLETED
    assert last_details(runtime, ref)["reason"] == "source 'shelf' cannot be used: set its key"


# Whole jobs


@dataclass(frozen=True)
class Shape:
    """A list of addresses, and how it is search for."""

    kinds: Sequence[str]
    max_images: int
    chunk_size: int


SHAPES = st.builds(
    Shape,
    kinds=st.lists(
        st.sampled_from(["good", "good", "good", "404", "html", "duplicate", "same"]), min_size=1, max_size=40
    ),
    max_images=st.integers(1, 30),
    chunk_size=st.integers(1, 12),
)


@pytest.mark.timeout(300)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=SHAPES)
def test_a_job_of_any_shape_ends_with_exact_counters(runtime: Runtime, host: HostileServer, shape: Shape) -> None:
    paths = {"good": "/good/shape-{}.jpg", "same": "/good/shape-same.jpg"}
    listed = [host.url(paths.get(kind, f"/fault/{kind}/shape-{{}}").format(n)) for n, kind in enumerate(shape.kinds)]
    ref, messages = start(
        runtime, listed, job={"max_images": shape.max_images}, chunk_size=shape.chunk_size, max_rounds=100
    )
    drive(runtime, messages)
    ledger.check(runtime.sessions, ref)
    job = ledger.crawl_job(runtime.sessions, ref)
    kinds = Counter(shape.kinds)
    distinct = kinds["good"] + min(1, kinds["same"]) + min(1, kinds["duplicate"])
    assert (job.status, job.progress, job.active_chunks) == (JobStatus.COMPLETED, 100, 0)
    assert job.valid_images == len(urls_of(runtime, ref)) == min(shape.max_images, distinct)
    assert job.completed_chunks == job.total_chunks
    results = [found.result or {} for found in ledger.chunks_of(runtime.sessions, ref)]
    assert all(result["offered"] == result["stored"] + sum(result["reasons"].values()) for result in results)
    assert sum(result["stored"] for result in results) == job.valid_images
    assert sum(result["downloaded"] for result in results) == job.downloaded_images
    if shape.max_images > distinct:
        # A job that lacks images looks at everything: nothing is left, and every entry of the list is counted once.
        assert sum(result["offered"] for result in results) == len(listed)
        assert job.total_images == len(set(listed))
        assert job.downloaded_images == kinds["good"] + min(1, kinds["same"]) + kinds["duplicate"] + kinds["html"]
        reasons = sum((Counter(result["reasons"]) for result in results), Counter[str]())
        assert reasons == +Counter(
            not_found=kinds["404"],
            not_an_image=kinds["html"],
            duplicate_url=max(0, kinds["same"] - 1),
            duplicate_bytes=max(0, kinds["duplicate"] - 1),
        )

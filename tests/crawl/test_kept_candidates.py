"""What is left over of a result page when a chunk pauses: it comes with the chunk, and no page is searched twice."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import ledger
import pytest
from doubles import StubSource, drive, first, image_urls, query, start, stub_source, urls_of, with_sources
from fakes import polite
from fakes.hosts import HostileServer
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.crawl import kept_candidates
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.crawl.progress import kept_row
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.postgres_types import storable, storable_json
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import executor, sweeper
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.sources.recent_pages import RecentPages
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.policy import Policy

#: Make runtimes as of other processes, with a source.
Processes: TypeAlias = Callable[[StubSource], Runtime]

_WORDS = st.text(max_size=20) | st.none()
_CREDITS = st.builds(Credit, page_url=_WORDS, title=_WORDS, author=_WORDS, license=_WORDS, attribution=_WORDS)
_VALUES = st.recursive(
    st.text(max_size=10) | st.integers() | st.floats() | st.booleans(), lambda one: st.lists(one, max_size=2)
)
_CANDIDATES = st.builds(
    Candidate,
    url=st.text(max_size=30).map(lambda path: f"https://images.example/{path}"),
    credit=_CREDITS,
    width=st.integers(1, 10_000) | st.none(),
    height=st.integers(1, 10_000) | st.none(),
    use_url=_WORDS,
    caption=_WORDS,
    label=_WORDS,
    columns=st.dictionaries(st.text(max_size=8), _VALUES, max_size=3),
    alternates=st.lists(st.text(max_size=20), max_size=2).map(tuple),
)


@pytest.fixture
def processes(runtime: Runtime) -> Iterator[Processes]:
    """Make runtimes that know no result page and no host."""
    policy = Policy(user_agent="tests", allowed_networks=runtime.settings.allowed_networks)
    made: list[Downloader] = []

    def another(source: StubSource) -> Runtime:
        made.append(Downloader(policy))
        return with_sources(replace(runtime, recent_pages=RecentPages(), downloader=made[-1]), stub=source)

    yield another
    for downloader in made:
        runtime.run(downloader.aclose())


def paused(one: Runtime, busy: polite.PoliteHost) -> JobRef:
    """Start a job and run its chunk until the host wants a pause, which is over then."""
    ref, messages = start(one, sources=["stub"], chunk_size=10, job={"max_images": 10})
    assert executor.run(one, CRAWL, messages[0].chunk_id) == []
    assert first(ledger.chunks_of(one.sessions, ref)).state == "queued"
    busy.rule = None
    ledger.make_due(one.sessions, ref)
    return ref


def go_on(runtime: Runtime) -> None:
    """Run what is due to its end."""
    drive(runtime, sweeper.sweep(runtime, [CRAWL]).messages)


@pytest.mark.parametrize("error", [PermanentError("no requests left"), TransientError("busy")])
def test_another_process_goes_on_where_a_chunk_paused_and_does_not_search_again(
    runtime: Runtime, host: HostileServer, processes: Processes, error: Exception
) -> None:
    with polite.serving(polite.closed_after(1, seconds=60)) as busy:
        good = image_urls(host, f"kept-{type(error).__name__}", 3)
        found = tuple(
            Candidate(
                url=url,
                credit=Credit(title=f"Title of {url}", author="Ada", license="cc0-1.0"),
                caption=f"caption of {url}",
                label="kitten",
                columns={"at": url, "nested": [1, None]},
            )
            for url in (*busy.urls("kept", 6), *good)
        )

        def answer(asked: Query) -> Page:
            if asked.page:
                return Page((), more=False)
            if len(source.searches) > 1:
                raise error
            return Page(found, more=True)

        source = StubSource(answer)
        ref = paused(processes(source), busy)
        payload = first(ledger.chunks_of(runtime.sessions, ref)).payload
        assert len(payload["kept"]) == len(payload["only"])
        go_on(processes(source))
    assert [asked.page for asked in source.searches] == [0, 1], "the page said that there may be more"
    assert urls_of(runtime, ref) == {one.url for one in found}
    rows = query(
        runtime,
        "SELECT DISTINCT label, caption = 'caption of ' || original_url, title = 'Title of ' || original_url,"
        " columns->>'at' = original_url FROM images JOIN pixcrawler.image_facts ON image_id = images.id"
        " WHERE images.crawl_job_id = :id",
        id=ref.id,
    )
    assert rows == [("kitten", True, True, True)]


def test_a_kept_candidate_that_is_invalid_fails_its_chunk_by_name(runtime: Runtime, processes: Processes) -> None:
    with polite.serving(polite.closed_after(1, seconds=60)) as busy:
        source = stub_source(*busy.urls("invalid", 4))
        ref = paused(processes(source), busy)
        ledger.execute(
            runtime.sessions,
            "UPDATE pixcrawler.chunks SET payload = jsonb_set(payload, '{kept,0,width}', '\"wide\"')"
            " WHERE crawl_job_id = :id",
            id=ref.id,
        )
        go_on(processes(source))
    chunk = first(ledger.chunks_of(runtime.sessions, ref))
    assert (chunk.state, chunk.error) == (
        "failed",
        "payload.kept[0].width: expected an integer from 0 to 9223372036854775807, got 'wide'",
    )


def test_a_page_whose_candidates_cannot_be_kept_is_searched_again(runtime: Runtime, processes: Processes) -> None:
    with polite.serving(polite.closed_after(1, seconds=60)) as busy:
        urls = [f"{url}?odd=\udc80" for url in busy.urls("not-kept", 4)]
        source = stub_source(*urls)
        ref = paused(processes(source), busy)
        assert "kept" not in first(ledger.chunks_of(runtime.sessions, ref)).payload
        go_on(processes(source))
    assert [asked.page for asked in source.searches] == [0, 0]
    assert ledger.crawl_job(runtime.sessions, ref).valid_images == 4


@given(_CANDIDATES)
def test_a_candidate_comes_back_as_it_would_have_been_stored(candidate: Candidate) -> None:
    row = kept_row(candidate)
    written = kept_candidates.written([candidate], [row])
    if storable(candidate.url) != candidate.url:
        assert written is None
        return
    assert written is not None
    again = kept_candidates.read(json.loads(json.dumps(written[0])), "candidate")
    assert (again.url, again.width, again.height) == (candidate.url, candidate.width, candidate.height)
    assert [again.use_url, *again.alternates] == [
        storable(candidate.use_url or "") or None,
        *map(storable, candidate.alternates),
    ]
    assert kept_row(again).details() == (None if row.details() is None else storable_json(row.details()))


def test_what_is_too_large_is_not_kept() -> None:
    large = Candidate(url="https://images.example/1", caption="long " * 1_000)
    assert kept_candidates.written([large] * 10, [kept_row(large)] * 10) is not None
    assert kept_candidates.written([large] * 500, [kept_row(large)] * 500) is None

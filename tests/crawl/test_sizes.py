"""Candidates with several sizes: the next one is tried when one is gone, and the candidate counts once."""

from collections.abc import Sequence
from typing import Any

import ledger
import pytest
from doubles import StubSource, drive, first, image_urls, last_details, query, start, urls_of, with_sources
from fakes.hosts import HostileServer, serving

from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query

pytestmark = pytest.mark.usefixtures("sound")


def crawl(runtime: Runtime, *candidates: Candidate, **options: Any) -> tuple[JobRef, StubSource]:
    """Run a job over these candidates to its end."""

    def answer(search: Query) -> Page:
        start = search.page * search.page_size
        found = candidates[start : start + search.page_size]
        return Page(found, more=start + len(found) < len(candidates))

    source = StubSource(answer)
    there = with_sources(runtime, shelf=source)
    ref, messages = start(there, sources=["shelf"], job={"max_images": 20}, **options)
    drive(there, messages)
    return ref, source


def in_sizes(urls: Sequence[str]) -> Candidate:
    return Candidate(url=urls[0], alternates=tuple(urls[1:]))


def test_the_target_reaches_the_source(runtime: Runtime) -> None:
    _, source = crawl(runtime, target_side=224)
    assert {search.target_side for search in source.searches} == {224}
    _, source = crawl(runtime)
    assert {search.target_side for search in source.searches} == {None}


@pytest.mark.parametrize("fault", ["404", "410"])
def test_when_a_size_is_gone_the_next_one_is_taken_and_recorded(
    runtime: Runtime, host: HostileServer, fault: str
) -> None:
    gone = [host.url(f"/fault/{fault}/sizes-{number}") for number in range(2)]
    good, unused = image_urls(host, f"sizes-{fault}", 2)
    ref, _ = crawl(runtime, in_sizes([*gone, good, unused]))
    assert urls_of(runtime, ref) == {good}
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.total_images, job.downloaded_images, job.valid_images) == (1, 1, 1)
    assert last_details(runtime, ref)["reasons"] == {}
    # The URL that the source gives identifies the candidate.
    hashes = "SELECT f.url_hash, c.url_hash FROM pixcrawler.image_facts f, pixcrawler.crawl_candidates c"
    rows = query(runtime, f"{hashes} WHERE f.crawl_job_id = :id AND c.crawl_job_id = :id", id=ref.id)
    assert [tuple(map(bytes, row)) for row in rows] == [(url_hash(gone[0]),) * 2]
    assert unused.removeprefix(host.base) not in host.hits


def test_a_candidate_whose_sizes_are_all_gone_is_rejected_once(runtime: Runtime, host: HostileServer) -> None:
    gone = [host.url(f"/fault/404/all-{number}") for number in range(3)]
    ref, _ = crawl(runtime, in_sizes(gone))
    assert last_details(runtime, ref)["reasons"] == {"not_found": 1}
    assert ledger.crawl_job(runtime.sessions, ref).total_images == 1
    row = first(
        query(runtime, "SELECT url, detail FROM pixcrawler.crawl_candidates WHERE crawl_job_id = :id", id=ref.id)
    )
    assert row[0] == gone[0]
    assert "2 other sizes are gone" in row[1]
    assert [host.hits[url.removeprefix(host.base)] for url in gone] == [1, 1, 1]


@pytest.mark.parametrize(("fault", "reason"), [("403", "forbidden"), ("html", "not_an_image"), ("500", "server_error")])
def test_other_trouble_does_not_lead_to_another_size(
    runtime: Runtime, host: HostileServer, fault: str, reason: str
) -> None:
    (good,) = image_urls(host, f"other-{fault}", 1)
    ref, _ = crawl(runtime, in_sizes([host.url(f"/fault/{fault}/other"), good]))
    assert last_details(runtime, ref)["reasons"] == {reason: 1}
    assert good.removeprefix(host.base) not in host.hits


def test_sizes_that_other_candidates_have_as_well_count_once(runtime: Runtime, host: HostileServer) -> None:
    (good,) = image_urls(host, "shared", 1)
    gone = [host.url(f"/fault/404/shared-{number}") for number in range(3)]
    ref, _ = crawl(runtime, *(in_sizes([url, good]) for url in gone), in_sizes([good]), in_sizes([gone[0], good]))
    assert urls_of(runtime, ref) == {good}
    assert last_details(runtime, ref)["reasons"] == {"duplicate_bytes": 3, "duplicate_url": 1}
    assert ledger.crawl_job(runtime.sessions, ref).total_images == 4


def test_an_alternate_may_be_at_another_host_and_an_odd_one_costs_its_candidate_alone(
    runtime: Runtime, host: HostileServer
) -> None:
    gone = [host.url(f"/fault/404/elsewhere-{number}") for number in range(3)]
    odd: Any = 7
    with serving() as other:
        (good,) = image_urls(other, "elsewhere", 1)
        ref, _ = crawl(
            runtime,
            in_sizes([gone[0], "http://169.254.169.254/latest"]),
            Candidate(url=gone[1], alternates=(odd,)),
            in_sizes([gone[2], good]),
        )
    assert urls_of(runtime, ref) == {good}
    assert last_details(runtime, ref)["reasons"] == {"forbidden_address": 1, "internal_error": 1}

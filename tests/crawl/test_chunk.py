"""One chunk, run in this process on a real database, storage and web server."""

import hashlib
import json
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ledger
import psycopg
import pytest
import structlog
from doubles import (
    StubSource,
    WatchedDecoder,
    WatchedDownloader,
    WatchedStorage,
    counted,
    drive,
    files_of,
    first,
    image_urls,
    page_of,
    query,
    run,
    start,
    stub_source,
    the_chunk,
    urls_of,
    with_sources,
)
from fakes import hosts
from fakes.hosts import HostileServer
from sqlalchemy import select

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import candidates, crawl_history, job_views
from pixcrawler_worker.db.candidates import Failure
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.private_models import CrawlCandidate
from pixcrawler_worker.domain import placeholders
from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page, Query
from pixcrawler_worker.web.http import AsyncClient

pytestmark = pytest.mark.usefixtures("sound")

#: A decode process that answers what it is given.
FORGER = Path(__file__).parents[1] / "security/forger.py"


def results(runtime: Runtime, ref: JobRef) -> list[dict[str, Any]]:
    with runtime.sessions.begin() as opened:
        return chunk_results.results(opened, ref)


def reasons(runtime: Runtime, ref: JobRef) -> dict[str, int]:
    with runtime.sessions.begin() as opened:
        return crawl_history.reasons(opened, ref.id)


@dataclass(eq=False)
class ReportingSource(StubSource):
    """A source whose provider wants to know which images are used."""

    used: list[str] = field(default_factory=list)

    async def report_use(self, use_url: str, http: AsyncClient) -> None:
        del http
        self.used.append(use_url)
        if use_url.endswith("away"):
            raise TransientError("the provider is away")
        if use_url.endswith("odd"):
            raise LookupError("a bug of the source")


def reporting(urls: list[str], *, last: str = "https://api.example/last") -> ReportingSource:
    """Return a source with these URLs, of which all but the first are to be reported."""
    uses = [None, *(f"https://api.example/{number}" for number in range(1, len(urls) - 1)), last]
    found = tuple(Candidate(url=url, use_url=use) for url, use in zip(urls, uses, strict=True))
    return ReportingSource(lambda _: Page(found, more=False))


def test_only_images_that_are_used_are_reported_to_their_provider(runtime: Runtime, host: HostileServer) -> None:
    urls = [*image_urls(host, "reported", 2), host.url("/fault/404/reported"), *image_urls(host, "more-reported", 1)]
    source = reporting(urls)
    there = with_sources(runtime, museum=source)
    ref, messages = start(there, job={"max_images": 10}, sources=["museum"])
    drive(there, messages)
    assert len(urls_of(runtime, ref)) == 3
    assert sorted(source.used) == ["https://api.example/1", "https://api.example/last"]


@pytest.mark.parametrize("trouble", ["away", "odd"])
def test_no_image_is_lost_when_its_use_cannot_be_reported(runtime: Runtime, host: HostileServer, trouble: str) -> None:
    source = reporting(image_urls(host, f"not-reported-{trouble}", 3), last=f"https://api.example/{trouble}")
    there = with_sources(runtime, museum=source)
    ref, messages = start(there, job={"max_images": 10}, sources=["museum"])
    with structlog.testing.capture_logs() as logged:
        drive(there, messages)
    assert len(urls_of(runtime, ref)) == 3
    assert [one["images"] for one in logged if one["event"] == "use of images not reported"] == [1]


def rejected(runtime: Runtime, ref: JobRef) -> list[tuple[str, bool]]:
    """Return the reasons of rejected candidates in the ledger, with whether each may be tried again."""
    query = select(CrawlCandidate.reason, CrawlCandidate.retriable).where(
        CrawlCandidate.crawl_job_id == ref.id, CrawlCandidate.reason.is_not(None)
    )
    with runtime.sessions.begin() as opened:
        return [(row.reason, row.retriable) for row in opened.execute(query)]


# Results


def test_every_candidate_is_stored_or_counted_with_its_reason(runtime: Runtime, host: HostileServer) -> None:
    valid = image_urls(host, "mixed", 5)
    faults = ["404", "500", "html", "truncated-image", "bomb", "redirect-private", "close", "empty"]
    ref, messages = start(runtime, [*valid, *(host.url(f"/fault/{fault}/mixed") for fault in faults), "junk"])
    assert executor.run(runtime, CRAWL, first(messages).chunk_id) == []
    result = first(results(runtime, ref))
    rejected = "not_found server_error not_an_image corrupt too_many_pixels forbidden_address reset empty bad_url"
    assert result["reasons"] == dict.fromkeys(rejected.split(), 1)
    assert result["offered"] == result["stored"] + sum(result["reasons"].values()) == 14
    assert (result["stored"], result["left"], result["more"]) == (5, [], False)
    assert urls_of(runtime, ref) == set(valid)
    # The valid images, the web page, the corrupt image and the decompression bomb were downloaded completely.
    assert counted(runtime, ref) == (14, 8, 5)


def failures(runtime: Runtime, ref: JobRef) -> dict[str | None, Failure]:
    with runtime.sessions.begin() as opened:
        return {failure.url: failure for failure in candidates.failures(opened, ref.id)}


def test_what_happened_to_each_rejected_candidate_is_kept(runtime: Runtime, host: HostileServer) -> None:
    gone, failing, html = (host.url(f"/fault/{fault}/kept?token=hunter2") for fault in ("404", "500", "html"))
    ref, messages = start(runtime, [*image_urls(host, "kept", 2), gone, failing, html], job={"keywords": ["cat"]})
    drive(runtime, messages)
    found = failures(runtime, ref)
    assert set(found) == {gone, failing, html}
    status = {url: (one.reason, one.http_status, one.retriable, one.label) for url, one in found.items()}
    assert status == {
        gone: ("not_found", 404, False, "cat"),
        failing: ("server_error", 500, True, "cat"),
        html: ("not_an_image", None, False, "cat"),
    }
    assert all(one.detail and "hunter2" not in one.detail and one.tried_at for one in found.values())
    drive(runtime, submission.retry(runtime, CRAWL, ref.id))
    assert {url: one.attempts for url, one in failures(runtime, ref).items()} == {gone: 1, failing: 2, html: 1}


def test_failures_beyond_the_limit_are_kept_without_their_urls(runtime: Runtime, host: HostileServer) -> None:
    limited = replace(runtime, settings=runtime.settings.model_copy(update={"kept_failures": 2}))
    listed = [host.url(f"/fault/404/beyond-{number}") for number in range(6)]
    ref, messages = start(limited, listed, chunk_size=2)
    drive(limited, messages)
    assert len(failures(limited, ref)) == 3, "two with their URLs, four without"
    assert rejected(limited, ref) == [("not_found", False)] * 6


def test_the_images_of_a_running_chunk_are_shown_before_it_ends(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "live", 6), job={"max_images": 6})
    stored: list[str] = []
    shown: list[CrawlView] = []

    def view() -> CrawlView:
        with runtime.sessions.begin() as opened:
            found = job_views.job(opened, CrawlView, ref.id)
        assert found is not None
        return found

    def wait_at_the_fourth(key: str) -> None:
        stored.append(key)
        deadline = time.monotonic() + 10
        while len(stored) == 4 and not shown and time.monotonic() < deadline:
            if view().count[0] == 3:
                shown.append(view())
            time.sleep(0.05)

    narrow = runtime.settings.model_copy(update={"fetch_concurrency": 1})
    slow = replace(runtime, settings=narrow, storage=WatchedStorage(runtime, put=wait_at_the_fourth))
    drive(slow, messages)
    assert [(job.valid_images, job.live_images, job.progress) for job in shown] == [(0, 3, 0)]
    assert (view().valid_images, view().live_images, view().count[:2]) == (6, 0, (6, 6))


def test_placeholders_are_rejected_by_url_by_redirect_and_by_bytes(runtime: Runtime, host: HostileServer) -> None:
    by_bytes, valid = image_urls(host, "placeholder", 2)
    known = placeholders.parse(
        [
            f"sha256:{hashlib.sha256(hosts.jpeg('placeholder-0')).hexdigest()}",
            f"url:{host.base}/good/redirected-*.jpg",
            "url:127.0.0.1/good/gone.jpg",
        ],
        "list",
    )
    urls = [by_bytes, valid, host.url("/fault/redirect-ok/placeholder"), host.url("/good/gone.jpg")]
    ref, messages = start(runtime, urls)
    executor.run(replace(runtime, placeholders=known), CRAWL, first(messages).chunk_id)
    assert first(results(runtime, ref))["reasons"] == {"placeholder": 3}
    assert urls_of(runtime, ref) == {valid}
    assert host.hits["/good/gone.jpg"] == 0  # a candidate with such a URL is not downloaded


@pytest.mark.parametrize("error", [UnicodeError("label"), OverflowError(), IndexError("brackets"), MemoryError()])
def test_a_bug_that_one_candidate_meets_is_its_rejection_and_costs_the_others_nothing(
    runtime: Runtime, host: HostileServer, error: Exception
) -> None:
    listed = image_urls(host, f"bug-{type(error).__name__}", 12)

    def fetch(url: str) -> None:
        if url in {listed[3], listed[4]}:
            raise error

    ref, messages = start(runtime, listed)
    watched = replace(runtime, downloader=WatchedDownloader(runtime, fetch))
    try:
        with structlog.testing.capture_logs() as logs:
            drive(watched, messages)
    finally:
        runtime.run(watched.downloader.aclose())
    assert first(results(runtime, ref))["reasons"] == {"internal_error": 2}
    assert urls_of(runtime, ref) == set(listed) - {listed[3], listed[4]}
    assert the_chunk(runtime, ref).crash_count == 0
    tracebacks = [line["exc_info"] for line in logs if "internal error" in line["event"]]
    assert tracebacks == [error, None], "one traceback for a kind of bug"


def test_what_the_decoder_raises_is_a_rejection_of_the_image(runtime: Runtime, host: HostileServer) -> None:
    listed = image_urls(host, "decoder-bug", 5)
    ref, messages = start(runtime, listed)

    def inspect(_decoder: Decoder, body: bytes) -> None:
        if body == hosts.jpeg("decoder-bug-2"):
            raise KeyError("bands")

    watched = replace(runtime, decoder=WatchedDecoder(inspect))
    try:
        drive(watched, messages)
    finally:
        runtime.run(watched.decoder.aclose())
    assert first(results(runtime, ref))["reasons"] == {"internal_error": 1}
    assert counted(runtime, ref) == (5, 5, 4)
    drive(runtime, submission.retry(runtime, CRAWL, ref.id))
    assert counted(runtime, ref) == (5, 5, 5), "the second download of a candidate is not counted again"
    assert reasons(runtime, ref) == {}


def test_forged_answers_of_a_decode_process_reject_their_images_and_reach_no_file(
    runtime: Runtime, host: HostileServer
) -> None:
    storage = Path(str(runtime.settings.storage()).removeprefix("file://"))
    facts = {"sha256": "", "width": 3, "height": 2, "file_size": 9, "mode": "RGB", "frames": 1, "phash": 1, "dhash": 1}
    measured = {"brightness_p5": 0, "brightness_p99": 1, "entropy": 1, "std": 1, "sharpness": 1, "channel_delta": 0}
    facts |= {"metrics": measured | {"transparent": False, "orientation": 1, "gps": False, "strict_error": None}}
    forged = [json.dumps(facts | {"format": name}) for name in ("../../../../x", "/x", "png/../../y", "", "png")]
    before = set(storage.parent.rglob("*"))
    ref, messages = start(runtime, image_urls(host, "forged", 12))
    forging = replace(runtime, decoder=Decoder(Limits(seconds=5), (str(FORGER), *forged, "null", "[]")))
    try:
        drive(forging, messages)
    finally:
        runtime.run(forging.decoder.aclose())
    assert counted(runtime, ref) == (12, 12, 0)
    assert first(results(runtime, ref))["reasons"] == {"decoder_died": 12}
    assert {path for path in set(storage.parent.rglob("*")) - before if path.is_file()} == set()
    drive(runtime, submission.retry(runtime, CRAWL, ref.id))
    assert counted(runtime, ref) == (12, 12, 12), "an honest process opens them all"


def test_odd_candidates_of_a_source_do_not_cost_the_others(runtime: Runtime, host: HostileServer) -> None:
    valid = image_urls(host, "odd-source", 4)

    class Odd(StubSource):
        async def search(self, query: Query, http: AsyncClient) -> Page:
            del query, http
            odd: list[Any] = [None, 17, {"url": valid[0]}, Candidate(url=None), Candidate(url=5), Candidate(url=[])]  # type: ignore[arg-type]
            sized = Candidate(url=valid[0], width="160")  # type: ignore[arg-type]
            return Page((*odd, sized, *(Candidate(url=url) for url in valid[1:])), more=False, invalid=2)

    runtime = with_sources(runtime, odd=Odd(lambda _: Page((), more=False)))
    ref, messages = start(runtime, sources=["odd"])
    drive(runtime, messages)
    result = first(results(runtime, ref))
    assert result["reasons"] == {"internal_error": 7, "invalid_entry": 2}
    assert result["stored"] == 3


def test_a_quota_is_met_exactly_and_the_next_round_uses_the_leftovers(runtime: Runtime, host: HostileServer) -> None:
    listed = image_urls(host, "quota", 60)
    ref, messages = start(runtime, listed, job={"max_images": 10}, chunk_size=60)
    drive(runtime, messages)
    result = first(results(runtime, ref))
    assert result["stored"] == result["offered"] == 10
    assert len(result["left"]) == 50
    assert {listed[at] for at in result["left"]} == set(listed) - urls_of(runtime, ref)
    assert counted(runtime, ref) == (10, 10, 10)
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.COMPLETED


def test_the_next_round_requests_exactly_the_leftovers(runtime: Runtime, host: HostileServer) -> None:
    # Two pages of which the first one disappoints: its shortfall is made up from the leftovers of the second.
    bad = [host.url(f"/fault/404/left-{number}") for number in range(10)]
    listed = [*bad, *image_urls(host, "left", 10)]
    ref, messages = start(runtime, listed, job={"max_images": 12}, chunk_size=10)
    assert [part.payload["quota"] for part in ledger.chunks_of(runtime.sessions, ref)] == [10, 2]
    messages = run(runtime, run(runtime, messages))
    left = results(runtime, ref)[1]["left"]
    again = ledger.chunks_of(runtime.sessions, ref)[2]
    assert (again.id, again.payload["page"], again.payload["only"]) == (first(messages).chunk_id, 1, left)
    assert len(left) == 8
    drive(runtime, messages)
    assert urls_of(runtime, ref) == set(listed[10:])
    assert all(host.hits[f"/good/left-{number}.jpg"] <= 2 for number in range(10))
    assert all(host.hits[f"/fault/404/left-{number}"] == 1 for number in range(10))
    assert counted(runtime, ref) == (20, 10, 10)


def test_a_limit_that_is_lowered_while_the_job_runs_is_kept(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "lowered", 20), job={"max_images": 20}, chunk_size=10)
    messages = run(runtime, messages)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET max_images = 13 WHERE id = :id", id=ref.id)
    drive(runtime, messages)
    assert counted(runtime, ref) == (13, 13, 13), "nothing is fetched for the limit that was"
    assert ledger.crawl_job(runtime.sessions, ref).status == JobStatus.COMPLETED


def test_a_job_whose_limit_is_lowered_in_the_middle_of_a_chunk_counts_the_surplus(
    runtime: Runtime, host: HostileServer
) -> None:
    ref, messages = start(runtime, image_urls(host, "surplus", 5))

    def lower(_key: str) -> None:
        ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET max_images = 3 WHERE id = :id", id=ref.id)

    drive(replace(runtime, storage=WatchedStorage(runtime, put=lower)), messages)
    assert first(results(runtime, ref))["reasons"] == {"surplus": 2}
    assert counted(runtime, ref) == (5, 5, 3)
    assert rejected(runtime, ref) == [("surplus", False)] * 2


# Duplicates


def test_a_url_that_a_page_has_twice_is_requested_once(runtime: Runtime, host: HostileServer) -> None:
    (url,) = image_urls(host, "twice", 1)
    ref, messages = start(runtime, [url, url, f"{url}#part"])
    drive(runtime, messages)
    assert reasons(runtime, ref) == {"duplicate_url": 2}
    assert host.hits["/good/twice-0.jpg"] == 1
    assert counted(runtime, ref) == (1, 1, 1)


def test_a_url_that_another_chunk_processed_is_not_requested_again(runtime: Runtime, host: HostileServer) -> None:
    (taken,) = image_urls(host, "processed", 1)
    missing = host.url("/fault/404/processed")
    ref, messages = start(runtime, [taken, missing, taken, missing], chunk_size=2)
    drive(runtime, messages)
    assert [result["reasons"] for result in results(runtime, ref)] == [{"not_found": 1}, {"duplicate_url": 2}]
    assert (host.hits["/good/processed-0.jpg"], host.hits["/fault/404/processed"]) == (1, 1)
    assert counted(runtime, ref) == (2, 1, 1)


@pytest.mark.parametrize("chunk_size", [10, 1], ids=["in one chunk", "across chunks"])
def test_the_same_bytes_from_another_url_are_one_image(runtime: Runtime, host: HostileServer, chunk_size: int) -> None:
    listed = [host.url(f"/fault/duplicate/bytes-{number}") for number in range(4)]
    ref, messages = start(runtime, listed, chunk_size=chunk_size)
    drive(runtime, messages)
    assert reasons(runtime, ref) == {"duplicate_bytes": 3}
    assert counted(runtime, ref) == (4, 4, 1)
    assert sorted(rejected(runtime, ref)) == [("duplicate_bytes", False)] * 3
    assert len(files_of(runtime, ref)) == 1


def test_another_job_may_have_the_same_images(runtime: Runtime, host: HostileServer) -> None:
    listed = image_urls(host, "shared", 3)
    for _ in range(2):
        ref, messages = start(runtime, listed)
        drive(runtime, messages)
        assert urls_of(runtime, ref) == set(listed)


# Options


def test_only_accepted_licenses_are_downloaded(runtime: Runtime, host: HostileServer) -> None:
    free, restricted, unknown = image_urls(host, "license", 3)
    sources = {
        "free": stub_source(free, license="cc0-1.0", author="Ada", page_url="https://example.org/a"),
        "restricted": stub_source(restricted, license="cc-by-nd-4.0"),
        "unknown": stub_source(unknown),
    }
    runtime = replace(runtime, sources=dict(sources))
    ref, messages = start(runtime, sources=list(sources), licenses=["cc0-1.0"], max_rounds=1)
    drive(runtime, messages)
    assert urls_of(runtime, ref) == {free}
    assert reasons(runtime, ref) == {"license_not_wanted": 2}
    assert host.hits["/good/license-1.jpg"] == host.hits["/good/license-2.jpg"] == 0
    assert query(runtime, "SELECT license, author, page_url, source FROM pixcrawler.image_facts") == [
        ("cc0-1.0", "Ada", "https://example.org/a", "free")
    ]


@pytest.mark.parametrize(
    ("stated", "downloaded"),
    [
        ({"width": 90, "height": 64}, False),
        ({"width": 96, "height": 50}, False),
        ({"width": 90}, False),
        ({"width": 96, "height": 64}, True),
        ({}, True),
        # What a source states may be wrong; then the file decides.
        ({"width": 4000, "height": 4000}, True),
    ],
)
def test_an_image_that_is_too_small_according_to_its_source_is_not_downloaded(
    runtime: Runtime, host: HostileServer, stated: dict[str, Any], *, downloaded: bool
) -> None:
    (url,) = image_urls(host, f"stated-{len(stated)}-{sum(stated.values())}", 1)
    offer = StubSource(lambda query: Page((Candidate(url=url, **stated),) if query.page == 0 else (), more=False))
    there = with_sources(runtime, offer=offer)
    ref, messages = start(there, sources=["offer"], min_width=96, min_height=60, max_rounds=1)
    drive(there, messages)
    assert sum(host.hits[path] for path in host.hits if path.rpartition("/")[2] in url) == downloaded
    assert reasons(runtime, ref) == ({} if downloaded else {"too_small": 1})


@pytest.mark.parametrize(
    ("options", "rejected"),
    [
        ({"formats": ["jpg"]}, {"format_not_wanted": 1}),
        ({"formats": ["png"]}, {"format_not_wanted": 2}),
        ({"min_width": 96, "min_height": 64}, {}),
        ({"min_width": 97}, {"too_small": 3}),
        ({"min_height": 65}, {"too_small": 3}),
        ({"min_width": 97, "formats": ["jpg"]}, {"format_not_wanted": 1, "too_small": 2}),
    ],
)
def test_formats_and_sizes_are_checked_in_the_file(
    runtime: Runtime, host: HostileServer, options: dict[str, Any], rejected: dict[str, int]
) -> None:
    # The third one is a PNG that its host calls text.
    listed = [*image_urls(host, "size", 2), host.url("/fault/wrong-type/size")]
    ref, messages = start(runtime, listed, **options)
    drive(runtime, messages)
    assert reasons(runtime, ref) == rejected
    assert counted(runtime, ref) == (3, 3, 3 - sum(rejected.values()))


def test_a_failure_that_may_pass_is_retried_once(runtime: Runtime, host: HostileServer) -> None:
    flaky, broken, gone = (host.url(f"/fault/{kind}/try") for kind in ("flaky", "500", "404"))
    ref, messages = start(runtime, [flaky, broken, gone])
    drive(runtime, messages)
    assert urls_of(runtime, ref) == {flaky}
    assert (host.hits["/fault/flaky/try"], host.hits["/fault/500/try"], host.hits["/fault/404/try"]) == (2, 2, 1)
    assert reasons(runtime, ref) == {"server_error": 1, "not_found": 1}


# Files


@pytest.mark.parametrize("label", ["cat", "Red Panda", "кот", "../../etc", "CON", "a/b\\c"])
def test_files_are_named_by_job_label_and_content(runtime: Runtime, host: HostileServer, label: str) -> None:
    ref, messages = start(runtime, image_urls(host, "named", 2), job={"keywords": [label]})
    drive(runtime, messages)
    rows = query(
        runtime,
        "SELECT storage_url, filename, format, encode(sha256, 'hex'), label"
        " FROM images JOIN pixcrawler.image_facts ON image_id = images.id",
    )
    assert len(rows) == 2
    for url, filename, kind, digest, stored_label in rows:
        assert filename == f"{digest[:32]}.{kind}"
        assert runtime.storage.key(url) == f"crawl_jobs/{ref.id}/{slug(label)}/{filename}"
        assert stored_label == label
    assert files_of(runtime, ref) == {runtime.storage.key(row[0]) for row in rows}


def test_a_file_is_in_storage_before_its_row_is_written(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "before", 3))
    rows: list[int] = []
    watched = WatchedStorage(runtime, put=lambda _: rows.append(len(urls_of(runtime, ref))))
    drive(replace(runtime, storage=watched), messages)
    assert rows == [0, 0, 0]
    assert counted(runtime, ref)[2] == 3


def test_no_transaction_is_open_while_a_chunk_searches_downloads_decodes_and_stores(
    runtime: Runtime, host: HostileServer, database_url: str
) -> None:
    seen: dict[str, list[int]] = {"search": [], "fetch": [], "inspect": [], "store": []}

    def look(step: str) -> None:
        with psycopg.connect(database_url) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'pixcrawler' AND xact_start IS NOT NULL"
            ).fetchone()
        seen[step].append(found[0] if found else -1)

    def answer(search: Query) -> Page:
        look("search")
        return page_of(image_urls(host, "open", 3), search)

    watched = replace(
        runtime,
        sources={"shelf": StubSource(answer)},
        downloader=WatchedDownloader(runtime, lambda _: look("fetch")),
        decoder=WatchedDecoder(lambda *_: look("inspect")),
        storage=WatchedStorage(runtime, put=lambda _: look("store")),
    )
    ref, messages = start(watched, sources=["shelf"])
    try:
        drive(watched, messages)
    finally:
        runtime.run(watched.downloader.aclose())
        runtime.run(watched.decoder.aclose())
    assert counted(runtime, ref)[2] == 3
    assert seen == {"search": [0], "fetch": [0] * 3, "inspect": [0] * 3, "store": [0] * 3}


# The decoder's process


def test_meeting_a_quota_during_downloads_leaves_the_decoder_alive(runtime: Runtime, host: HostileServer) -> None:
    def meet(name: str) -> None:
        ref, messages = start(runtime, image_urls(host, name, 40), job={"max_images": 3}, chunk_size=40)
        drive(runtime, messages)
        assert counted(runtime, ref) == (3, 3, 3)

    meet("pid")
    before = runtime.decoder.pid
    for number in range(4):
        meet(f"pid-{number}")
    assert before is not None
    assert runtime.decoder.pid == before


def test_a_decoder_that_is_killed_costs_no_image(runtime: Runtime, host: HostileServer) -> None:
    killed: list[int] = []
    inspected: list[int] = []

    def kill_in_the_middle(decoder: Decoder, _body: bytes) -> None:
        inspected.append(len(inspected))
        if len(inspected) > 6 and not killed and decoder.pid is not None:
            killed.append(decoder.pid)
            # Stopped first, so that it is decoding an image when it is killed.
            os.kill(decoder.pid, signal.SIGSTOP)
            runtime.loop.call_later(0.1, os.kill, decoder.pid, signal.SIGKILL)

    narrow = replace(
        runtime,
        settings=runtime.settings.model_copy(update={"fetch_concurrency": 2}),
        decoder=WatchedDecoder(kill_in_the_middle),
    )
    ref, messages = start(narrow, image_urls(host, "killed", 12))
    try:
        drive(narrow, messages)
    finally:
        runtime.run(narrow.decoder.aclose())
    assert len(killed) == 1
    assert counted(runtime, ref) == (12, 12, 12)
    assert reasons(runtime, ref) == {}


# Messages without effect


def test_a_second_message_about_a_chunk_changes_nothing(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "message", 4), chunk_size=2)
    left = run(runtime, messages)
    before = (counted(runtime, ref), dict(host.hits))
    assert executor.run(runtime, CRAWL, messages[0].chunk_id) == []
    assert (counted(runtime, ref), dict(host.hits)) == before
    drive(runtime, [*left, *messages])
    assert counted(runtime, ref) == (4, 4, 4)


def test_a_message_about_a_running_chunk_changes_nothing(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "running", 1))
    held = ledger.claim(runtime.sessions, first(messages).chunk_id, owner="another")
    assert executor.run(runtime, CRAWL, held.chunk_id) == []
    assert the_chunk(runtime, ref).fence == held.fence


def test_a_message_about_an_unknown_chunk_is_dropped(runtime: Runtime) -> None:
    assert executor.run(runtime, CRAWL, 2**40) == []


def test_a_message_about_a_cancelled_job_is_dropped(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "cancelled", 1))
    submission.cancel(runtime, CRAWL, ref.id)
    assert executor.run(runtime, CRAWL, first(messages).chunk_id) == []
    assert not host.hits["/good/cancelled-0.jpg"]


def test_a_message_about_a_job_that_was_cancelled_by_hand_is_dropped(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "by-hand", 1))
    ledger.execute(
        runtime.sessions, "UPDATE crawl_jobs SET status = 'cancelled', completed_at = now() WHERE id = :id", id=ref.id
    )
    assert executor.run(runtime, CRAWL, first(messages).chunk_id) == []
    assert (the_chunk(runtime, ref).state, the_chunk(runtime, ref).attempt) == (ChunkState.QUEUED, 0)


def test_a_message_that_comes_too_early_is_dropped(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "early", 1))
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.chunks SET available_at = now() + interval '1 h'")
    assert executor.run(runtime, CRAWL, first(messages).chunk_id) == []
    assert the_chunk(runtime, ref).attempt == 0
    ledger.make_due(runtime.sessions, ref)
    drive(runtime, messages)
    assert counted(runtime, ref)[2] == 1

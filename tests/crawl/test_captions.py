"""Captions, labels and other columns of a URL list, from its rows to those of the images, and of what failed."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from doubles import StubSource, drive, image_urls, query, start, urls_of, with_sources
from fakes import hosts
from fakes.hosts import HostileServer

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import candidates, crawl_history
from pixcrawler_worker.db.candidates import Failure
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate, Page

pytestmark = pytest.mark.usefixtures("sound")

_BUSY = b"HTTP/1.1 500 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def begin(runtime: Runtime, rows: Sequence[Any], **options: Any) -> tuple[JobRef, list[ChunkMessage]]:
    """Start a job with a list of URLs, or of objects with what is known of their images."""
    return start(runtime, urls=rows, **options)


def kept(runtime: Runtime, ref: JobRef) -> dict[str, tuple[str, str | None, dict[str, Any] | None]]:
    """Return label, caption and columns of each image, by its URL."""
    found = query(
        runtime,
        "SELECT original_url, label, caption, columns FROM images"
        " JOIN pixcrawler.image_facts ON image_id = images.id WHERE images.crawl_job_id = :id",
        id=ref.id,
    )
    return {url: (label, caption, columns) for url, label, caption, columns in found}


def reasons(runtime: Runtime, ref: JobRef) -> dict[str, int]:
    with runtime.sessions.begin() as session:
        return crawl_history.reasons(session, ref.id)


def failures(runtime: Runtime, ref: JobRef) -> dict[str | None, Failure]:
    with runtime.sessions.begin() as session:
        return {one.url: one for one in candidates.failures(session, ref.id)}


def test_images_have_what_their_rows_say(runtime: Runtime, host: HostileServer) -> None:
    urls = image_urls(host, "said", 4)
    listed = [
        {"url": urls[0], "caption": "A cat\non a mat.", "label": "  Cat ", "columns": {"width": 7, "tags": ["a"]}},
        {"url": urls[1], "caption": " ", "label": "../../etc"},
        {"url": urls[2], "columns": {"n": 0.5, "none": None}},
        urls[3],
    ]
    ref, messages = begin(runtime, listed, job={"keywords": ["pets"]})
    drive(runtime, messages)
    assert kept(runtime, ref) == {
        urls[0]: ("Cat", "A cat\non a mat.", {"width": 7, "tags": ["a"]}),
        urls[1]: ("../../etc", None, None),
        urls[2]: ("pets", None, {"n": 0.5}),
        urls[3]: ("pets", None, None),
    }
    (key,) = query(runtime, "SELECT storage_url FROM images WHERE original_url = :url", url=urls[1])
    assert "/etc-" in key[0]
    assert ".." not in key[0]


def test_text_that_no_database_stores_costs_no_image(runtime: Runtime, host: HostileServer) -> None:
    urls = image_urls(host, "odd", 3)
    listed = [
        {"url": urls[0], "caption": "a\x00\ud800'\"\\\u202e\u05d0", "label": "\x00\u200b", "columns": {"\x00": "\x00"}},
        {"url": urls[1], "caption": "x" * 100_000, "columns": {str(n): "y" * 20_000 for n in range(300)}},
        {"url": urls[2], "caption": "x" * 200_000, "label": "z" * 200},
    ]
    ref, messages = begin(runtime, listed, chunk_size=2)
    drive(runtime, messages)
    found = kept(runtime, ref)
    assert found[urls[0]] == ("cat", "a?'\"\\\u202e\u05d0", {"": ""})
    assert found[urls[1]][1] == "x" * 100_000
    assert len(json.dumps(found[urls[1]][2])) <= 100_000
    label, caption, _ = found[urls[2]]
    assert (len(label), len(caption or "")) == (200, 120_000)


def test_of_rows_with_one_url_the_first_counts(runtime: Runtime, host: HostileServer) -> None:
    (url,) = image_urls(host, "again", 1)
    listed = [{"url": url, "caption": caption, "label": caption} for caption in ("first", "second", "third")]
    ref, messages = begin(runtime, listed, chunk_size=2)
    drive(runtime, messages)
    assert kept(runtime, ref) == {url: ("first", "first", None)}
    assert reasons(runtime, ref) == {"duplicate_url": 2}


def test_of_urls_with_the_same_bytes_the_one_that_is_stored_first_counts(runtime: Runtime, host: HostileServer) -> None:
    urls = [host.url(f"/fault/duplicate/{number}") for number in range(3)]
    ref, messages = begin(runtime, [{"url": url, "caption": url} for url in urls], chunk_size=1)
    drive(runtime, messages)
    assert kept(runtime, ref) == {urls[0]: ("cat", urls[0], None)}
    lost = failures(runtime, ref)
    assert {url: one.list_details for url, one in lost.items()} == {url: {"caption": url} for url in urls[1:]}


def test_what_failed_keeps_its_row_and_has_it_after_a_retry(runtime: Runtime) -> None:
    responses = {"/good/late.jpg": _BUSY}
    with hosts.serving(responses=responses) as server:
        late, gone = server.url("/good/late.jpg"), server.url("/fault/404/1")
        row = {"caption": "late 'but' here\n", "columns": {"id": 7, "nested": {"a": [1]}}}
        plain = server.url("/fault/404/2")
        listed = [{"url": late, "label": "Late", **row}, {"url": gone, "caption": "gone"}, plain]
        ref, messages = begin(runtime, listed)
        drive(runtime, messages)
        assert kept(runtime, ref) == {}
        failed = failures(runtime, ref)
        assert (failed[late].label, failed[late].list_details) == ("Late", row)
        assert (failed[gone].label, failed[gone].list_details) == ("cat", {"caption": "gone"})
        assert failed[plain].list_details is None
        del responses["/good/late.jpg"]
        drive(runtime, submission.retry(runtime, CRAWL, ref.id))
    assert kept(runtime, ref) == {late: ("Late", row["caption"], row["columns"])}
    assert set(failures(runtime, ref)) == {gone, plain}


def test_a_source_may_offer_captions_and_its_mistakes_are_its_candidates_own(
    runtime: Runtime, host: HostileServer
) -> None:
    urls = image_urls(host, "offered", 6)
    odd: list[Any] = [{"caption": 7}, {"label": ["cat"]}, {"columns": [1]}, {"caption": b"A cat."}, {"label": b"cat"}]
    offered = [Candidate(url=urls[0], caption="A cat.", label="kitten", columns={"score": 1})]
    offered += [Candidate(url=url, **values) for url, values in zip(urls[1:], odd, strict=True)]
    source = StubSource(lambda _: Page(tuple(offered), more=False))
    ref, messages = start(with_sources(runtime, stub=source), sources=["stub"])
    drive(with_sources(runtime, stub=source), messages)
    assert kept(runtime, ref) == {urls[0]: ("kitten", "A cat.", {"score": 1})}
    assert reasons(runtime, ref) == {"internal_error": 5}


@pytest.mark.parametrize("name", ["page_url", "title", "author", "license", "license_url", "attribution"])
@pytest.mark.parametrize("reproducible", [False, True])
def test_a_credit_that_is_no_text_costs_only_its_candidate(
    runtime: Runtime, host: HostileServer, name: str, *, reproducible: bool
) -> None:
    urls = image_urls(host, f"credit-{name}-{reproducible}", 4)
    odd: list[Any] = [["a", "b"], {"en": "a"}, b"a", 7]
    offered = [Candidate(url=url, credit=Credit(**{name: value})) for url, value in zip(urls, odd, strict=True)]
    # The same files, which arrive first.
    offered += [Candidate(url=url.removesuffix(".jpg"), credit=Credit(title="a")) for url in urls[:2]]
    there = with_sources(runtime, stub=StubSource(lambda _: Page(tuple(offered), more=False)))
    ref, messages = start(there, sources=["stub"], reproducible=reproducible)
    drive(there, messages)
    assert urls_of(runtime, ref) == {one.url for one in offered[4:]}
    assert reasons(runtime, ref) == {"internal_error": 4}


def test_rows_are_read_in_pages(runtime: Runtime, host: HostileServer) -> None:
    urls = image_urls(host, "paged", 5)
    listed = [{"url": url, "caption": f"caption {at}", "columns": {"at": at}} for at, url in enumerate(urls)]
    ref, messages = begin(runtime, listed, chunk_size=2)
    drive(runtime, messages)
    assert kept(runtime, ref) == {url: ("cat", f"caption {at}", {"at": at}) for at, url in enumerate(urls)}

"""Jobs that leave out what other jobs of their project have: by URL before a request, by bytes after it."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import ledger
import pytest
from doubles import (
    WatchedStorage,
    counted,
    drive,
    first,
    image_urls,
    query,
    start,
    stub_source,
    urls_of,
    with_sources,
)
from factories import make_image, make_job, make_project
from fakes.hosts import HostileServer
from sqlalchemy import text

from pixcrawler_worker.crawl import accounting
from pixcrawler_worker.db import crawl_history, images, job_views, known_images
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.runtime import Runtime, connect

pytestmark = pytest.mark.usefixtures("sound")

WAITS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def project(runtime: Runtime) -> int:
    return make_project(runtime.sessions)


def crawl(runtime: Runtime, urls: Sequence[str], *, project: int, wanted: int = 100, **options: Any) -> JobRef:
    """Run a job of a project to its end."""
    ref, messages = start(runtime, urls, job={"project_id": project, "max_images": wanted}, **options)
    drive(runtime, messages)
    return ref


def reasons(runtime: Runtime, ref: JobRef) -> dict[str, int]:
    with runtime.sessions.begin() as opened:
        return crawl_history.reasons(opened, ref.id)


def hits(host: HostileServer, urls: Sequence[str]) -> list[int]:
    return [host.hits[url.removeprefix(host.base)] for url in urls]


def test_a_known_url_is_not_requested_and_known_bytes_are_not_stored(
    runtime: Runtime, host: HostileServer, project: int
) -> None:
    known, new = image_urls(host, "known", 3), image_urls(host, "unknown", 2)
    crawl(runtime, known, project=project)
    # Another URL of the same file.
    same = known[2].removesuffix(".jpg")
    ref = crawl(runtime, [*known[:2], same, *new], project=project, skip_known=True)
    assert urls_of(runtime, ref) == set(new)
    assert hits(host, known) == [1, 1, 1]
    assert hits(host, [same]) == [1]
    assert reasons(runtime, ref) == {"known_url": 2, "known_bytes": 1}
    assert counted(runtime, ref) == (5, 3, 2)
    with runtime.sessions.begin() as opened:
        job = job_views.job(opened, CrawlView, ref.id)
        assert job is not None
        found = accounting.read(opened, job, images=2)
    assert (found.found, found.valid, found.rejected, found.again, found.repeated) == (5, 2, 3, 0, 0)


def test_without_the_option_or_in_another_project_nothing_is_known(
    runtime: Runtime, host: HostileServer, project: int
) -> None:
    urls = image_urls(host, "of-all", 3)
    crawl(runtime, urls, project=project)
    for other, options in ((project, {}), (make_project(runtime.sessions), {"skip_known": True})):
        ref = crawl(runtime, urls, project=other, **options)
        assert urls_of(runtime, ref) == set(urls)
        assert reasons(runtime, ref) == {}
    assert hits(host, urls) == [3, 3, 3]


def test_what_the_job_has_itself_is_no_other_job(runtime: Runtime, host: HostileServer, project: int) -> None:
    urls = image_urls(host, "own", 2)
    ref = crawl(runtime, [*urls, urls[0], urls[1].removesuffix(".jpg")], project=project, skip_known=True)
    assert counted(runtime, ref) == (3, 3, 2)
    assert reasons(runtime, ref) == {"duplicate_url": 1, "duplicate_bytes": 1}


def test_images_that_were_deleted_are_not_known_any_more(runtime: Runtime, host: HostileServer, project: int) -> None:
    urls = image_urls(host, "deleted", 2)
    before = crawl(runtime, urls, project=project)
    ledger.execute(runtime.sessions, "DELETE FROM images WHERE original_url = :url", url=urls[0])
    ref = crawl(runtime, urls, project=project, skip_known=True)
    assert urls_of(runtime, ref) == {urls[0]}
    assert urls_of(runtime, before) == {urls[1]}


def test_what_another_job_gets_meanwhile_is_left_out_at_the_end(
    runtime: Runtime, host: HostileServer, project: int
) -> None:
    """The other job begins and ends while the first one stores an image that both have downloaded."""
    (url,) = image_urls(host, "meanwhile", 1)
    ref, messages = start(runtime, [url], job={"project_id": project}, skip_known=True)
    same = [url.removesuffix(".jpg")]
    other, others_messages = start(runtime, same, job={"project_id": project}, skip_known=True)

    def run_other() -> None:
        with closing(connect(runtime.settings)) as own:
            drive(own, others_messages)

    def before_put(_: str) -> None:
        thread = threading.Thread(target=run_other)
        thread.start()
        thread.join()

    drive(replace(runtime, storage=WatchedStorage(runtime, put=before_put)), messages)
    assert urls_of(runtime, other) == set(same)
    assert urls_of(runtime, ref) == set()
    assert reasons(runtime, ref) == {"known_bytes": 1}
    assert counted(runtime, ref) == (1, 1, 0)


def test_a_result_waits_for_another_job_that_writes_images(runtime: Runtime, host: HostileServer, project: int) -> None:
    (url,) = image_urls(host, "at-once", 1)
    ref, messages = start(runtime, [url], job={"project_id": project}, skip_known=True)
    other = make_job(runtime.sessions, project_id=project)

    def run_first() -> None:
        with closing(connect(runtime.settings)) as own:
            drive(own, messages)

    thread = threading.Thread(target=run_first)
    with runtime.sessions.begin() as session:
        known_images.lock(session, other)
        thread.start()
        until = time.monotonic() + 30
        while not session.scalar(text(WAITS)) and time.monotonic() < until:
            time.sleep(0.01)
        images.insert_new(session, other, [make_image("at-once", url=url, url_hash=url_hash(url))])
    thread.join()
    assert reasons(runtime, ref) == {"known_url": 1}
    assert counted(runtime, ref) == (1, 1, 0)
    ledger.execute(runtime.sessions, "DELETE FROM images")  # its file was never there


def test_pages_of_known_images_do_not_use_up_the_rounds(runtime: Runtime, host: HostileServer, project: int) -> None:
    urls = image_urls(host, "deep", 130)
    source = stub_source(*urls)
    there = with_sources(runtime, museum=source)
    rest: dict[str, Any] = {"project": project, "sources": ["museum"], "chunk_size": 5}
    crawl(there, [], wanted=120, **rest)
    ref = crawl(there, [], wanted=10, skip_known=True, max_rounds=2, **rest)
    assert urls_of(runtime, ref) == set(urls[120:])
    assert reasons(runtime, ref) == {"known_url": 120}
    assert hits(host, urls[:120]) == [1] * 120
    # A source that has nothing else ends the job.
    again = crawl(there, [], wanted=10, skip_known=True, max_rounds=2, **rest)
    assert reasons(runtime, again) == {"known_url": 130}
    assert first(query(runtime, "SELECT status FROM crawl_jobs WHERE id = :id", id=again.id)) == ("completed",)

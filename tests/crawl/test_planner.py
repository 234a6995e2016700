"""Starting, ending, cancelling and retrying a job, on a real database."""

from dataclasses import replace
from functools import partial
from typing import Any

import ledger
import pytest
from doubles import (
    StubSource,
    actions,
    drive,
    first,
    image_urls,
    last_details,
    log_of,
    make_job,
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
from ledger import at_once

from pixcrawler_worker.crawl import options, planner
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import crawl_history
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.errors import PermanentError, UnknownJobError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Page, Query

MISSING = JobRef(CRAWL_JOBS, 2**30)


pytestmark = pytest.mark.usefixtures("sound")


# Starting


def test_a_pending_job_is_planned_with_the_options_of_its_message(runtime: Runtime) -> None:
    ref = make_job(runtime, max_images=7)
    listed = [f"https://example.org/{number}.jpg" for number in range(25)]
    messages = submission.start(runtime, CRAWL, ref.id, {"urls": listed, "chunk_size": 5})
    assert planned_chunks(runtime, ref) == [("urls", "cat", 0, 5), ("urls", "cat", 1, 2)]
    found = ledger.chunks_of(runtime.sessions, ref)
    assert [(message.chunk_id, message.task_id) for message in messages] == [
        (each.id, str(each.task_id)) for each in found
    ]
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.total_chunks, job.progress) == (JobStatus.RUNNING, 2, 0)
    assert job.task_ids == [message.task_id for message in messages]
    assert job.started_at is not None
    assert actions(runtime, ref) == ["started"]
    assert last_details(runtime, ref) == {"chunks": 2, "max_images": 7, "sources": ["urls"]}


def test_only_as_many_chunks_are_dispatched_as_the_window_allows(runtime: Runtime) -> None:
    narrow = replace(runtime, settings=runtime.settings.model_copy(update={"dispatch_window": 3}))
    listed = [f"https://example.org/{number}.jpg" for number in range(10)]
    ref, messages = start(narrow, listed, chunk_size=1)
    assert [message.chunk_id for message in messages] == ledger.ids_of(runtime.sessions, ref)[:3]


def test_starting_twice_or_late_plans_once(runtime: Runtime, host: HostileServer) -> None:
    listed = image_urls(host, "again", 2)
    ref, messages = start(runtime, listed)
    assert submission.start(runtime, CRAWL, ref.id, {"urls": listed}) == []
    drive(runtime, messages)
    assert submission.start(runtime, CRAWL, ref.id, {"urls": listed}) == []
    assert len(ledger.ids_of(runtime.sessions, ref)) == 1
    assert actions(runtime, ref) == ["started", "completed"]


def test_starting_from_many_workers_at_once_plans_once(runtime: Runtime) -> None:
    ref = make_job(runtime, max_images=20)
    listed = [f"https://example.org/{number}.jpg" for number in range(20)]
    begin = partial(submission.start, runtime, CRAWL, ref.id, {"urls": listed, "chunk_size": 10})
    messages = at_once(*[begin] * 8)
    assert sorted(len(found) for found in messages) == [0] * 7 + [2]
    assert len(ledger.ids_of(runtime.sessions, ref)) == 2
    assert actions(runtime, ref) == ["started"]


@pytest.mark.parametrize("ended", list(JobStatus)[1:])
def test_a_job_that_is_not_pending_is_left_as_it_is(runtime: Runtime, ended: JobStatus) -> None:
    ref = make_job(runtime)
    statement = "UPDATE crawl_jobs SET status = :s, progress = :p, started_at = now(), completed_at = :e WHERE id = :id"
    over = None if ended is JobStatus.RUNNING else "now"
    ledger.execute(runtime.sessions, statement, s=ended, p=100 * (ended == "completed"), e=over, id=ref.id)
    before = query(runtime, "SELECT * FROM crawl_jobs ORDER BY id")
    for given in ({"urls": ["https://example.org/a.jpg"]}, {}, {"color": "red"}):
        assert submission.start(runtime, CRAWL, ref.id, given) == []
    assert query(runtime, "SELECT * FROM crawl_jobs ORDER BY id") == before
    # What a job that ended before it was planned was asked for is kept for a retry.
    kept = query(runtime, "SELECT urls FROM pixcrawler.crawl_urls")
    assert kept == ([] if ended is JobStatus.RUNNING else [(["https://example.org/a.jpg"],)])
    assert actions(runtime, ref) == []


def test_an_unknown_job_is_an_error(runtime: Runtime) -> None:
    with pytest.raises(UnknownJobError, match=f"there is no crawl job {MISSING.id}"):
        submission.start(runtime, CRAWL, MISSING.id, {})
    with pytest.raises(UnknownJobError):
        submission.retry(runtime, CRAWL, MISSING.id)
    with pytest.raises(UnknownJobError):
        submission.cancel(runtime, CRAWL, MISSING.id)
    assert submission.conclude(runtime, CRAWL, MISSING.id) == []


def test_options_in_the_message_replace_recorded_ones_until_the_job_is_planned(runtime: Runtime) -> None:
    ref = make_job(runtime, max_images=4)
    recorded = options.parse({"urls": [f"https://example.org/recorded-{n}.jpg" for n in range(9)], "chunk_size": 3})
    with runtime.sessions.begin() as session:
        planner.record_options(runtime, session, ref.id, recorded)
    submission.start(runtime, CRAWL, ref.id, {"urls": ["https://example.org/new.jpg"], "chunk_size": 2})
    assert planned_chunks(runtime, ref) == [("urls", "cat", 0, 2)]
    assert query(runtime, "SELECT urls FROM pixcrawler.crawl_urls") == [(["https://example.org/new.jpg"],)]
    submission.start(runtime, CRAWL, ref.id, {"urls": ["https://example.org/late.jpg"]})
    assert query(runtime, "SELECT urls FROM pixcrawler.crawl_urls") == [(["https://example.org/new.jpg"],)]


def test_a_message_without_options_starts_with_the_recorded_ones(runtime: Runtime) -> None:
    ref = make_job(runtime, max_images=4)
    recorded = options.parse({"urls": [f"https://example.org/recorded-{n}.jpg" for n in range(9)], "chunk_size": 3})
    with runtime.sessions.begin() as session:
        planner.record_options(runtime, session, ref.id, recorded)
    submission.start(runtime, CRAWL, ref.id, {})
    assert planned_chunks(runtime, ref) == [("urls", "cat", 0, 3), ("urls", "cat", 1, 1)]


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        ({"max_images": 0}, {"urls": ["u"]}, "max_images must be above 0, not 0"),
        ({"keywords": []}, {"urls": ["u"]}, "keywords is empty"),
        ({"keywords": {"cat": 1}}, {"urls": ["u"]}, "keywords must be an array"),
        ({"keywords": ["cat", "dog"]}, {"urls": ["u"]}, "a URL list has one label, but the job has 2 keywords"),
        ({}, {"urls": "u"}, 'options.urls: expected an array, got "u"'),
        ({}, ["urls"], "options: expected an object, got an array"),
        ({}, {"color": "red"}, "options.color: unknown option, known are "),
        ({}, {"sources": ["urls"]}, "source 'urls' needs a list"),
        ({}, {"sources": ["galery"]}, "there is no source 'galery'; did you mean 'gallery'?"),
        ({}, {"licenses": ["cc-buy"]}, "there is no license 'cc-buy'; did you mean 'cc-by'?"),
        ({}, {"sources": ["closed"]}, "source 'closed' cannot be used: set a key"),
        ({}, {}, "no source is configured"),
    ],
)
def test_a_job_that_cannot_be_planned_fails_with_the_reason_in_its_activity_log(
    runtime: Runtime, values: dict[str, Any], given: object, message: str
) -> None:
    closed = StubSource(lambda _: Page((), more=False), lacks="set a key")
    ref = make_job(runtime, **values)
    there = with_sources(runtime, commons=closed, gallery=closed, openverse=closed, closed=closed)
    assert submission.start(there, CRAWL, ref.id, given) == []
    assert status(runtime, ref) is JobStatus.FAILED
    entry = first(log_of(runtime, ref))
    assert (entry.action, entry.resource_type, entry.resource_id) == ("crawl_job.failed", "crawl_job", str(ref.id))
    assert message in str((entry.metadata_ or {})["reason"])
    owner = "SELECT user_id FROM projects JOIN crawl_jobs ON project_id = projects.id WHERE crawl_jobs.id = :id"
    assert query(runtime, owner, id=ref.id) == [(entry.user_id,)]
    assert ledger.ids_of(runtime.sessions, ref) == []


def test_without_options_every_usable_source_but_the_list_is_searched(runtime: Runtime, host: HostileServer) -> None:
    closed = stub_source()
    closed.lacks = "set its key"
    there = with_sources(
        runtime,
        commons=stub_source(*image_urls(host, "usable-c", 2)),
        gallery=stub_source(*image_urls(host, "usable-g", 2)),
        openverse=closed,
    )
    ref, messages = start(there)
    drive(there, messages)
    assert {part[0] for part in planned_chunks(runtime, ref)} == {"commons", "gallery"}
    assert len(urls_of(runtime, ref)) == 4


# Ending


def test_the_end_of_a_job_is_recorded_with_counts_and_reasons(runtime: Runtime, host: HostileServer) -> None:
    broken = [
        host.url(f"/fault/{kind}/recorded-{n}") for kind, count in (("404", 3), ("html", 2)) for n in range(count)
    ]
    ref, messages = start(runtime, [*image_urls(host, "recorded", 4), *broken], job={"max_images": 50}, chunk_size=5)
    drive(runtime, messages)
    assert actions(runtime, ref) == ["started", "completed"]
    assert last_details(runtime, ref) == {
        "images": 4,
        "wanted": 50,
        "chunks": {"completed": 2, "failed": 0},
        "reasons": {"not_found": 3, "not_an_image": 2},
        "errors": {},
    }
    # JSON objects keep no order in the database; reading them back does.
    with runtime.sessions.begin() as session:
        assert list(crawl_history.reasons(session, ref.id).items()) == [("not_found", 3), ("not_an_image", 2)]


def test_a_job_whose_chunks_all_fail_fails_and_says_why(runtime: Runtime) -> None:
    def failing(_: Query) -> Page:
        raise PermanentError("the key is wrong")

    there = with_sources(runtime, shelf=StubSource(failing))
    ref, messages = start(there, sources=["shelf"], job={"keywords": ["cat", "dog"], "max_images": 10})
    drive(there, messages)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.failed_chunks, job.total_chunks) == (JobStatus.FAILED, 2, 2)
    assert actions(runtime, ref) == ["started", "failed"]
    assert last_details(runtime, ref)["errors"] == {"the key is wrong": 2}


# Cancelling


def test_cancelling_twice_at_once_and_late_is_recorded_once(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "cancel", 6), chunk_size=2)
    messages = run(runtime, messages)
    ledger.claim(runtime.sessions, messages[0].chunk_id)
    at_once(*[partial(submission.cancel, runtime, CRAWL, ref.id)] * 4)
    submission.cancel(runtime, CRAWL, ref.id)
    assert ledger.states_of(runtime.sessions, ref) == [ChunkState.COMPLETED, *[ChunkState.CANCELLED] * 2]
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.status, job.active_chunks, job.valid_images) == (JobStatus.CANCELLED, 0, 2)
    assert actions(runtime, ref) == ["started", "cancelled"]
    drive(runtime, messages)
    assert submission.conclude(runtime, CRAWL, ref.id) == []
    assert len(urls_of(runtime, ref)) == 2


def test_a_job_that_has_ended_cannot_be_cancelled(runtime: Runtime, host: HostileServer) -> None:
    ref, messages = start(runtime, image_urls(host, "over", 1))
    drive(runtime, messages)
    submission.cancel(runtime, CRAWL, ref.id)
    assert status(runtime, ref) is JobStatus.COMPLETED
    assert actions(runtime, ref) == ["started", "completed"]


def test_a_pending_job_that_is_cancelled_is_never_planned(runtime: Runtime) -> None:
    ref = make_job(runtime)
    submission.cancel(runtime, CRAWL, ref.id)
    assert submission.start(runtime, CRAWL, ref.id, {"urls": ["https://example.org/a.jpg"]}) == []
    assert (status(runtime, ref), actions(runtime, ref)) == (JobStatus.CANCELLED, ["cancelled"])


# Retrying


def test_a_cancelled_job_that_is_retried_brings_the_rest(runtime: Runtime, host: HostileServer) -> None:
    listed = image_urls(host, "rest", 6)
    ref, messages = start(runtime, listed, chunk_size=2)
    run(runtime, messages)
    submission.cancel(runtime, CRAWL, ref.id)
    again = submission.retry(runtime, CRAWL, ref.id)
    assert len(again) == 2
    assert not {message.task_id for message in again} & {message.task_id for message in messages}
    assert submission.retry(runtime, CRAWL, ref.id) == []
    drive(runtime, again)
    assert urls_of(runtime, ref) == set(listed)
    assert all(host.hits[f"/good/rest-{number}.jpg"] == 1 for number in range(6))
    assert actions(runtime, ref) == ["started", "cancelled", "retried", "completed"]


def test_a_job_that_was_cancelled_by_hand_can_be_retried(runtime: Runtime, host: HostileServer) -> None:
    listed = image_urls(host, "retried-by-hand", 2)
    ref, _ = start(runtime, listed)
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET status = 'cancelled' WHERE id = :id", id=ref.id)
    drive(runtime, submission.retry(runtime, CRAWL, ref.id))
    assert (status(runtime, ref), urls_of(runtime, ref)) == (JobStatus.COMPLETED, set(listed))


def test_a_job_that_was_cancelled_when_all_was_done_is_completed_by_a_retry(
    runtime: Runtime, host: HostileServer
) -> None:
    ref, messages = start(runtime, image_urls(host, "all-done", 2))
    held = ledger.claim(runtime.sessions, first(messages).chunk_id)
    with runtime.sessions.begin() as session:
        chunks.finish(session, held, result={"offered": 0, "stored": 0, "left": [], "more": False}, gains={})
    submission.cancel(runtime, CRAWL, ref.id)
    assert submission.retry(runtime, CRAWL, ref.id) == []
    assert status(runtime, ref) is JobStatus.COMPLETED


def test_retrying_from_many_workers_at_once_queues_once(runtime: Runtime, host: HostileServer) -> None:
    ref, _ = start(runtime, image_urls(host, "many", 4), chunk_size=2)
    submission.cancel(runtime, CRAWL, ref.id)
    found = at_once(*[partial(submission.retry, runtime, CRAWL, ref.id)] * 4)
    assert sorted(map(len, found)) == [0, 0, 0, 2]
    drive(runtime, next(filter(None, found)))
    assert (status(runtime, ref), len(urls_of(runtime, ref))) == (JobStatus.COMPLETED, 4)


def test_a_failed_job_that_is_retried_runs_its_failed_chunks_only(runtime: Runtime, host: HostileServer) -> None:
    found = {"cat": image_urls(host, "failed-cat", 2)}

    def answer(search: Query) -> Page:
        if search.text not in found:
            raise PermanentError("not yet")
        return page_of(found[search.text], search)

    source = StubSource(answer)
    there = with_sources(runtime, shelf=source)
    ref, messages = start(there, sources=["shelf"], job={"keywords": ["cat", "dog"], "max_images": 4}, max_rounds=1)
    drive(there, messages)
    assert (status(runtime, ref), len(urls_of(runtime, ref))) == (JobStatus.COMPLETED, 2)
    found["dog"] = image_urls(host, "failed-dog", 2)
    del source.searches[:]
    drive(there, submission.retry(there, CRAWL, ref.id))
    assert [search.text for search in source.searches] == ["dog"]
    assert (status(runtime, ref), len(urls_of(runtime, ref))) == (JobStatus.COMPLETED, 4)


@pytest.mark.parametrize("state", ["pending", "running", "completed"])
def test_where_there_is_nothing_to_retry_nothing_happens(runtime: Runtime, host: HostileServer, state: str) -> None:
    ref, messages = start(runtime, image_urls(host, f"nothing-{state}", 1))
    if state == "completed":
        drive(runtime, messages)
    elif state == "pending":
        ref = make_job(runtime)
    before = (status(runtime, ref), actions(runtime, ref), planned_chunks(runtime, ref))
    assert submission.retry(runtime, CRAWL, ref.id) == []
    assert (status(runtime, ref), actions(runtime, ref), planned_chunks(runtime, ref)) == before


@pytest.mark.parametrize("recorded", ["by the command line", "by the message"])
def test_a_job_that_failed_before_it_was_planned_is_planned_again_with_its_corrected_row(
    runtime: Runtime, host: HostileServer, recorded: str
) -> None:
    listed = image_urls(host, recorded.replace(" ", "-"), 3)
    ref = make_job(runtime, keywords=[])
    given = {"urls": listed, "min_width": 40}
    if recorded == "by the command line":
        with runtime.sessions.begin() as session:
            planner.record_options(runtime, session, ref.id, options.parse(given))
        given = {}
    submission.start(runtime, CRAWL, ref.id, given)
    assert status(runtime, ref) is JobStatus.FAILED
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET keywords = '[\"owl\"]' WHERE id = :id", id=ref.id)
    drive(runtime, submission.retry(runtime, CRAWL, ref.id))
    assert (status(runtime, ref), urls_of(runtime, ref)) == (JobStatus.COMPLETED, set(listed))
    assert planned_chunks(runtime, ref) == [("urls", "owl", 0, 100)]
    assert actions(runtime, ref) == ["failed", "started", "completed"]
    assert query(runtime, "SELECT options->>'min_width' FROM pixcrawler.crawl_plans") == [("40",)]

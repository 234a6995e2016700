"""Options that are lost by no start: of messages that come after it, and of rows that have them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import ledger
import pytest
from doubles import actions, last_details, make_job, query, status
from ledger import at_once
from structlog.testing import capture_logs

from pixcrawler_worker.cli import job_status
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.lifecycle import ChunkState, JobStatus
from pixcrawler_worker.jobs import submission, sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime

CC0 = {"licenses": ["cc0"]}
NOT_REQUESTED = "the job was started without options, and a message with others came later (licenses)"


@pytest.fixture(autouse=True)
def invariants(runtime: Runtime) -> Iterator[None]:
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs")
    yield
    ledger.check(
        runtime.sessions, *(CRAWL.table.ref(job_id) for (job_id,) in query(runtime, "SELECT id FROM crawl_jobs"))
    )


@pytest.fixture
def eager(runtime: Runtime) -> Runtime:
    """A worker with `PIXCRAWLER_START_PENDING`."""
    return replace(runtime, settings=runtime.settings.model_copy(update={"start_pending": True}))


def sweep(eager: Runtime) -> sweeper.Swept:
    """Sweep when all messages count as lost."""
    ledger.execute(eager.sessions, "UPDATE crawl_jobs SET created_at = created_at - interval '1 h'")
    ledger.execute(eager.sessions, "UPDATE pixcrawler.crawl_plans SET requested_at = requested_at - interval '1 h'")
    return sweeper.sweep(eager, JOB_KINDS.values())


def recorded(runtime: Runtime, ref: JobRef) -> Any:
    ((options,),) = query(runtime, "SELECT options FROM pixcrawler.crawl_plans WHERE crawl_job_id = :id", id=ref.id)
    return options


def complete(runtime: Runtime, ref: JobRef) -> None:
    """Run a job to its end, without an image."""
    result = {"offered": 0, "stored": 0, "left": [], "more": False, "reasons": {}}
    for chunk_id in ledger.ids_of(runtime.sessions, ref):
        held = ledger.claim(runtime.sessions, chunk_id)
        with runtime.sessions.begin() as session:
            chunks.finish(session, held, result=result, gains={})
    assert submission.conclude(runtime, CRAWL, ref.id) == []
    assert status(runtime, ref) is JobStatus.COMPLETED


@pytest.mark.parametrize("ended", [False, True], ids=["running", "completed"])
@pytest.mark.parametrize("started_by", ["a sweep", "a sweep of a request", "a message"])
def test_a_job_that_was_started_without_options_fails_when_its_message_has_some(
    runtime: Runtime, eager: Runtime, started_by: str, *, ended: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = make_job(runtime)
    if started_by == "a message":
        submission.start(runtime, CRAWL, ref.id, {})
    else:
        if started_by == "a sweep of a request":
            query(runtime, "SELECT pixcrawler.request_crawl(:id)", id=ref.id)
        assert sweep(eager).started == 1
    if ended:
        complete(runtime, ref)
    with capture_logs() as logged:
        at_once(*[partial(submission.start, runtime, CRAWL, ref.id, CC0)] * 4)
        assert submission.start(runtime, CRAWL, ref.id, CC0) == [], "again, and late"
    assert status(runtime, ref) is JobStatus.FAILED
    assert actions(runtime, ref) == ["started", *(["completed"] if ended else []), "options_ignored", "failed"]
    assert last_details(runtime, ref)["reason"].startswith(NOT_REQUESTED)
    assert [entry["event"] for entry in logged] == ["options ignored", "job ended"]
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.progress < 100, job.completed_at is not None, job.active_chunks) == (True, True, 0)
    assert not {ChunkState.QUEUED, ChunkState.RUNNING} & set(ledger.states_of(runtime.sessions, ref))
    capsys.readouterr()
    job_status.print_table(runtime.sessions, ref, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["status"] == "failed"
    assert shown["activity"][-1]["reason"].startswith(NOT_REQUESTED)
    # What it has brought does not become what was requested by another try.
    assert at_once(*[partial(submission.retry, runtime, CRAWL, ref.id)] * 3) == [[]] * 3
    assert status(runtime, ref) is JobStatus.FAILED
    assert actions(runtime, ref)[-1] == "retry_rejected"
    assert "insert a new job" in last_details(runtime, ref)["reason"]
    assert sweep(eager).idle


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"urls": ["https://example.org/1.jpg"]}, "(urls)"),
        ({"min_width": 300, "formats": ["png"]}, "(formats, min_width)"),
        ({"respect_robots": False}, "(respect_robots)"),
        ({"licences": ["cc0"]}, "(options.licences: unknown option, did you mean 'licenses'?)"),
        ({"licenses": ["a\x00b\ud800"]}, "(options.licenses[0]: "),
        (["cc0"], "(options: expected an object, got an array)"),
    ],
)
def test_whatever_the_message_has_is_named(runtime: Runtime, eager: Runtime, options: Any, reason: str) -> None:
    ref = make_job(runtime)
    sweep(eager)
    submission.start(runtime, CRAWL, ref.id, options)
    assert status(runtime, ref) is JobStatus.FAILED
    assert reason in last_details(runtime, ref)["reason"]


@pytest.mark.parametrize("options", [None, {}, {"min_width": 32}, {"licenses": None, "max_rounds": 5}], ids=repr)
def test_a_late_message_that_requests_what_was_started_is_harmless(
    runtime: Runtime, eager: Runtime, options: Mapping[str, Any] | None
) -> None:
    ref = make_job(runtime)
    sweep(eager)
    with capture_logs() as logged:
        assert submission.start(runtime, CRAWL, ref.id, options) == []
    assert (status(runtime, ref), actions(runtime, ref), logged) == (JobStatus.RUNNING, ["started"], [])
    complete(runtime, ref)


def test_a_late_message_does_not_change_what_ended_otherwise(runtime: Runtime, eager: Runtime) -> None:
    ref = make_job(runtime)
    sweep(eager)
    submission.cancel(runtime, CRAWL, ref.id)
    submission.start(runtime, CRAWL, ref.id, CC0)
    assert status(runtime, ref) is JobStatus.CANCELLED
    assert actions(runtime, ref) == ["started", "cancelled", "options_ignored"]


def test_message_and_sweep_at_once_lose_no_option(runtime: Runtime, eager: Runtime) -> None:
    outcomes = set()
    for _ in range(12):
        ref = make_job(runtime)
        message = partial(submission.start, runtime, CRAWL, ref.id, CC0)
        found = at_once(message, partial(sweep, eager), message)
        planned = [one for one in found if isinstance(one, list) and one]
        outcome = status(runtime, ref)
        if outcome is JobStatus.RUNNING:
            assert recorded(runtime, ref)["licenses"] == ["cc0"]
            assert actions(runtime, ref) == ["started"]
            assert len(planned) == 1
        else:
            assert outcome is JobStatus.FAILED
            assert actions(runtime, ref) == ["started", "options_ignored", "failed"]
            assert last_details(runtime, ref)["reason"].startswith(NOT_REQUESTED)
        outcomes.add(outcome)
        ledger.check(runtime.sessions, ref)
        submission.cancel(runtime, CRAWL, ref.id)
    assert outcomes


def test_a_message_against_the_end_of_the_job_and_its_retry(runtime: Runtime, eager: Runtime) -> None:
    for _ in range(6):
        ref = make_job(runtime)
        sweep(eager)
        submission.cancel(runtime, CRAWL, make_job(runtime).id)
        last, *others = reversed(ledger.ids_of(runtime.sessions, ref))
        result = {"offered": 0, "stored": 0, "left": [], "more": False, "reasons": {}}
        for chunk_id in others:
            held = ledger.claim(runtime.sessions, chunk_id)
            with runtime.sessions.begin() as session:
                chunks.finish(session, held, result=result, gains={})
        held = ledger.claim(runtime.sessions, last)
        with runtime.sessions.begin() as session:
            chunks.fail(session, held, error="no")
        at_once(
            partial(submission.conclude, runtime, CRAWL, ref.id),
            partial(submission.start, runtime, CRAWL, ref.id, CC0),
            partial(submission.retry, runtime, CRAWL, ref.id),
            partial(submission.start, runtime, CRAWL, ref.id, CC0),
        )
        assert status(runtime, ref) is JobStatus.FAILED
        assert submission.retry(runtime, CRAWL, ref.id) == []
        assert status(runtime, ref) is JobStatus.FAILED
        ledger.check(runtime.sessions, ref)


def with_options(options: object) -> dict[str, Any]:
    return {"keywords": ["cat"], "options": options}


@pytest.mark.parametrize("options", [None, {}, CC0, {"licenses": ["CC0"]}], ids=repr)
def test_a_row_brings_its_options_whatever_starts_it(
    runtime: Runtime, eager: Runtime, options: Mapping[str, Any] | None
) -> None:
    swept, sent, requested = (make_job(runtime, keywords=with_options(CC0)) for _ in range(3))
    submission.start(runtime, CRAWL, sent.id, options)
    query(
        runtime,
        "SELECT pixcrawler.request_crawl(:id, CAST(:options AS jsonb))",
        id=requested.id,
        options=json.dumps(options),
    )
    assert sweep(eager).started == 2
    for ref in (swept, sent, requested):
        assert recorded(runtime, ref) == CC0 | {"chunk_size": 100}
        assert submission.start(runtime, CRAWL, ref.id, options) == []
        assert (status(runtime, ref), actions(runtime, ref)) == (JobStatus.RUNNING, ["started"])


def test_a_row_may_say_that_it_has_no_options(runtime: Runtime, eager: Runtime) -> None:
    nothing = [make_job(runtime, keywords=with_options(None)), make_job(runtime, keywords=with_options({}))]
    assert sweep(eager).started == len(nothing)
    assert [recorded(runtime, ref) for ref in nothing] == [{"chunk_size": 100}] * 2


def test_a_url_list_may_be_in_the_row(runtime: Runtime, eager: Runtime) -> None:
    ref = make_job(runtime, keywords=with_options({"urls": ["https://example.org/1.jpg"]}))
    sweep(eager)
    assert query(runtime, "SELECT urls FROM pixcrawler.crawl_urls") == [(["https://example.org/1.jpg"],)]
    assert ledger.chunks_of(runtime.sessions, ref)[0].payload["source"] == "urls"


def test_a_message_whose_options_replace_those_of_the_row_is_named(runtime: Runtime) -> None:
    ref = make_job(runtime, keywords=with_options(CC0))
    submission.start(runtime, CRAWL, ref.id, {"licenses": ["cc-by"]})
    assert actions(runtime, ref) == ["options_replaced", "started"]
    assert recorded(runtime, ref)["licenses"] == ["cc-by"]


def test_a_late_message_with_other_options_than_the_row_is_named(runtime: Runtime, eager: Runtime) -> None:
    ref = make_job(runtime, keywords=with_options(CC0))
    sweep(eager)
    submission.start(runtime, CRAWL, ref.id, {"licenses": ["cc-by"]})
    assert actions(runtime, ref) == ["started", "options_ignored"]
    assert recorded(runtime, ref)["licenses"] == ["cc0"]


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        (with_options({"licences": ["cc0"]}), "keywords.options.licences: unknown option, did you mean 'licenses'?"),
        (with_options({"min_width": "wide"}), "keywords.options.min_width: expected an integer of at least 1"),
        (with_options(["cc0"]), "keywords.options: expected an object, got an array"),
        (with_options(0), "keywords.options: expected an object, got 0"),
        ({"keywords": ["cat"], "option": CC0}, "keywords.option: options of the job belong into keywords.options"),
        ({"keywords": ["cat"], "licenses": ["cc0"]}, "keywords.licenses: options of the job belong into"),
        ({"keywords": ["cat"], "License": ["cc0"]}, "keywords.License: options of the job belong into"),
    ],
)
@pytest.mark.parametrize("options", [None, CC0], ids=repr)
def test_an_option_in_the_row_that_cannot_be_used_fails_the_job(
    runtime: Runtime, keywords: Any, reason: str, options: Mapping[str, Any] | None
) -> None:
    ref = make_job(runtime, keywords=keywords)
    submission.start(runtime, CRAWL, ref.id, options)
    assert status(runtime, ref) is JobStatus.FAILED
    assert reason in last_details(runtime, ref)["reason"]
    # Corrected by the API, and retried.
    ledger.execute(
        runtime.sessions, "UPDATE crawl_jobs SET keywords = CAST(:new AS jsonb)", new=json.dumps(with_options(CC0))
    )
    assert submission.retry(runtime, CRAWL, ref.id)
    assert recorded(runtime, ref)["licenses"] == ["cc0"]


def test_other_keys_of_a_row_are_ignored_as_ever(runtime: Runtime) -> None:
    ref = make_job(runtime, keywords={"keywords": ["cat"], "note": "of Monday", "version": 2})
    submission.start(runtime, CRAWL, ref.id)
    assert status(runtime, ref) is JobStatus.RUNNING

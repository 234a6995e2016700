"""`pixcrawler jobs`, called in this process with real services behind it."""

import json
import re
from collections.abc import Mapping

import ledger
import pytest
import redis
from calls import DEAD, call, sent
from doubles import log_of
from factories import TABLES, make_job, start_job
from security.hostile_text import changes_of_a_terminal, unsafe_in

from pixcrawler_worker import registry
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import candidates, job_views
from pixcrawler_worker.db.candidates import Outcome
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger import chunks, jobs
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import executor, submission
from pixcrawler_worker.runtime import Runtime

#: A name that tries to control the terminal of its reader.
HOSTILE = "\x1b[31mred\x1b]0;title\x07 [bold]x[/bold] \x9b2J\u202e\u2067\n\r[/]"

#: By kind: what people call a job, what stands before its id in arguments, and the status of a cancelled one.
NAMES = {
    "crawl": ("job", "", "cancelled"),
    "validation": ("validation", "validation:", "failed"),
    "export": ("export", "export:", "failed"),
}


@pytest.fixture(autouse=True)
def clean(sessions: Sessions) -> None:
    ledger.execute(sessions, "DELETE FROM profiles")


def test_jobs_are_listed_newest_first(env: Mapping[str, str], sessions: Sessions) -> None:
    old = make_job(sessions, name="old", status="completed", progress=100, valid_images=7, max_images=9)
    new = start_job(sessions, chunks=4, name="new").id
    lines = call(env, "jobs", "list").stdout.splitlines()
    assert lines[0].split() == ["id", "status", "progress", "images", "chunks", "name"]
    assert [line.split() for line in lines[1:]] == [
        [str(new), "running", "0", "%", "0/100", "0/4", "new"],
        [str(old), "completed", "100", "%", "7/9", "0/0", "old"],
    ]
    assert len(call(env, "jobs", "list", "--limit", "1").stdout.splitlines()) == 2


def test_jobs_are_listed_as_json(env: Mapping[str, str], sessions: Sessions) -> None:
    job_id = make_job(sessions, name=HOSTILE, keywords=["кот"])
    (found,) = json.loads(call(env, "jobs", "list", "--json").stdout)
    assert (found["id"], found["name"], found["keywords"], found["status"]) == (job_id, HOSTILE, ["кот"], "pending")


def test_without_jobs_the_list_says_how_to_get_some(env: Mapping[str, str]) -> None:
    assert call(env, "jobs", "list").stdout == "no jobs yet. Create one, for example: pixcrawler crawl cat\n"
    assert json.loads(call(env, "jobs", "list", "--json").stdout) == []


@pytest.fixture
def job_with_details(runtime: Runtime) -> JobRef:
    """A job with chunks in several states, rejection reasons and an error."""
    ref = JobRef(CRAWL_JOBS, make_job(runtime.sessions, name="cats", max_images=9))
    messages = submission.start(runtime, CRAWL, ref.id, {"urls": ["https://example.org/"] * 9, "chunk_size": 3})
    first, second = (ledger.claim(runtime.sessions, message.chunk_id) for message in messages[:2])
    with runtime.sessions.begin() as session:
        chunks.finish(session, first, result={"reasons": {"not_found": 2, "timeout": 1}}, gains={"total_images": 3})
        chunks.fail(session, second, error="the key is wrong [/]")
    return ref


def test_a_job_is_shown_with_counts_reasons_chunks_and_log(env: Mapping[str, str], job_with_details: JobRef) -> None:
    lines = [line.rstrip() for line in call(env, "jobs", "show", str(job_with_details.id)).stdout.splitlines()]
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if not line.startswith(" ")}
    assert shown["job"] == f"{job_with_details.id}  cats"
    assert shown["status"] == "running, 66 %"
    assert shown["keywords"] == '["cat"]'
    assert shown["images"] == "0 of 9"
    assert shown["candidates"] == "3 found, 0 downloaded"
    assert sorted(shown["chunks"].split(", ")) == ["1 completed", "1 failed", "1 queued"]
    assert shown["rejected"].split() == ["2", "not_found"]
    assert shown["failed"].split(maxsplit=1) == ["1", "the key is wrong [/]"]
    assert shown["log"].endswith("crawl_job.started")
    assert any(line.split() == ["1", "timeout"] for line in lines)


def test_a_job_is_shown_as_json(env: Mapping[str, str], job_with_details: JobRef) -> None:
    found = json.loads(call(env, "jobs", "show", str(job_with_details.id), "--json").stdout)
    assert (found["id"], found["status"], found["max_images"]) == (job_with_details.id, "running", 9)
    assert found["chunks"] == {"completed": 1, "failed": 1, "queued": 1}
    assert found["reasons"] == {"not_found": 2, "timeout": 1}
    assert found["errors"] == {"the key is wrong [/]": 1}
    assert [entry["action"] for entry in found["activity"]] == ["crawl_job.started"]


def test_a_job_that_failed_to_plan_is_shown_with_its_reason(env: Mapping[str, str], runtime: Runtime) -> None:
    job_id = make_job(runtime.sessions, keywords=[])
    submission.start(runtime, CRAWL, job_id, {})
    shown = " ".join(call(env, "jobs", "show", str(job_id)).stdout.split())
    assert "crawl_job.failed keywords is empty: give at least one keyword" in shown


def test_untrusted_texts_cannot_control_a_terminal(env: Mapping[str, str], runtime: Runtime) -> None:
    ref = start_job(runtime.sessions, name=HOSTILE, keywords=[HOSTILE])
    held = ledger.claim(runtime.sessions, ledger.ids_of(runtime.sessions, ref)[0])
    with runtime.sessions.begin() as session:
        chunks.fail(session, held, error=HOSTILE)
        outcome = Outcome(
            url_hash=b"1" * 16, reason="timeout", url=f"https://a/{HOSTILE}", label=HOSTILE, detail=HOSTILE
        )
        candidates.record(session, ref.id, [outcome])
    failures = ("failures", str(ref.id), "--format")
    for words in (("list",), ("show", str(ref.id)), (*failures, "csv"), (*failures, "jsonl"), (*failures, "txt")):
        shown = call(env, "jobs", *words).stdout
        assert "[bold]x[/bold]" in shown
        assert not unsafe_in(shown, allowed="\n")
        assert changes_of_a_terminal(shown) == []
    for arguments in (("list",), ("show", str(ref.id))):
        shown = call(env, "jobs", *arguments, "--json").stdout
        assert "[bold]x[/bold]" in shown
        assert shown.isascii()
        assert not unsafe_in(shown, allowed="\n")


def test_candidates_that_wait_for_hosts_are_shown(env: Mapping[str, str], sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=3, max_images=500)
    waiting = {"upload.wikimedia.org": 206, "a" * 60 + ".example:8443": 3}
    ledger.execute(
        sessions,
        "UPDATE pixcrawler.chunks SET payload = payload || jsonb_build_object('waiting', CAST(:hosts AS jsonb)),"
        " available_at = now() + seq * interval '1 minute' WHERE crawl_job_id = :id",
        hosts=json.dumps(waiting),
        id=ref.id,
    )
    lines = call(env, "jobs", "show", str(ref.id)).stdout
    assert re.search(r"waiting +412  for upload.wikimedia.org until \d\d:\d\d, 2 connections allowed *\n", lines)
    shown = json.loads(call(env, "jobs", "show", str(ref.id), "--json").stdout)["waiting"]
    assert [(one["candidates"], one["connections"]) for one in shown] == [(412, 2), (6, None)]


def test_a_missing_job_is_an_error(env: Mapping[str, str], broker: redis.Redis) -> None:
    for command in ("show", "watch", "cancel", "retry"):
        with pytest.raises(PermanentError, match="there is no crawl job 424242; `pixcrawler jobs list` lists"):
            call(env, "jobs", command, "424242")


@pytest.mark.parametrize(
    ("status", "images", "code"), [("completed", 1, 0), ("completed", 0, 1), ("failed", 1, 1), ("cancelled", 1, 1)]
)
def test_watch_exits_as_the_job_ends(
    env: Mapping[str, str], sessions: Sessions, status: str, images: int, code: int
) -> None:
    job_id = make_job(sessions, status=status, progress=100 * (status == "completed"), valid_images=images)
    result = call(env, "jobs", "watch", str(job_id))
    shown = f"job {job_id} {status}: {images} of 100 images, 0 of 0 chunks\n"
    assert (result.exit_code, result.stdout) == (code, shown)


def test_a_validation_that_found_no_valid_image_has_not_failed(env: Mapping[str, str], sessions: Sessions) -> None:
    ref = start_job(sessions, chunks=0, kind=VALIDATION_JOBS)
    with sessions.begin() as session:
        jobs.end(session, ref, JobStatus.COMPLETED)
    assert call(env, "jobs", "watch", f"validation:{ref.id}").exit_code == 0


@pytest.mark.parametrize("kind", TABLES, ids=repr)
def test_a_job_of_any_kind_is_cancelled_without_a_worker(
    env: Mapping[str, str], runtime: Runtime, kind: JobTable
) -> None:
    ref = start_job(runtime.sessions, chunks=2, kind=kind)
    title, argument, status = NAMES[kind.name]
    for _ in range(2):
        result = call(env, "jobs", "cancel", f"{argument}{ref.id}")
        assert (result.exit_code, result.stdout.split(" in ")[0]) == (0, f"{title} {ref.id} {status}")
    assert ledger.states_of(runtime.sessions, ref) == ["cancelled"] * 2
    assert [entry.action for entry in log_of(runtime, ref)] == [f"{kind.name}_job.cancelled"]


@pytest.mark.parametrize("kind", TABLES, ids=repr)
@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_job_that_ended_otherwise_is_not_said_to_be_cancelled(
    env: Mapping[str, str], sessions: Sessions, kind: JobTable, status: str
) -> None:
    ref = start_job(sessions, chunks=0, kind=kind)
    with sessions.begin() as session:
        jobs.end(session, ref, JobStatus(status), error="the disk is on fire")
    title, argument, _ = NAMES[kind.name]
    message = f"{title} {ref.id} is {status} already: there is nothing to cancel"
    with pytest.raises(PermanentError, match=f"^{message}$"):
        call(env, "jobs", "cancel", f"{argument}{ref.id}")
    with sessions.begin() as session:
        assert jobs.status(session, ref) == status


def test_jobs_of_all_kinds_are_listed_and_one_kind_on_request(env: Mapping[str, str], sessions: Sessions) -> None:
    refs = [start_job(sessions, chunks=2, kind=kind, name="cats") for kind in TABLES]
    crawls = [job.id for job in (newest_crawl(sessions, ref) for ref in refs)]
    rows = [line.split() for line in call(env, "jobs", "list").stdout.splitlines()[1:]]
    validation, export = f"validation:{refs[1].id}", f"export:{refs[2].id}"
    assert [row[0] for row in rows] == [export, str(crawls[2]), validation, str(crawls[1]), str(crawls[0])]
    assert rows[0] == [export, "running", "0", "%", "0/0", "0/2", "cats"]
    assert [row[0] for row in rows[:2]] == [
        line.split()[0] for line in call(env, "jobs", "list", "--limit", "2").stdout.splitlines()[1:]
    ]
    for kind, argument in (("validation", validation), ("export", export)):
        (found,) = json.loads(call(env, "jobs", "list", "--kind", kind, "--json").stdout)
        assert (found["kind"], found["id"]) == (kind, int(argument.partition(":")[2]))
        # What is listed is what the other commands take.
        assert call(env, "jobs", "show", argument).exit_code == 0
    assert len(json.loads(call(env, "jobs", "list", "--kind", "crawl", "--json").stdout)) == 3
    assert call(env, "jobs", "list", "--kind", "archive").exit_code == 2


def newest_crawl(sessions: Sessions, ref: JobRef) -> CrawlView:
    """The crawl job itself, or that of a validation or export."""
    with sessions.begin() as session:
        job = job_views.job(session, registry.kind_of(ref).display.view, ref.id)
        assert job is not None
        found = job_views.job(session, CrawlView, getattr(job, "crawl_job_id", job.id))
    assert found is not None
    return found


@pytest.mark.parametrize("kind", TABLES, ids=repr)
def test_commands_in_messages_work_when_they_are_typed(
    env: Mapping[str, str], broker: redis.Redis, sessions: Sessions, kind: JobTable
) -> None:
    ref = start_job(sessions, chunks=0, kind=kind)
    with sessions.begin() as session:
        jobs.end(session, ref, JobStatus.FAILED, error="the disk is on fire")
    title, argument, _ = NAMES[kind.name]
    result = call(env, "jobs", "retry", f"{argument}{ref.id}")
    begin, command = result.stdout.strip().split(" Watch it: pixcrawler ")
    assert begin == f"{title} {ref.id} is queued for a retry."
    assert sent(broker, kind.queue) == [(f"pixcrawler.{kind.name}.retry", [ref.id])]
    assert call(env, *command.split()).exit_code == 1, "it has failed"
    for words in ("show", "watch", "cancel", "retry"):
        with pytest.raises(PermanentError) as caught:
            call(env, "jobs", words, f"{argument}424242")
        assert str(caught.value).startswith(f"there is no {kind.name} job 424242; ")
        listing = str(caught.value).split("`")[1].split()
        assert call(env, *listing[1:]).exit_code == 0


def test_a_retry_is_sent(env: Mapping[str, str], broker: redis.Redis, sessions: Sessions) -> None:
    job_id = make_job(sessions, status="failed")
    result = call(env, "jobs", "retry", str(job_id))
    assert result.stdout == f"job {job_id} is queued for a retry. Watch it: pixcrawler jobs watch {job_id}\n"
    assert sent(broker) == [("pixcrawler.crawl.retry", [job_id])]


@pytest.mark.parametrize("kind", TABLES, ids=repr)
def test_a_job_that_runs_or_is_complete_is_not_retried(
    env: Mapping[str, str], broker: redis.Redis, sessions: Sessions, kind: JobTable
) -> None:
    ref = start_job(sessions, kind=kind)
    title, argument, _ = NAMES[kind.name]
    result = call(env, "jobs", "retry", f"{argument}{ref.id}")
    assert result.stdout == f"{title} {ref.id} is running: there is nothing to retry\n"
    ledger.execute(sessions, f"UPDATE {kind.name}_jobs SET status = 'completed' WHERE id = :id", id=ref.id)
    result = call(env, "jobs", "retry", f"{argument}{ref.id}")
    assert result.stdout == f"{title} {ref.id} is completed: there is nothing to retry\n"
    assert sent(broker, kind.queue) == []


def test_a_completed_job_with_candidates_to_try_again_is_retried(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime
) -> None:
    ref = JobRef(CRAWL_JOBS, make_job(runtime.sessions, max_images=9))
    (message,) = submission.start(runtime, CRAWL, ref.id, {"urls": ["https://example.org/"]})
    claim = ledger.claim(runtime.sessions, message.chunk_id)
    with runtime.sessions.begin() as session:
        result = {"offered": 1, "reasons": {"timeout": 1}, "retriable": {"0": "timeout"}}
        chunks.finish(session, claim, result=result, gains={"total_images": 1})
        jobs.end(session, ref, JobStatus.COMPLETED)
    assert call(env, "jobs", "retry", str(ref.id)).stdout.startswith(f"job {ref.id} is queued for a retry.")
    assert sent(broker) == [("pixcrawler.crawl.retry", [ref.id])]


@pytest.mark.parametrize("words", [["jobs", "retry"], ["build", "--job"]])
def test_a_job_that_was_started_without_its_options_is_not_said_to_be_queued(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, words: list[str]
) -> None:
    ref = JobRef(CRAWL_JOBS, make_job(runtime.sessions, max_images=9))
    submission.start(runtime, CRAWL, ref.id, {})
    submission.start(runtime, CRAWL, ref.id, {"licenses": ["cc0"]})
    with pytest.raises(
        PermanentError, match=f"job {ref.id} cannot run again: it was started before its message"
    ) as caught:
        call(env, *words, str(ref.id))
    assert "insert a new job with its options in the row, or create it with pixcrawler crawl" in str(caught.value)
    assert sent(broker) == []
    assert "queued" not in call(env, "jobs", "show", str(ref.id)).stdout


def test_a_rejection_for_a_private_network_names_the_setting_that_allows_it(
    env: Mapping[str, str], runtime: Runtime
) -> None:
    ref = JobRef(CRAWL_JOBS, make_job(runtime.sessions, max_images=9))
    (message,) = submission.start(runtime, CRAWL, ref.id, {"urls": ["http://192.168.1.1/", "http://10.0.0.1/"]})
    executor.run(runtime, CRAWL, message.chunk_id)
    for words in ("watch", "show"):
        shown = " ".join(call(env, "jobs", words, str(ref.id)).stdout.split())
        assert "PIXCRAWLER_ALLOWED_NETWORKS" in shown
    failures = call(env, "jobs", "failures", str(ref.id)).stdout.splitlines()[1:]
    assert len(failures) == 2
    assert all("PIXCRAWLER_ALLOWED_NETWORKS" in line for line in failures)


def test_a_retry_without_a_broker_is_an_error(env: Mapping[str, str], sessions: Sessions) -> None:
    job_id = make_job(sessions, status="failed")
    with pytest.raises(TransientError, match="the broker does not respond"):
        call({**env, **DEAD}, "jobs", "retry", str(job_id))

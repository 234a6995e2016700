"""`pixcrawler jobs`, called in this process with real services behind it."""

import json
from collections.abc import Mapping

import ledger
import pytest
import redis
from calls import DEAD, call, sent
from doubles import log_of
from factories import make_job, start_job

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime

#: A name that tries to control the terminal of its reader.
HOSTILE = "\x1b[31mred\x1b]0;title\x07 [bold]x[/bold] \x9b2J\n\r[/]"


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
    for words in (("list",), ("show", str(ref.id))):
        shown = call(env, "jobs", *words).stdout
        assert "[bold]x[/bold]" in shown
        assert not [character for character in shown if not character.isprintable() and character != "\n"]


def test_a_missing_job_is_an_error(env: Mapping[str, str], broker: redis.Redis) -> None:
    for command in ("show", "watch", "cancel", "retry"):
        with pytest.raises(PermanentError, match="there is no crawl job 424242; `pixcrawler jobs list` lists"):
            call(env, "jobs", command, "424242")


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1)])
def test_watch_exits_as_the_job_ends(env: Mapping[str, str], sessions: Sessions, status: str, code: int) -> None:
    job_id = make_job(sessions, status=status, progress=100 * (status == "completed"))
    result = call(env, "jobs", "watch", str(job_id))
    assert (result.exit_code, result.stdout) == (code, f"job {job_id} {status}: 0 of 100 images, 0 of 0 chunks\n")


def test_a_job_is_cancelled_without_a_worker(env: Mapping[str, str], runtime: Runtime) -> None:
    ref = start_job(runtime.sessions, chunks=2)
    for _ in range(2):
        result = call(env, "jobs", "cancel", str(ref.id))
        assert (result.exit_code, result.stdout.split(" in ")[0]) == (0, f"job {ref.id} cancelled")
    assert ledger.states_of(runtime.sessions, ref) == ["cancelled"] * 2
    assert [entry.action for entry in log_of(runtime, ref)] == ["crawl_job.cancelled"]


def test_a_retry_is_sent(env: Mapping[str, str], broker: redis.Redis, sessions: Sessions) -> None:
    job_id = make_job(sessions, status="failed")
    result = call(env, "jobs", "retry", str(job_id))
    assert result.stdout == f"job {job_id} is queued for a retry. Watch it: pixcrawler jobs watch {job_id}\n"
    assert sent(broker) == [("pixcrawler.crawl.retry", [job_id])]


def test_a_running_job_is_not_retried(env: Mapping[str, str], broker: redis.Redis, sessions: Sessions) -> None:
    ref = start_job(sessions)
    result = call(env, "jobs", "retry", str(ref.id))
    assert result.stdout == f"job {ref.id} is running: there is nothing to retry\n"
    assert sent(broker) == []


def test_a_retry_without_a_broker_is_an_error(env: Mapping[str, str], sessions: Sessions) -> None:
    job_id = make_job(sessions, status="failed")
    with pytest.raises(TransientError, match="the broker does not respond"):
        call({**env, **DEAD}, "jobs", "retry", str(job_id))

"""`pixcrawler quarantine`, and the line about it in other commands."""

import json
from collections.abc import Mapping

import pytest
import redis
from calls import DEAD, call
from factories import make_job

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.errors import PermanentError


@pytest.fixture
def two_messages(broker: redis.Redis) -> None:
    with broker.pipeline() as pipe:
        for detail in ("it is too deep", "`id` is [bold]missing[/bold]"):
            raw = b'{"task": "a.b", "password": "hunter2"} \x1b[31m'
            quarantine.add(pipe, quarantine.describe(raw, queue="crawl", reason=Fault.BODY, detail=detail))
        pipe.execute()


@pytest.mark.usefixtures("two_messages")
def test_messages_are_listed_newest_first_and_cleared(env: Mapping[str, str]) -> None:
    found = call(env, "quarantine").stdout
    first, _, second, beginning = found.splitlines()
    assert first.endswith("  crawl  44 bytes  `id` is [bold]missing[/bold]  a.b")
    assert second.endswith("  crawl  44 bytes  it is too deep  a.b")
    assert beginning == '    {"task": "a.b", "password": ***} \ufffd[31m'
    assert call(env, "quarantine", "--limit", "1").stdout.endswith("1 older ones: pixcrawler quarantine --limit 2\n")
    assert call(env, "quarantine", "--clear").stdout == "2 messages forgotten\n"
    assert call(env, "quarantine").stdout == "no unreadable message was set aside\n"


@pytest.mark.usefixtures("two_messages")
def test_messages_are_listed_as_json(env: Mapping[str, str]) -> None:
    found = json.loads(call(env, "quarantine", "--json").stdout)
    assert found["count"] == 2
    assert found["messages"][1] | {"time": ""} == {
        "time": "",
        "queue": "crawl",
        "reason": "body",
        "detail": "it is too deep",
        "size": 44,
        "task": "a.b",
        "task_id": None,
        "excerpt": '{"task": "a.b", "password": ***} \ufffd[31m',
    }


@pytest.mark.usefixtures("two_messages")
def test_commands_about_jobs_and_the_doctor_mention_them(env: Mapping[str, str], sessions: Sessions) -> None:
    job_id = make_job(sessions)
    for words in (("jobs", "list"), ("jobs", "show", str(job_id))):
        result = call(env, *words)
        assert result.stderr.startswith("pixcrawler: 2 unreadable messages were set aside, the newest "), words
        assert "pixcrawler quarantine --clear" in result.stderr
        assert "set aside" not in call(env, *words, "--json").stderr
    assert "; 2 unreadable messages were set aside" in call(env, "doctor").stdout


@pytest.mark.usefixtures("broker")
def test_commands_about_jobs_are_silent_about_an_empty_quarantine(env: Mapping[str, str]) -> None:
    assert call(env, "jobs", "list").stderr == ""


def test_commands_about_jobs_work_without_a_broker(env: Mapping[str, str]) -> None:
    assert call({**env, **DEAD}, "jobs", "list").stderr == ""
    without = {name: value for name, value in env.items() if name != "PIXCRAWLER_BROKER_URL"}
    assert call(without, "jobs", "list").stderr == ""
    with pytest.raises(PermanentError, match="no broker is configured"):
        call(without, "quarantine")

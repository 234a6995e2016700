"""`pixcrawler doctor`."""

import json
from collections.abc import Mapping

import redis
from calls import DEAD, call
from fakes.workers import responding

QUEUES = ("crawl", "validation", "export", "maintenance")


def test_doctor_prints_a_line_per_check(env: Mapping[str, str], broker: redis.Redis) -> None:
    del broker
    with responding(env["PIXCRAWLER_BROKER_URL"], *QUEUES):
        result = call(env, "doctor")
    assert result.exit_code == 0
    assert all(line.startswith("ok    ") for line in result.stdout.splitlines())
    names = {"database", "migrations", "queue", "broker", "workers", "storage"}
    assert {line.split()[1] for line in result.stdout.splitlines()} >= names


def test_doctor_fails_when_no_worker_runs(env: Mapping[str, str], broker: redis.Redis) -> None:
    broker.lpush("crawl", "a message")
    result = call(env, "doctor")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert line.split()[1:] == [
        *("workers", "no", "worker", "responds,", "and", "1", "message", "waits", "(crawl", "1):"),
        *("start", "one", "with", "`celery", "-A", "pixcrawler_worker", "worker`"),
    ]


def test_doctor_fails_when_one_check_fails(env: Mapping[str, str]) -> None:
    result = call({**env, **DEAD}, "doctor")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert line.split()[1] == "broker"
    assert "hunter2" not in result.output
    found = json.loads(call({**env, **DEAD}, "doctor", "--json").stdout)
    assert [result["name"] for result in found if not result["ok"]] == ["broker"]
    assert all(result["well"] is result["ok"] for result in found), "the former name stays"

"""`pixcrawler doctor`."""

import json
from collections.abc import Mapping

from calls import DEAD, call


def test_doctor_prints_a_line_per_check(env: Mapping[str, str]) -> None:
    result = call(env, "doctor")
    assert result.exit_code == 0
    assert all(line.startswith("ok    ") for line in result.stdout.splitlines())
    assert {line.split()[1] for line in result.stdout.splitlines()} >= {"database", "migrations", "broker", "storage"}


def test_doctor_fails_when_one_check_fails(env: Mapping[str, str]) -> None:
    result = call({**env, **DEAD}, "doctor")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert line.split()[1] == "broker"
    assert "hunter2" not in result.output
    found = json.loads(call({**env, **DEAD}, "doctor", "--json").stdout)
    assert [result["name"] for result in found if not result["ok"]] == ["broker"]
    assert all(result["well"] is result["ok"] for result in found), "the former name stays"

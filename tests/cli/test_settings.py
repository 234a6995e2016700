"""`pixcrawler settings`."""

import json
from pathlib import Path

import pytest
from calls import call

from pixcrawler_worker.settings import Settings

SECRETS = {
    "PIXCRAWLER_DATABASE_URL": "postgresql://ada:hunter2@db/pixcrawler?sslpassword=hunter2",
    "PIXCRAWLER_BROKER_URL": "redis://:hunter2@host:6379/0",
    "PIXCRAWLER_EGRESS_PROXY": "hunter2",
}


def test_settings_are_shown_with_their_origins() -> None:
    Path(".env").write_text("PIXCRAWLER_CHUNK_SIZE=7\nREDIS_URL=redis://elsewhere\n")
    env = {"DATABASE_URL": "postgresql:///x", "PIXCRAWLER_LEASE_SECONDS": "30"}
    output = json.loads(call(env, "settings", "--json").stdout)
    assert set(output) == {f"PIXCRAWLER_{name.upper()}" for name in Settings.model_fields}
    assert output["PIXCRAWLER_CHUNK_SIZE"] == {
        "value": 7,
        "origin": ".env",
        "meaning": "candidates per chunk, unless a job says otherwise",
    }
    origins = {name: entry["origin"] for name, entry in output.items() if entry["origin"] != "default"}
    assert origins == {
        "PIXCRAWLER_DATABASE_URL": "DATABASE_URL in environment",
        "PIXCRAWLER_BROKER_URL": "REDIS_URL in .env",
        "PIXCRAWLER_CHUNK_SIZE": ".env",
        "PIXCRAWLER_LEASE_SECONDS": "environment",
    }


def test_settings_are_one_line_each_and_never_truncated() -> None:
    contact = "https://example.org/" + "x" * 200
    lines = call({"PIXCRAWLER_USER_AGENT_CONTACT": contact}, "settings").stdout.splitlines()
    assert len(lines) == len(Settings.model_fields)
    assert f"PIXCRAWLER_USER_AGENT_CONTACT  environment  {contact}" in lines


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["plain", "json"])
def test_secrets_are_masked(form: list[str]) -> None:
    output = call(SECRETS, "settings", *form).output
    assert "hunter2" not in output
    assert "postgresql://ada:****@db/pixcrawler?sslpassword=****" in output
    assert "redis://:****@host:6379/0" in output

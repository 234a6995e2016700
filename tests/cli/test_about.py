"""What the command line tells of itself: sources, settings, completion, and errors in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from calls import call
from click.shell_completion import ShellComplete

from pixcrawler_worker.cli.main import pixcrawler
from pixcrawler_worker.settings import Settings

SECRETS = {
    "PIXCRAWLER_DATABASE_URL": "postgresql://ada:hunter2@db/pixcrawler?sslpassword=hunter2",
    "PIXCRAWLER_BROKER_URL": "redis://:hunter2@host:6379/0",
    "PIXCRAWLER_EGRESS_PROXY": "hunter2",
}


def run(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pixcrawler_worker.cli.main", *words],
        env=os.environ | dict(env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_sources_tell_what_is_ready_and_what_is_missing() -> None:
    told = call({}, "sources").stdout
    assert "commons    ready" in told
    assert "gallery    set PIXCRAWLER_GALLERY_URL" in told
    assert "20 candidates per result page, 240 per keyword" in told
    assert "https://docs.openverse.org/terms_of_service.html" in told.replace("\n           ", "")


def test_sources_are_told_to_machines() -> None:
    told = json.loads(call({"PIXCRAWLER_GALLERY_URL": "http://pictures.example"}, "sources", "--json").stdout)
    assert [source["name"] for source in told] == ["commons", "gallery", "openverse", "urls"]
    assert all(source["ready"] for source in told)
    assert told[0]["depth"] == 10_000


def test_settings_tell_every_value_and_where_it_comes_from() -> None:
    Path(".env").write_text("PIXCRAWLER_CHUNK_SIZE=7\nREDIS_URL=redis://elsewhere\n")
    env = {"DATABASE_URL": "postgresql:///x", "PIXCRAWLER_LEASE_SECONDS": "30"}
    told = json.loads(call(env, "settings", "--json").stdout)
    assert set(told) == {f"PIXCRAWLER_{name.upper()}" for name in Settings.model_fields}
    assert told["PIXCRAWLER_CHUNK_SIZE"] == {
        "value": 7,
        "origin": ".env",
        "meaning": "candidates per chunk, unless a job says otherwise",
    }
    origins = {name: entry["origin"] for name, entry in told.items() if entry["origin"] != "default"}
    assert origins == {
        "PIXCRAWLER_DATABASE_URL": "DATABASE_URL in environment",
        "PIXCRAWLER_BROKER_URL": "REDIS_URL in .env",
        "PIXCRAWLER_CHUNK_SIZE": ".env",
        "PIXCRAWLER_LEASE_SECONDS": "environment",
    }


def test_settings_are_one_line_each_and_never_cut() -> None:
    contact = "https://example.org/" + "x" * 200
    lines = call({"PIXCRAWLER_USER_AGENT_CONTACT": contact}, "settings").stdout.splitlines()
    assert len(lines) == len(Settings.model_fields)
    assert f"PIXCRAWLER_USER_AGENT_CONTACT  environment  {contact}" in lines


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["plain", "json"])
def test_secrets_are_masked(form: list[str]) -> None:
    told = call(SECRETS, "settings", *form).output
    assert "hunter2" not in told
    assert "postgresql://ada:****@db/pixcrawler?sslpassword=****" in told
    assert "redis://:****@host:6379/0" in told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_the_usual_shells(shell: str) -> None:
    script = call({}, "completion", shell).stdout
    assert f"_PIXCRAWLER_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        ([], "s", {"settings", "sources", "storage"}),
        (["build", "cat", "--source"], "", {"commons", "gallery", "openverse", "urls"}),
        (["build", "cat", "--license"], "cc-by-n", {"cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd"}),
        (["crawl", "cat", "--min-"], "--min-", {"--min-width", "--min-height"}),
    ],
)
def test_names_are_completed(words: list[str], incomplete: str, offered: set[str]) -> None:
    completing = ShellComplete(pixcrawler, {}, "pixcrawler", "_PIXCRAWLER_COMPLETE")
    assert {item.value for item in completing.get_completions(words, incomplete)} == offered


def test_the_program_completes_when_a_shell_asks_it() -> None:
    asked = {"_PIXCRAWLER_COMPLETE": "bash_complete", "COMP_WORDS": "pixcrawler bui", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("pixcrawler")
    done = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,build\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["biuld"], 2, "pixcrawler: there is no command 'biuld'; did you mean 'build'? (see pixcrawler --help)"),
        (["build"], 2, "pixcrawler: give at least one KEYWORD, or --job ID to resume a job (see pixcrawler build"),
        (["build", "--job", "1", "cat"], 2, "pixcrawler: a job has its keywords and options already"),
        (["jobs", "show", "x"], 2, "pixcrawler: Invalid value for 'JOB': expected an integer, got 'x'"),
        (["jobs", "list"], 1, "pixcrawler: no database is configured: set PIXCRAWLER_DATABASE_URL"),
        (
            ["build", "cat", "--format", "rar"],
            2,
            "pixcrawler: Invalid value for '--format': 'rar' is not one of 'zip', ",
        ),
        (
            ["build", "cat", "--format", "tar", "--out", "."],
            1,
            "pixcrawler: . is not empty: name a folder that is, or does not exist yet\n",
        ),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(words: list[str], code: int, said: str) -> None:
    Path("something").touch()
    done = run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(said)

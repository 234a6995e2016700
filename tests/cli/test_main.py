"""`pixcrawler`: help, unknown commands, and errors in one line."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from calls import call

from pixcrawler_worker.cli.main import pixcrawler


def commands(group: click.Command, *above: str) -> Iterator[tuple[str, ...]]:
    yield above
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, *above, name)


@pytest.mark.parametrize("words", list(commands(pixcrawler)), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        result = call({}, *words, option)
        assert result.exit_code == 0
        assert result.output.startswith("Usage: pixcrawler")
        assert len(result.output.splitlines()) > 4


def test_the_help_lists_every_command() -> None:
    result = call({}, "--help")
    for words in commands(pixcrawler):
        if len(words) == 1:
            (line,) = [line for line in result.output.splitlines() if line.startswith(f"  {words[0]} ")]
            assert len(line.split()) > 3


def test_help_imports_nothing_that_takes_time() -> None:
    program = (
        "import sys\n"
        "from pixcrawler_worker.cli.main import pixcrawler\n"
        "pixcrawler(['--help'], standalone_mode=False)\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "Commands:" in done.stdout
    imported = {name.partition(".")[0] for name in done.stderr.splitlines()}
    assert "click" in imported
    assert imported.isdisjoint({"sqlalchemy", "celery", "kombu", "rich", "pydantic", "PIL", "numpy", "aiohttp"})


def test_an_unknown_command_is_an_invalid_argument() -> None:
    result = call({}, "fly")
    assert result.exit_code == 2
    assert "there is no command 'fly'; known are demo, build, " in result.stderr


def run(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pixcrawler_worker.cli.main", *words],
        env=os.environ | dict(env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
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
            "pixcrawler: . is not empty: name an empty folder, or one that does not exist yet\n",
        ),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(words: list[str], code: int, message: str) -> None:
    Path("something").touch()
    done = run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(message)


def test_debug_shows_the_traceback_of_an_error_wherever_it_is_given() -> None:
    bare = {"PIXCRAWLER_DATABASE_URL": "", "DATABASE_URL": ""}
    for words in (["--debug", "jobs", "list"], ["jobs", "list", "--debug"]):
        done = run(*words, env=bare)
        assert (done.returncode, "Traceback" in done.stderr) == (1, True)
        assert "no database is configured" in done.stderr
    after_the_end_of_options = run("jobs", "show", "--", "--debug", env=bare)
    assert after_the_end_of_options.returncode == 2
    assert "expected an integer, got '--debug'" in after_the_end_of_options.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("words", [("settings",), ("sources", "--json")])
def test_an_output_that_there_is_no_room_for_is_an_error_in_one_line(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pixcrawler_worker.cli.main", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.stderr == "pixcrawler: the output cannot be written: No space left on device\n"
    assert done.returncode == 1

"""Commands in the documents against the command line: each is parsed as the program would, and not run."""

import re
import shlex
from pathlib import Path

import click
import documents
import pytest

from pixcrawler_worker.cli.main import pixcrawler

#: Files that documented commands read.
FILES = {
    "cats.txt": "https://example.org/1.jpg\n",
    "cats.csv": "id,photo\n1,https://example.org/1.jpg\n",
    "options.json": "{}",
    "rules.json": "{}",
    "words.csv": "cat,kitten\n",
    "urls.txt": "\n",
    "cats/failed.jsonl": "{}",
    "exclusions-job-3.json": "[]",
    "cats.toml": "",
}
#: What stands for a value in the documents.
PLACEHOLDERS = {"JOB": "1", "ID": "1", "DIR": "folder", "FILE": "cats.txt", "COMMAND": "demo"}
COMMANDS = sorted({command for path in documents.DOCUMENTS for command in documents.commands(path)})
#: Those that can be typed; the others name a command or an option in the text.
CALLS = {command for path in documents.DOCUMENTS for command in documents.calls(path)}


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_is_one_that_the_program_takes(command: str) -> None:
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    Path("folder").mkdir()
    # Without what a shell does with its output.
    words = shlex.split(re.split(r" [>|;&]+ ?", command)[0])[1:]
    check(words, command, is_call=command in CALLS)


def check(words: list[str], command: str, *, is_call: bool) -> None:
    """Parse the words of a command, as far as they are words that can be typed."""
    # A command keeps the names of the option for help that it has first been asked for.
    context = click.Context(pixcrawler, info_name="pixcrawler", **pixcrawler.context_settings)
    group: click.Command = pixcrawler
    while isinstance(group, click.Group):
        while words and words[0] in {"--debug", "--version", "--help"}:
            words = [PLACEHOLDERS.get(word, word) for word in words[1:]]
        if not words:
            return
        # As in `jobs list|show`.
        names = words[0].split("|")
        found = [group.get_command(context, name) for name in names]
        assert None not in found, f"there is no {names} in {command}"
        if len(names) > 1:
            return
        assert found[0] is not None
        group, words = found[0], words[1:]
        if isinstance(group, click.Group):
            context = click.Context(group, parent=context, info_name=names[0])
    options = {option for param in group.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    given = [word.strip("[]") for word in words]
    assert {word.partition("=")[0] for word in given if word.startswith("-")} - {"-"} <= options, command
    if any(word in {"...", "…"} or word.startswith("[") for word in words):
        return
    words = [re.sub("[A-Z]+$", lambda word: PLACEHOLDERS.get(word[0], word[0]), word) for word in words]
    try:
        with group.make_context(group.name, words, parent=context):
            pass
    except (click.MissingParameter, click.BadOptionUsage):
        if is_call:
            raise


@pytest.mark.parametrize(
    "command",
    [
        "pixcrawler jobs shown 1",
        "pixcrawler jobs list --al",
        "pixcrawler export 1 --format rar",
        "pixcrawler jobs show cat",
    ],
)
def test_other_commands_are_noticed(command: str) -> None:
    with pytest.raises((AssertionError, click.ClickException)):
        check(command.split()[1:], command, is_call=True)

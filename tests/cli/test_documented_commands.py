"""Commands in the documents against the command line."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pixcrawler_worker.cli.main import pixcrawler

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def commands() -> Iterator[str]:
    """Commands of code blocks and of code in the text."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        yield from (line.split("#")[0].strip() for line in re.findall(r"^(?:\$ )?(pixcrawler .*)$", text, re.MULTILINE))
        yield from re.findall(r"`(pixcrawler [^`]+)`", text)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_documented_command_exists_with_its_options(command: str) -> None:
    program, *words = shlex.split(command)
    assert program == "pixcrawler"
    group: click.Command = pixcrawler
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        # As in `jobs list|show`.
        names = words.pop(0).split("|")
        context = click.Context(group)
        found = [group.get_command(context, name) for name in names]
        assert None not in found, f"{names} of {command}"
        assert found[0] is not None
        group = found[0]
    options = {option for param in group.params for option in param.opts} | {"--help"}
    assert {word.strip("[]") for word in words if word.startswith(("-", "[-"))} - {"-"} <= options

"""The documents for users, and what their code blocks are: commands to run, commands to read, Python, JSON."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").glob("*.md"))])
#: Decisions are about the past: their commands need not exist any more.
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        path: the document.
        language: such as `sh`.
        mark: `run` or `background` for commands that a test runs, `` for others.
        text: its lines.
    """

    path: Path
    language: str
    mark: str
    text: str


def blocks(path: Path) -> Iterator[Block]:
    """Return the code blocks of a document, in their order."""
    for info, text in re.findall(
        r"^```([^`\n]*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        language, _, mark = info.partition(" ")
        yield Block(path, language, mark, text)


def calls(path: Path) -> Iterator[str]:
    """Return the calls of `pixcrawler` in code blocks, without comments."""
    for block in blocks(path):
        if block.language in {"sh", "console", ""}:
            for line in block.text.splitlines():
                if found := re.match(r"(?:\$ )?(?:\S.* )?(pixcrawler(?: .*)?)$", re.split(r"\s#", line)[0].strip()):
                    yield found[1]


def commands(path: Path) -> Iterator[str]:
    """Return the calls of `pixcrawler` in code blocks, and what the text names in its code."""
    yield from calls(path)
    yield from re.findall(r"`(pixcrawler [^`\n]+)`", path.read_text(encoding="utf-8"))

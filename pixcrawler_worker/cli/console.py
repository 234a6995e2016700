"""Output on a terminal: the console, progress bars, and text from outside made harmless."""

import contextlib
import re
import textwrap
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from pixcrawler_worker.domain.safe_text import safe

out = Console(highlight=False)

#: A command in a sentence, and what stands for its spaces while the sentence is divided into lines.
_COMMAND, _GLUE = re.compile(r"`pixcrawler [^`]+`|pixcrawler(?: [^\s,.;()`]+)+"), "\0"


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, nothing elsewhere; yield a function that takes the count so far."""
    if not out.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda count: progress.update(bar, completed=count)


def wrapped(text: str, *, indent: int) -> list[str]:
    """Return a text as lines that fit the terminal, or as one line where there is no terminal.

    A command in it stays in one line, because it is there to be copied.

    Args:
        text: a line.
        indent: columns that the caller prints before each of the lines.
    """
    if not out.is_terminal:
        return [text] if text else []
    text = _COMMAND.sub(lambda found: found[0].replace(" ", _GLUE), text)
    lines = textwrap.wrap(text, max(out.width - indent, indent, 1), break_long_words=False, break_on_hyphens=False)
    return [line.replace(_GLUE, " ") for line in lines]


def printable(text: str) -> str:
    """Return text from outside in one line that cannot control a terminal; see `domain/safe_text.py`."""
    return safe(text)


def escaped(text: str) -> str:
    """Return text from outside for `out`: printable, and with nothing that is read as markup."""
    return escape(printable(text))

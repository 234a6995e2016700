"""Write docs/cli.md, the reference of the command line, from the help of its commands: `make docs`."""

from collections.abc import Iterator
from pathlib import Path

import click

from pixcrawler_worker.cli.main import pixcrawler

PATH = Path(__file__).parents[1] / "docs" / "cli.md"
_HEAD = """# Command line reference

What `--help` prints for each command. Exit codes: 0 done; 1 the job or check failed; 2 the call was wrong; 130
interrupted. Errors are one line on stderr; `--debug` adds the traceback. This page is generated:
`make docs` writes it again.
"""


def reference() -> str:
    """Return the document."""
    return "\n".join([_HEAD, *_sections(pixcrawler, None, "pixcrawler")])


def _sections(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    settings = {"terminal_width": 80, "max_content_width": 80, **command.context_settings}
    context = command.context_class(command, info_name=name, parent=parent, **settings)
    title = context.command_path
    yield f"## {title}\n\n```text\n{context.get_help().rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            if not found.hidden:
                yield from _sections(found, context, below)


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")

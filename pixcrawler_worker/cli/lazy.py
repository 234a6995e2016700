"""Groups of commands whose modules are imported when they are called, so that a help text imports little but click."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from pixcrawler_worker.cli import interrupts
from pixcrawler_worker.domain.naming import hint


class LazyCommand(NamedTuple):
    """Where a command is: its module in `cli`, its name there, and its line in the help text of the group."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group that imports a command when it is called.

    Args:
        of: the commands by name, in the order in which a newcomer needs them.
        settings: see `click.Group`.
    """

    def __init__(self, *, of: Mapping[str, LazyCommand], **settings: Any) -> None:  # noqa: ANN401 - as click has it
        super().__init__(**settings)
        self._of = of

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        del ctx
        return list(self._of)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        del ctx
        if cmd_name not in self._of:
            return None
        place = self._of[cmd_name]
        command: click.Command = getattr(interrupts.load(f"pixcrawler_worker.cli.{place.module}"), place.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command when there is none of that name."""
        name = args[0]
        if name not in self._of and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}; {hint(name, self._of)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lines of the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self._of.items()])

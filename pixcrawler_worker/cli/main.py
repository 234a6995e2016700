"""`pixcrawler`: the group of commands, and how every one of them ends.

A command's module is imported when the command is called, so `pixcrawler --help` costs no more than click itself.
"""

import importlib
import signal
import sys
from typing import NoReturn

import click

from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError, TransientError

#: Name of a command, where it is, and its line in the help text.
_COMMANDS = {
    "demo": ("demo", "demo", "Sample pictures through the whole service, with no internet."),
    "build": ("build", "build", "Turn keywords into a folder of pictures."),
    "up": ("up", "up", "Run PostgreSQL, Redis, a worker and Flower, for development."),
    "crawl": ("crawl", "crawl", "Create a crawl job and start it."),
    "validate": ("validate", "validate", "Judge the images of a crawl job, and say why."),
    "export": ("export", "export", "Make archives of the images of a crawl job."),
    "jobs": ("jobs", "jobs", "List, show, watch, cancel and retry jobs."),
    "sources": ("sources", "sources", "Show who can be asked for pictures, and on what terms."),
    "settings": ("settings", "settings", "Show every setting, its value, and where that comes from."),
    "doctor": ("doctor", "doctor", "Check that everything the service needs is there."),
    "db": ("db", "db", "Look after the database."),
    "storage": ("storage", "storage", "Compare the storage with the database."),
    "completion": ("completion", "completion", "Print what makes a shell complete commands."),
}
_MODULE, _ATTRIBUTE, _HELP = range(3)

_INTERRUPTED = 128 + signal.SIGINT


class _Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of a newcomer's day."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"pixcrawler_worker.cli.{_COMMANDS[cmd_name][_MODULE]}")
        command: click.Command = getattr(module, _COMMANDS[cmd_name][_ATTRIBUTE])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which command was probably meant when there is none of that name."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}; {hint(name, _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' lines without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, command[_HELP]) for name, command in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pixcrawler-worker", prog_name="pixcrawler")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def pixcrawler(*, debug: bool) -> None:
    """Turn keywords and URL lists into image datasets."""
    # Read by `main`, which is outside of any context when it needs it.
    del debug


def main() -> NoReturn:
    """Run a command; errors are one line on stderr.

    Exit codes: 0 done; 1 the job or check failed; 2 the call was wrong; 130 interrupted.
    """
    try:
        sys.exit(pixcrawler(prog_name="pixcrawler", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"pixcrawler: {_told(error)}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)
    except (PermanentError, TransientError) as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"pixcrawler: {error}", err=True)
        sys.exit(1)


def _told(error: click.ClickException) -> str:
    """Return an error in one line, with the command whose help tells more."""
    line = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{line.rstrip('.')} ({error.ctx.command_path} --help tells more)"
    return line


if __name__ == "__main__":
    main()

"""`pixcrawler`: the group of commands, and how every one of them ends.

A command's module is imported when the command is called, so `pixcrawler --help` costs no more than click itself.
"""

import importlib
import signal
import sys
from typing import NoReturn

import click

from pixcrawler_worker.errors import PermanentError, TransientError

#: Name of a command, where it is, and its line in the help text.
_COMMANDS = {
    "demo": ("demo", "demo", "Sample pictures through the whole service, with no internet."),
    "up": ("up", "up", "PostgreSQL, Redis and a worker in the foreground, for development."),
    "crawl": ("crawl", "crawl", "Create a crawl job and start it."),
    "jobs": ("jobs", "jobs", "List, show, watch, cancel and retry jobs."),
    "doctor": ("doctor", "doctor", "Check that everything the service needs is there."),
    "db": ("db", "db", "Look after the database."),
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
        sys.exit(pixcrawler(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)
    except (PermanentError, TransientError) as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"pixcrawler: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

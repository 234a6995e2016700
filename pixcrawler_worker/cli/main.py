"""`pixcrawler`: the group of commands, and their errors and exit codes.

The module of a command is imported when the command is called, so `pixcrawler --help` imports little but click.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from pixcrawler_worker.cli import interrupts
from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.domain.safe_text import safe, safe_lines
from pixcrawler_worker.errors import WorkerError
from pixcrawler_worker.masking import mask

#: The commands by name: module, attribute, and line in the help text.
_COMMANDS = {
    "demo": ("demo", "demo", "Run sample images through the whole service, offline."),
    "build": ("build", "build", "Turn keywords into a dataset in a directory."),
    "up": ("up", "up", "Run PostgreSQL, Redis, a worker and Flower for development."),
    "crawl": ("crawl", "crawl", "Create a crawl job and start it."),
    "validate": ("validate", "validate", "Validate the images of a crawl job."),
    "browse": ("browse", "browse", "Look at all images of a crawl job, and mark some."),
    "export": ("export", "export", "Export the images of a crawl job as a dataset."),
    "push": ("push", "push", "Publish an export on the Hugging Face Hub."),
    "jobs": ("jobs", "jobs", "List, show, watch, cancel and retry jobs."),
    "quarantine": ("quarantine", "quarantine_command", "List messages that no worker could read."),
    "sources": ("sources", "sources", "List the sources with their limits and terms of use."),
    "settings": ("settings", "show_settings", "Show every setting with its origin and value."),
    "doctor": ("doctor", "doctor", "Check all that a worker needs."),
    "metrics": ("metrics", "serve_metrics", "Serve the state of the service for Prometheus."),
    "health": ("health", "health", "Probe the worker of this container."),
    "db": ("db", "db", "Maintain the database."),
    "storage": ("storage", "storage", "Compare the storage with the database."),
    "completion": ("completion", "completion", "Print the script for shell completion."),
}
_MODULE, _ATTRIBUTE, _HELP = range(3)


class _LazyGroup(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which a newcomer needs them."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = interrupts.load(f"pixcrawler_worker.cli.{_COMMANDS[cmd_name][_MODULE]}")
        command: click.Command = getattr(module, _COMMANDS[cmd_name][_ATTRIBUTE])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command when there is none of that name."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}; {hint(name, _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lines of the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, command[_HELP]) for name, command in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pixcrawler-worker", prog_name="pixcrawler")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def pixcrawler(*, debug: bool) -> None:
    """Turn keywords and URL lists into image datasets."""
    # `main` takes it from the arguments, wherever it is; here it is for the help.
    del debug


def main() -> NoReturn:
    """Run a command; errors are one line on stderr.

    Exit codes: 0 done; 1 the job or check failed; 2 invalid arguments; 130 interrupted.
    """
    try:
        code = _run()
    except SystemExit as ended:
        code = ended.code
    finally:
        # While Python ends, a Ctrl-C would be a traceback of whatever it meets.
        interrupts.leave_at_once()
    if code == interrupts.EXIT_CODE:
        interrupts.leave()
    sys.exit(code)


def _run() -> str | int | None:
    """Run a command and return its exit code; the error is printed."""
    arguments, debug = _without_debug(sys.argv[1:])
    try:
        return pixcrawler(arguments, prog_name="pixcrawler", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"pixcrawler: {safe(mask(_one_line(error)))}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return interrupts.EXIT_CODE
    except WorkerError as error:
        shown = mask(traceback.format_exc()) if debug else f"pixcrawler: {error}"
        click.echo(safe_lines(shown), err=True)
        return 1
    except Exception:  # noqa: BLE001 - a bug is shown, without what a library was given and repeats in its text
        click.echo(safe_lines(mask(traceback.format_exc())), err=True)
        return 1


def _without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """Return the arguments without `--debug`, which is an option of all commands, and whether it is there."""
    end = words.index("--") if "--" in words else len(words)
    options = [word for word in words[:end] if word != "--debug"]
    return [*options, *words[end:]], len(options) < end


def _one_line(error: click.ClickException) -> str:
    """Return an error in one line, with the command whose help explains the usage."""
    line = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{line.rstrip('.')} (see {error.ctx.command_path} --help)"
    return line


if __name__ == "__main__":
    main()

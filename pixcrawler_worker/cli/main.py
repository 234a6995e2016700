"""`pixcrawler`: the group of commands, and their errors and exit codes.

The module of a command is imported when the command is called, so `pixcrawler --help` imports little but click.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from pixcrawler_worker.cli import interrupts
from pixcrawler_worker.cli.lazy import LazyCommand, LazyGroup
from pixcrawler_worker.domain.safe_text import safe, safe_lines
from pixcrawler_worker.errors import WorkerError
from pixcrawler_worker.masking import mask

#: The commands by name.
_COMMANDS = {
    "demo": LazyCommand("demo", "demo", "Run sample images through the whole service, offline."),
    "build": LazyCommand("build", "build", "Turn keywords into a dataset in a directory."),
    "up": LazyCommand("up", "up", "Run PostgreSQL, Redis, a worker and Flower for development."),
    "crawl": LazyCommand("crawl", "crawl", "Create a crawl job and start it."),
    "validate": LazyCommand("validate", "validate", "Validate the images of a crawl job."),
    "browse": LazyCommand("browse", "browse", "Look at all images of a crawl job, and mark some."),
    "export": LazyCommand("export", "export", "Export the images of a crawl job as a dataset."),
    "push": LazyCommand("push", "push", "Publish an export on the Hugging Face Hub."),
    "jobs": LazyCommand("jobs", "jobs", "List, show, watch, cancel and retry jobs."),
    "quarantine": LazyCommand("quarantine", "quarantine_command", "List messages that no worker could read."),
    "sources": LazyCommand("sources", "sources", "List the sources with their limits and terms of use."),
    "settings": LazyCommand("settings", "show_settings", "Show every setting with its origin and value."),
    "doctor": LazyCommand("doctor", "doctor", "Check all that a worker needs."),
    "metrics": LazyCommand("metrics", "serve_metrics", "Serve the state of the service for Prometheus."),
    "health": LazyCommand("health", "health", "Probe the worker of this container."),
    "db": LazyCommand("db", "db", "Maintain the database."),
    "storage": LazyCommand("storage", "storage", "Compare the storage with the database."),
    "completion": LazyCommand("completion", "completion", "Print the script for shell completion."),
}


#: Errors of a disk or a quota that is full, which are no bugs.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@click.group(cls=LazyGroup, of=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
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
    _print_any_name()
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


def _print_any_name() -> None:
    """Have names of files that are no text printed as they are: in most locales Python has an error in their place."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")


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
    except Exception as error:  # noqa: BLE001 - a bug is shown, without what a library was given and repeats in its text
        shown = traceback.format_exc()
        if isinstance(error, OSError) and error.errno in _NO_ROOM and not debug:
            shown = _without_room(error)
        click.echo(safe_lines(mask(shown)), err=True)
        return 1


def _without_room(error: OSError) -> str:
    if error.filename is None:
        _drop_output()
    return f"pixcrawler: {error.filename or 'the output'} cannot be written: {error.strerror}"


def _drop_output() -> None:
    """Have Python not write what is left of the output again when it ends."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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

"""What commands share: finding the services, arguments, and how things are printed."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from pixcrawler_worker import embedded, logs, runtime
from pixcrawler_worker import settings as configuration
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.settings import Settings


class _Number(click.ParamType[str | int, int]):
    """A whole number as PostgreSQL's `integer` takes it: an id, or how many of something."""

    name = "number"
    most = 2**31 - 1

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number", param, ctx)
        if not 1 <= number <= self.most:
            self.fail(f"{number} is not between 1 and {self.most}", param, ctx)
        return number


class _Job(click.ParamType[str | JobRef, JobRef]):
    """A job: the number of a crawl job, or the kind of another one before its number, as in `export:3`."""

    name = "job"

    def convert(self, value: str | JobRef, param: click.Parameter | None, ctx: click.Context | None) -> JobRef:
        if isinstance(value, JobRef):
            return value
        kind, colon, number = value.rpartition(":")
        found = JOB_KINDS.get(kind) if colon else CRAWL
        if found is None:
            self.fail(f"{value!r} names no job: 3 is a crawl job, validation:3 and export:3 are others", param, ctx)
        return found.table.ref(NUMBER.convert(number, param, ctx))


out = Console(highlight=False)
NUMBER = _Number()
JOB = _Job()


def settings() -> Settings:
    """Return the settings, with the embedded services that `pixcrawler up` runs where no others are configured.

    What was found goes into the environment, for everything that this process starts or imports later.
    """
    found = configuration.load()
    if found.database_url is None and (services := embedded.find(found.data_dir)):
        adopt(services)
        found = configuration.load()
    if found.broker_url is not None:
        # It may stand in `.env`, which the client does not read.
        os.environ["PIXCRAWLER_BROKER_URL"] = found.broker_url.get_secret_value()
    return found


def adopt(services: embedded.Services) -> None:
    """Use these services in this process and in those it starts."""
    os.environ["PIXCRAWLER_DATABASE_URL"] = services.database_url
    os.environ["PIXCRAWLER_BROKER_URL"] = services.broker_url


@contextlib.contextmanager
def connected() -> Iterator[Runtime]:
    """Keep a runtime on the configured services, or on the embedded ones, while the context is open."""
    found = settings()
    found.require_database()
    logs.configure(found.log_format, level=30)
    opened = runtime.connect(found)
    try:
        yield opened
    finally:
        opened.close()


def read_object(file: TextIO) -> dict[str, Any]:
    """Return the JSON object in a file that a call names.

    Raises:
        click.UsageError: when it holds anything else.
    """
    try:
        found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{file.name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError(f"{file.name} must hold an object")
    return found


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while files are counted, on a terminal; give what is to be told the number so far."""
    if not out.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda count: progress.update(bar, completed=count)


def printable(text: str) -> str:
    """Return somebody else's text without control characters, so that it does nothing to a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def shown(text: str) -> str:
    """Return somebody else's text for a table: without control characters, and with nothing in it taken for markup."""
    return escape(printable(text))

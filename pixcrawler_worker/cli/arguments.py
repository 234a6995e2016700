"""Types of command line arguments that several commands take."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import click
from click.shell_completion import CompletionItem

from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.displays import DISPLAYS
from pixcrawler_worker.domain.postgres_types import MAX_INT4


class _Number(click.ParamType[str | int, int]):
    """A positive integer that fits into PostgreSQL's `integer`: an id or a count."""

    name = "number"
    limit = MAX_INT4

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"expected an integer, got {value!r}", param, ctx)
        if not 1 <= number <= self.limit:
            self.fail(f"{number} is not between 1 and {self.limit}", param, ctx)
        return number


class _Job(click.ParamType[str | JobRef, JobRef]):
    """A job: the id of a crawl job, or the name of another kind before the id, as in `export:3`."""

    name = "job"

    def convert(self, value: str | JobRef, param: click.Parameter | None, ctx: click.Context | None) -> JobRef:
        if isinstance(value, JobRef):
            return value
        name, colon, number = value.rpartition(":")
        display = DISPLAYS.get(name)
        table = display.view.table if colon and display else None if colon else CRAWL_JOBS
        if table is None:
            kinds = ", ".join(f"{name}:3" for name in DISPLAYS)
            self.fail(f"{value!r} is not a job: expected the id of a crawl job, or one of {kinds}", param, ctx)
        return table.ref(NUMBER.convert(number, param, ctx))


NUMBER = _Number()
JOB = _Job()


def completing(names: Callable[[], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """Return what completes a word in a shell to one of the names; they are asked for then and not before."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(name) for name in names() if name.startswith(incomplete)]

    return complete


def read_json_object(file: TextIO) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        click.UsageError: when the file holds anything else.
    """
    try:
        content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{file.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise click.UsageError(f"{file.name}: expected a JSON object, got {type(content).__name__}")
    return content

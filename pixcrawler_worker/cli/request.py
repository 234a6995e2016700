"""What is asked of a crawl on the command line: the options that its commands share, and what they come to."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypedDict, TypeVar

import click
from click.shell_completion import CompletionItem

from pixcrawler_worker.cli import console
from pixcrawler_worker.crawl import options
from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.domain import licenses as known_licenses
from pixcrawler_worker.domain import planning
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import protocol

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULT_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """A crawl as it was asked for."""

    keywords: tuple[str, ...]
    options: CrawlOptions
    max_images: int


def _complete_source(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    del ctx, param
    return [CompletionItem(name) for name in protocol.SOURCES.installed() if name.startswith(incomplete)]


def _complete_license(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    del ctx, param
    return [CompletionItem(name) for name in known_licenses.FAMILIES if name.startswith(incomplete)]


_OPTIONS = (
    click.option("--max-images", type=console.NUMBER, help="Images wanted.  [default: the list's length, or 1000]"),
    click.option(
        "--source",
        "sources",
        multiple=True,
        metavar="NAME",
        shell_complete=_complete_source,
        help="Source to ask; may be repeated.  [default: all that are ready]",
    ),
    click.option(
        "--license",
        "licenses",
        multiple=True,
        metavar="NAME",
        shell_complete=_complete_license,
        help="License to take, such as cc0 or cc-by; may be repeated.  [default: all]",
    ),
    click.option("--min-width", type=console.NUMBER, metavar="PIXELS", help="Least width.  [default: 32]"),
    click.option("--min-height", type=console.NUMBER, metavar="PIXELS", help="Least height.  [default: 32]"),
    click.option(
        "--urls",
        type=click.File(errors="replace"),
        help="File with one address a line, or - for stdin; one KEYWORD labels it.",
    ),
)


def takes(command: Command) -> Command:
    """Give a command the options that `read` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Asked(TypedDict):
    """What click makes of the options."""

    max_images: int | None
    sources: tuple[str, ...]
    licenses: tuple[str, ...]
    min_width: int | None
    min_height: int | None
    urls: TextIO | None


def read(keywords: Iterable[str], asked: Asked) -> Request:
    """Return what the call asks for.

    Raises:
        click.UsageError: when it cannot be meant; the message says what is wrong, with the nearest name.
    """
    try:
        labels = planning.keywords(list(keywords))
        for name in asked["sources"]:
            protocol.SOURCES.require(name)
        listed = () if asked["urls"] is None else addresses(asked["urls"])
        given = {
            "sources": list(asked["sources"]),
            "urls": list(listed),
            "licenses": list(asked["licenses"]),
            "min_width": asked["min_width"],
            "min_height": asked["min_height"],
        }
        parsed = options.parse({name: value for name, value in given.items() if value})
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    if listed and len(labels) > 1:
        raise click.UsageError("a URL list has one label: give one KEYWORD with --urls")
    return Request(tuple(keywords), parsed, asked["max_images"] or len(listed) or _DEFAULT_IMAGES)


def addresses(lines: TextIO) -> tuple[str, ...]:
    """Return the addresses of a list: a line each, without blank lines and those that begin with `#`.

    Raises:
        PermanentError: when there is none.
    """
    # What the database cannot hold, and the mark that some editors put at the beginning, are no part of an address.
    texts = (line.replace("\x00", "").removeprefix("\ufeff").strip() for line in lines)
    found = tuple(text for text in texts if text and not text.startswith("#"))
    if not found:
        raise PermanentError(f"{Path(lines.name).name} has no addresses: it needs one a line")
    return found

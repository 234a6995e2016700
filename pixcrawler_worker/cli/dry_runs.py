"""`pixcrawler build --dry-run`: what would be downloaded, from the sources themselves."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import click
from rich.table import Table

from pixcrawler_worker import logs
from pixcrawler_worker.cli import console, environment
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl.preview import UNKNOWN, BadEntry, Preview, preview
from pixcrawler_worker.domain import explanations, licenses
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.runtime import SearchRuntime

#: Rows of a table, and wrong entries, that are shown; `--json` has all.
_MAX_ROWS = 10


def run(crawl: CrawlArguments, *, as_json: bool) -> bool:
    """Search the sources of a crawl, print what it would download, and return whether that is anything.

    Nothing is downloaded, and nothing is written: there is no job, no file and no service that is started.

    Raises:
        PermanentError: when a source is not configured.
    """
    assert crawl.listed is not None
    settings, listed = environment.load_settings(), crawl.listed
    logs.configure(settings.log_format, level=30)

    async def search() -> Preview:
        async with SearchRuntime.of(settings) as runtime:
            return await preview(
                runtime,
                crawl.keywords,
                crawl.options,
                listed,
                max_images=crawl.max_images,
                keeps_candidates=as_json,
            )

    with console.out.status("searching"):
        found = asyncio.run(search())
    if as_json:
        click.echo(json.dumps(_as_json(crawl, found), indent=2))
    else:
        _print(crawl, found)
    return found.count > 0


def _print(crawl: CrawlArguments, found: Preview) -> None:
    console.out.print("dry run: nothing is downloaded, and no job is created\n", soft_wrap=True)
    console.out.print(_searches(found))
    if found.reasons:
        reasons = [(f"{name}: {explanations.explain(name).meaning}", n) for name, n in found.reasons.most_common()]
        _print_counts("not downloaded", reasons)
    if any(name != UNKNOWN for name in found.licenses):
        _print_counts("license", [(_license(crawl, name), count) for name, count in found.licenses.most_common()])
    if found.hosts:
        _print_counts("host", found.hosts.most_common())
    if found.bad:
        _print_bad(found.bad)
    for one in found.searches.values():
        for error in dict.fromkeys(one.errors):
            click.echo(f"pixcrawler: {one.source}, {console.printable(one.keyword)}: {error}", err=True)
    console.out.print(_summary(crawl, found), soft_wrap=True)


def _searches(found: Preview) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("source", no_wrap=True)
    table.add_column("keyword", no_wrap=True, overflow="ellipsis")
    for heading in ("candidates", "repeated", "rejected", "usable"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in found.searches.values():
        repeated = one.reasons[Reason.DUPLICATE_URL]
        cells = (one.found, repeated, one.reasons.total() - repeated, one.usable)
        table.add_row(
            console.escaped(one.source),
            console.escaped(one.keyword),
            *map(str, cells),
            "failed" if one.errors else "and more" if one.more else "",
        )
    return table


def _print_counts(heading: str, rows: Sequence[tuple[str, int]]) -> None:
    """Print a table of counts, whose last row sums up those that are not shown."""
    table = Table(box=None, pad_edge=False)
    table.add_column("URLs", justify="right", no_wrap=True)
    table.add_column(heading, overflow="ellipsis", no_wrap=True)
    for name, count in rows[:_MAX_ROWS]:
        table.add_row(str(count), console.escaped(name))
    if left := rows[_MAX_ROWS:]:
        table.add_row(str(sum(count for _, count in left)), f"in {len(left)} more rows, which --json has")
    console.out.print()
    console.out.print(table)


def _license(crawl: CrawlArguments, name: str) -> str:
    is_allowed = licenses.is_allowed(None if name == UNKNOWN else name, crawl.options.licenses)
    return name if is_allowed else f"{name}, not accepted by --license"


def _print_bad(bad: Sequence[BadEntry]) -> None:
    console.out.print()
    for one in bad[:_MAX_ROWS]:
        line = "" if one.line is None else f"line {one.line}: "
        text = f"{line}{one.reason}: {console.printable(one.url)}"
        console.out.print(console.escaped(text), no_wrap=True, overflow="ellipsis")
    if len(bad) > _MAX_ROWS:
        console.out.print(f"and {len(bad) - _MAX_ROWS} more, which --json has")


def _summary(crawl: CrawlArguments, found: Preview) -> str:
    usable, wanted = found.count, crawl.max_images
    if not usable:
        return "\nnothing would be downloaded"
    if usable <= wanted:
        return f"\n{_counted(usable, 'URL')} would be downloaded, for {_counted(wanted, 'image')} at most"
    return f"\n{wanted} of {usable} URLs would be downloaded first; the others take the place of those that fail"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _as_json(crawl: CrawlArguments, found: Preview) -> dict[str, Any]:
    return {
        "max_images": crawl.max_images,
        "usable": found.count,
        "searches": [
            {
                "source": one.source,
                "keyword": one.keyword,
                "candidates": one.found,
                "usable": one.usable,
                "reasons": {str(reason): count for reason, count in one.reasons.most_common()},
                "more": one.more,
                "errors": list(dict.fromkeys(one.errors)),
            }
            for one in found.searches.values()
        ],
        "reasons": {str(reason): count for reason, count in found.reasons.most_common()},
        "licenses": dict(found.licenses.most_common()),
        "hosts": dict(found.hosts.most_common()),
        "bad": [
            {
                "line": one.line,
                "url": one.url,
                "reason": str(one.reason),
                "detail": one.detail,
            }
            for one in found.bad
        ],
        "candidates": [
            {
                "url": one.candidate.url,
                "label": one.label,
                "query": one.query,
                "source": one.source,
                "license": one.candidate.credit.license,
                "title": one.candidate.credit.title,
                "width": one.candidate.width,
                "height": one.candidate.height,
            }
            for one in found.usable
        ],
    }

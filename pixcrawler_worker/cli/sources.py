"""`pixcrawler sources`."""

import json
from typing import Any

import click

from pixcrawler_worker.cli import console, environment
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import source_config
from pixcrawler_worker.settings import Settings
from pixcrawler_worker.sources import protocol

#: Width of the column of names.
_INDENT = 18


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sources(*, as_json: bool) -> None:
    """List the sources: whether they are configured, their limits, and their terms of use."""
    settings = environment.load_settings()
    found = [_described(name, settings) for name in protocol.SOURCES.installed()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for position, source in enumerate(found):
        if position:
            click.echo()
        name = source["name"]
        for line in (source["state"], source.get("summary"), _limits(source), source.get("terms")):
            for part in console.wrapped(line or "", indent=_INDENT):
                console.out.print(f"{console.escaped(name):<{_INDENT}}{console.escaped(part)}", soft_wrap=True)
                name = ""


def _described(name: str, settings: Settings) -> dict[str, Any]:
    try:
        source, missing = protocol.look_at(name, source_config(settings, name))
    except PermanentError as error:
        return {"name": name, "ready": False, "state": str(error)}
    return {
        "name": name,
        "ready": missing is None,
        "state": missing or ("ready, for jobs that name it" if source.specialized else "ready"),
        "by_default": not source.specialized,
        "summary": source.summary,
        "terms": source.terms,
        "page_size": source.page_size,
        "depth": source.depth,
    }


def _limits(source: dict[str, Any]) -> str | None:
    page_size, depth = source.get("page_size"), source.get("depth")
    known = [f"{page_size} candidates per result page" if page_size else "", f"{depth:,} per keyword" if depth else ""]
    return ", ".join(filter(None, known)) or None

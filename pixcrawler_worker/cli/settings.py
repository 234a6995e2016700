"""`pixcrawler settings`."""

import json

import click

from pixcrawler_worker import settings as configuration
from pixcrawler_worker.cli import console


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def settings(*, as_json: bool) -> None:
    """Show every setting, its value, and where that comes from; secrets are masked."""
    told = configuration.explain(configuration.load())
    if as_json:
        rows = {entry.name: {"value": entry.value, "origin": entry.origin, "meaning": entry.meaning} for entry in told}
        click.echo(json.dumps(rows, indent=2))
        return
    # The value comes last: it may be of any length, and is never cut.
    widths = [max(map(len, column)) for column in zip(*((entry.name, entry.origin) for entry in told), strict=True)]
    for entry in told:
        value = "" if entry.value is None else console.shown(str(entry.value))
        line = f"{entry.name:<{widths[0]}}  {entry.origin:<{widths[1]}}  {value}".rstrip()
        console.out.print(line, style="dim" if entry.origin == "default" else None, soft_wrap=True)

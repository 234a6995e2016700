"""`pixcrawler settings`."""

import json

import click

from pixcrawler_worker import settings, settings_report
from pixcrawler_worker.cli import console


@click.command("settings")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_settings(*, as_json: bool) -> None:
    """Show every setting with its origin and value; secrets are masked."""
    entries = settings_report.report(settings.load())
    if as_json:
        rows = {one.name: {"value": one.value, "origin": one.origin, "meaning": one.meaning} for one in entries}
        click.echo(json.dumps(rows, indent=2))
        return
    # The value comes last: it may be of any length, and is never truncated.
    widths = [max(map(len, column)) for column in zip(*((one.name, one.origin) for one in entries), strict=True)]
    for one in entries:
        value = "" if one.value is None else console.escaped(str(one.value))
        line = f"{one.name:<{widths[0]}}  {one.origin:<{widths[1]}}  {value}".rstrip()
        console.out.print(line, style="dim" if one.origin == "default" else None, soft_wrap=True)

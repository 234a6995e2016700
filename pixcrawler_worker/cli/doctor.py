"""`pixcrawler doctor`."""

import json
import sys
from dataclasses import asdict

import click

from pixcrawler_worker import displays
from pixcrawler_worker.cli import console, environment

#: Columns besides the name before what a check has found.
_BEFORE = 8


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, as_json: bool) -> None:
    """Check all that a worker needs, and what waits; exit code 1 when a check fails.

    Settings, database, migrations, clock, queue, broker, workers, storage, sources, decoder and, where they are turned
    on, traces and error reports.
    """
    # All that it checks takes a while to import, and its help needs none of it.
    from pixcrawler_worker import health  # noqa: PLC0415

    tables = [display.view.table for display in displays.DISPLAYS.values()]
    results = health.run_checks(environment.load_settings(), tables)
    if as_json:
        # `well` is the former name of `ok`.
        click.echo(json.dumps([asdict(result) | {"well": result.ok} for result in results], indent=2))
    else:
        width = max(len(result.name) for result in results)
        for result in results:
            lines = console.wrapped(console.printable(result.detail), indent=width + _BEFORE) or [""]
            click.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:<{width}}  {lines[0]}".rstrip())
            for line in lines[1:]:
                click.echo(f"{'':<{width + _BEFORE}}{line}")
    if not all(result.ok for result in results):
        sys.exit(1)

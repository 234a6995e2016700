"""`pixcrawler doctor`."""

import json
import sys

import click

from pixcrawler_worker import health
from pixcrawler_worker.cli import connection


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, as_json: bool) -> None:
    """Check database, migrations, broker, storage, clock and sources; exit code 1 when one fails."""
    findings = health.examine(connection.load_settings())
    if as_json:
        found = [{"name": finding.name, "well": finding.well, "detail": finding.detail} for finding in findings]
        click.echo(json.dumps(found, indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{'ok  ' if finding.well else 'FAIL'}  {finding.name:<{width}}  {finding.detail}")
    if not all(finding.well for finding in findings):
        sys.exit(1)

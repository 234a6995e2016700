"""`pixcrawler health`."""

import sys
from pathlib import Path

import click

from pixcrawler_worker.broker import liveness


@click.command()
@click.option("--ready", is_flag=True, help="Fail also while the worker waits for the broker or the database.")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    envvar="PIXCRAWLER_HEALTH_FILE",
    required=True,
    help="The file that the worker writes.",
)
def health(*, ready: bool, path: Path) -> None:
    """Probe the worker of this container; exit code 1 when it hangs or has ended.

    The worker writes the file that PIXCRAWLER_HEALTH_FILE names every 5 seconds. Nothing is connected to: to check
    database, broker and storage, use `pixcrawler doctor`.
    """
    ok, detail = liveness.check(path, ready=ready)
    click.echo(detail)
    if not ok:
        sys.exit(1)

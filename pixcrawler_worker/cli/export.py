"""`pixcrawler export`."""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import click
from kombu.exceptions import OperationalError

from pixcrawler_worker import client, downloads
from pixcrawler_worker.cli import console, watching
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.job_views import CrawlView, ExportView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import options
from pixcrawler_worker.export.options import ExportOptions
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import Carrier


@click.command()
@click.argument("job_id", type=console.NUMBER, metavar="JOB", required=False)
@click.option("--format", "format_", type=click.Choice([one.value for one in Carrier]), help="What it is delivered as.")
@click.option("--layout", metavar="NAME", help="How the images lie in it; --layouts lists them.")
@click.option("--options", "file", type=click.File(encoding="utf-8"), help="File with options as JSON, or - for stdin.")
@click.option("--name", help="Name of the dataset.  [default: the crawl's]")
@click.option("--watch", is_flag=True, help="Show the export until it ends.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Wait for the end, and fetch the files into a folder, verified.",
)
@click.option("--layouts", is_flag=True, help="List the layouts and do nothing else.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of options and do nothing else.")
def export(
    *,
    job_id: int | None,
    format_: str | None,
    layout: str | None,
    file: TextIO | None,
    name: str | None,
    watch: bool,
    out: Path | None,
    layouts: bool,
    schema: bool,
) -> None:
    """Make archives of the images of a crawl job. Prints the id of the export.

    \b
    pixcrawler export 3 --watch
    pixcrawler export 3 --format tar --layout webdataset --out shards
    pixcrawler export 3 --options options.json
    """  # noqa: D301 - click's mark for lines it must not wrap
    if schema:
        click.echo(json.dumps(ExportOptions.model_json_schema(), indent=2))
        return
    if layouts:
        _list_layouts()
        return
    if job_id is None:
        raise click.UsageError("give the number of a crawl JOB, or --layouts, or --schema")
    asked = read(file, format_=format_, layout=layout)
    if out is not None:
        downloads.require_empty(out)
    with console.connected() as runtime:
        runtime.settings.require_broker()
        crawl = watching.require(runtime.sessions, CrawlView, job_id)
        export_id = transact(
            runtime.sessions,
            lambda session: job_rows.create_export_job(
                session, crawl_job_id=job_id, name=name or crawl.name, format_=format_ or Carrier.ZIP, options=asked
            ),
        )
        if export_id is None:
            raise PermanentError(f"crawl job {job_id} was deleted in this very moment")
        click.echo(export_id)
        start(export_id)
        if not watch and out is None:
            return
        ended = watching.watch(runtime.sessions, ExportView, export_id)
        if ended.status != "completed":
            sys.exit(1)
        if out is not None:
            fetched = downloads.fetch(runtime, ended, out)
            click.echo(f"fetched {len(fetched)} files into {out}, verified")


def read(file: TextIO | None, *, format_: str | None, layout: str | None) -> dict[str, Any]:
    """Return the options that a call asks for, as a row keeps them.

    Raises:
        click.UsageError: when they cannot be meant.
    """
    asked = {} if file is None else console.read_object(file)
    if layout is not None:
        asked["layout"] = layout
    try:
        options.parse(asked).layout_for(Carrier(format_ or Carrier.ZIP))
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    return asked


def start(export_id: int) -> None:
    """Send the message that starts an export; say so when the broker does not answer."""
    try:
        client.start_export(export_id)
    except OperationalError as error:
        click.echo(
            f"pixcrawler: the broker does not answer ({error}); export {export_id} is kept and starts when a worker "
            "sweeps",
            err=True,
        )


def _list_layouts() -> None:
    for name in protocol.LAYOUTS.installed():
        try:
            layout = protocol.load(name)
        except PermanentError as error:
            click.echo(f"{name:<14}{error}")
            continue
        click.echo(f"{name:<14}{'/'.join(sorted(layout.carriers)):<9}{layout.summary}")

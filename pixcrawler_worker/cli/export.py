"""`pixcrawler export`."""

import json
import sys
from pathlib import Path
from typing import TextIO

import click

from pixcrawler_worker import client
from pixcrawler_worker.cli import arguments, connection, console, export_arguments, job_status, job_watch, new_jobs
from pixcrawler_worker.cli.export_arguments import ExportArguments
from pixcrawler_worker.db.job_views import CrawlView, ExportView
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import download
from pixcrawler_worker.export.options import ExportOptions
from pixcrawler_worker.exporters import protocol

#: Width of the columns before the summary of a layout.
_INDENT = 23


@click.command()
@click.argument("job_id", type=arguments.NUMBER, metavar="JOB", required=False)
@export_arguments.add_options
@click.option(
    "--options", "file", type=click.File(encoding="utf-8-sig"), help="File with options as JSON, or - for stdin."
)
@click.option("--name", help="Name of the dataset.  [default: the name of the crawl job]")
@click.option("--watch", is_flag=True, help="Show the progress of the export until it ends.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Wait for the end, then download the files into an empty directory and verify their checksums.",
)
@click.option("--layouts", is_flag=True, help="List the layouts, and exit.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the options, and exit.")
def export(
    given: ExportArguments,
    *,
    job_id: int | None,
    file: TextIO | None,
    name: str | None,
    watch: bool,
    out: Path | None,
    layouts: bool,
    schema: bool,
) -> None:
    """Export the images of a crawl job as a dataset. Prints the id of the export.

    \b
    pixcrawler export 3 --watch
    pixcrawler export 3 --layout webdataset --out shards
    pixcrawler export 3 --resize 512 --split train=0.8,val=0.1,test=0.1
    pixcrawler export 3 --options options.json
    """  # noqa: D301 - click's mark for lines it must not wrap
    if schema:
        click.echo(json.dumps(ExportOptions.model_json_schema(), indent=2))
        return
    if layouts:
        _list_layouts()
        return
    if job_id is None:
        raise click.UsageError("give the id of a crawl JOB, or --layouts, or --schema")
    format_, options = export_arguments.parse(given, file)
    if out is not None:
        download.require_empty(out)
    with connection.connect() as runtime:
        runtime.settings.require_broker()
        crawl = job_status.require(runtime.sessions, CrawlView, job_id)
        export_id = new_jobs.create_export(runtime, job_id, name=name or crawl.name, format_=format_, options=options)
        click.echo(export_id)
        new_jobs.start(client.start_export, export_id, title=f"export {export_id}")
        if not watch and out is None:
            return
        ended = job_watch.watch(runtime.sessions, ExportView, export_id)
        if not job_watch.succeeded(ended):
            sys.exit(1)
        if out is not None:
            fetched = download.fetch(runtime, ended, out)
            click.echo(f"downloaded {len(fetched)} files into {out}, checksums verified")


def _list_layouts() -> None:
    for name in protocol.LAYOUTS.installed():
        try:
            layout = protocol.load(name)
        except PermanentError as error:
            click.echo(f"{name:<14}{error}")
            continue
        lines = console.wrapped(layout.summary, indent=_INDENT)
        click.echo(f"{name:<14}{'/'.join(sorted(layout.export_formats)):<9}{lines[0]}")
        for line in lines[1:]:
            click.echo(f"{'':<{_INDENT}}{line}")

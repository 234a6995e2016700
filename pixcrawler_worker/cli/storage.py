"""`pixcrawler storage`."""

import json
import sys
from dataclasses import asdict

import click

from pixcrawler_worker import inventory
from pixcrawler_worker.cli import arguments, connection, console, job_status
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.inventory import Inventory

#: Addresses of a kind that are printed.
_SHOWN = 20


@click.group()
def storage() -> None:
    """Look after the storage."""


@storage.command()
@click.argument("job_id", type=arguments.NUMBER, metavar="JOB", required=False)
@click.option("--fix", is_flag=True, help="Remove files without a row, and rows without a file, of jobs that are over.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def verify(*, job_id: int | None, fix: bool, as_json: bool) -> None:
    """Compare the rows of images with the files in storage, of one crawl JOB or of all; exit code 1 when they differ.

    A job counts as over when it ended twenty minutes ago: until then somebody may still write.
    """
    with connection.connect() as runtime:
        if job_id is not None:
            job_status.require(runtime.sessions, CrawlView, job_id)
        wanted = inventory.every(runtime) if job_id is None else [job_id]
        with console.progress_bar("jobs", len(wanted)) as looked:
            found = inventory.verify(runtime, wanted, fix=fix, looked=looked)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"well": found.well}, indent=2))
    else:
        _tell(found)
    if not found.well:
        sys.exit(1)


def _tell(found: Inventory) -> None:
    click.echo(f"{found.jobs:,} jobs, {found.images:,} images, {found.files:,} files")
    for what, urls in (
        ("rows without a file", found.missing),
        ("files of another size than their rows say", found.resized),
        ("files without a row", found.stray),
    ):
        if urls:
            click.echo(f"{len(urls):,} {what}:")
            for url in urls[:_SHOWN]:
                click.echo(f"  {console.printable(url)}")
            if len(urls) > _SHOWN:
                click.echo(f"  and {len(urls) - _SHOWN:,} more: --json has them all")
    if found.elsewhere:
        click.echo(f"{found.elsewhere:,} images lie in another storage and were not looked at")
    if found.suspicious:
        click.echo(f"{found.suspicious:,} jobs have no file here at all and were left alone: is this the storage?")
    if found.mended:
        click.echo(f"{found.mended:,} of them removed")
    if found.well:
        click.echo("rows and files agree")

"""`pixcrawler storage`."""

import json
import sys

import click

from pixcrawler_worker.cli import arguments, connection, console, job_status
from pixcrawler_worker.crawl import storage_audit
from pixcrawler_worker.crawl.storage_audit import StorageAudit
from pixcrawler_worker.db.job_views import CrawlView

#: Maximum number of URLs of each kind that are printed.
_MAX_PRINTED = 20


@click.group()
def storage() -> None:
    """Check the storage."""


@storage.command()
@click.argument("job_id", type=arguments.NUMBER, metavar="JOB", required=False)
@click.option(
    "--fix", is_flag=True, help="Remove files without a row, and rows without a file, of jobs that have ended."
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def verify(*, job_id: int | None, fix: bool, as_json: bool) -> None:
    """Compare the rows of images with the files in storage, of one crawl JOB or of all; exit code 1 when they differ.

    Jobs that ended less than twenty minutes ago are not changed: a late attempt may still write.
    """
    with connection.connect() as runtime:
        if job_id is not None:
            job_status.require(runtime.sessions, CrawlView, job_id)
        job_ids = storage_audit.all_job_ids(runtime) if job_id is None else [job_id]
        with console.progress_bar("jobs", len(job_ids)) as progress:
            found = storage_audit.verify(runtime, job_ids, fix=fix, progress=progress)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(found)
    if not found.ok:
        sys.exit(1)


def _print(audit: StorageAudit) -> None:
    click.echo(f"{audit.jobs:,} jobs, {audit.images:,} images, {audit.files:,} files")
    for what, urls in (
        ("rows without a file", audit.missing),
        ("files of another size than in their rows", audit.resized),
        ("files without a row", audit.orphaned),
    ):
        if urls:
            click.echo(f"{len(urls):,} {what}:")
            for url in urls[:_MAX_PRINTED]:
                click.echo(f"  {console.printable(url)}")
            if len(urls) > _MAX_PRINTED:
                click.echo(f"  and {len(urls) - _MAX_PRINTED:,} more: --json prints all of them")
    if audit.elsewhere:
        click.echo(f"{audit.elsewhere:,} images are in another storage and were not compared")
    if audit.suspicious:
        click.echo(
            f"{audit.suspicious:,} jobs have no file in this storage and were not changed: is this the right storage?"
        )
    if audit.repaired:
        click.echo(f"{audit.repaired:,} of them removed")
    if audit.ok:
        click.echo("rows and files agree")

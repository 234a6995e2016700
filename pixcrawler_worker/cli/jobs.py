"""`pixcrawler jobs`."""

import json
import sys

import click
from rich.table import Table

from pixcrawler_worker import client, registry
from pixcrawler_worker.cli import arguments, connection, console, job_status, job_watch
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.jobs import submission


@click.group()
def jobs() -> None:
    """List, show, watch, cancel and retry jobs."""


@jobs.command("list")
@click.option("--limit", type=arguments.NUMBER, default=20, show_default=True, help="Number of jobs to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, limit: int, as_json: bool) -> None:
    """List the newest crawl jobs."""
    with connection.connect() as runtime:
        found = transact(runtime.sessions, lambda session: job_views.newest(session, CrawlView, limit=limit))
    if as_json:
        click.echo(json.dumps([job.as_json() for job in found], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "status", "progress", "images", "chunks"):
        table.add_column(heading, justify="right" if heading != "status" else "left", no_wrap=True)
    table.add_column("name", overflow="ellipsis", no_wrap=True)
    for job in found:
        table.add_row(
            str(job.id),
            job.status,
            f"{job.progress} %",
            f"{job.valid_images}/{job.max_images}",
            f"{job.completed_chunks}/{job.total_chunks}",
            console.escaped(job.name),
        )
    console.out.print(table if found else "no jobs yet: pixcrawler crawl KEYWORD --urls FILE")


@jobs.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(*, ref: JobRef, as_json: bool) -> None:
    """Show the counts, chunks and log of a job.

    Includes the rejection reasons of a crawl job, the findings of a validation, or the files of an export.
    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    with connection.connect() as runtime:
        job_status.print_table(runtime.sessions, ref, as_json=as_json)


@jobs.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
def watch(*, ref: JobRef) -> None:
    """Show the progress of a job until it ends. Exit code 1 when it failed or was cancelled.

    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    view = registry.kind_of(ref).display.view
    with connection.connect() as runtime:
        if job_watch.watch(runtime.sessions, view, ref.id).status != "completed":
            sys.exit(1)


@jobs.command()
@click.argument("job_id", type=arguments.NUMBER, metavar="JOB")
def cancel(*, job_id: int) -> None:
    """Cancel a crawl job. The images that it has stored are kept."""
    with connection.connect() as runtime:
        job_status.require(runtime.sessions, CrawlView, job_id)
        submission.cancel(runtime, CRAWL, job_id)
        console.out.print(job_status.line(job_status.require(runtime.sessions, CrawlView, job_id)), soft_wrap=True)


@jobs.command()
@click.argument("job_id", type=arguments.NUMBER, metavar="JOB")
def retry(*, job_id: int) -> None:
    """Run the failed and cancelled chunks of a crawl job again."""
    with connection.connect() as runtime:
        job = job_status.require(runtime.sessions, CrawlView, job_id)
        if not job.ended:
            console.out.print(f"job {job_id} is {job.status}: there is nothing to retry")
            return
        try:
            client.retry_crawl(job_id)
        except client.BrokerError as error:
            raise TransientError(f"the broker does not respond: {error}") from error
    console.out.print(f"job {job_id} is queued for a retry. Watch it: pixcrawler jobs watch {job_id}")

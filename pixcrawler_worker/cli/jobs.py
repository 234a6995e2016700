"""`pixcrawler jobs`."""

import json
import sys
from collections.abc import Iterable

import click
from rich.table import Table

from pixcrawler_worker import client, registry
from pixcrawler_worker.cli import arguments, connection, console, job_status, job_watch, quarantine
from pixcrawler_worker.cli.failures import failures
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import JobView
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import submission, sweeper


@click.group()
def jobs() -> None:
    """List, show, watch, cancel and retry jobs of all kinds.

    A crawl job is named by its id, as in 3; a validation or an export by its kind and its id, as in validation:3 and
    export:3.
    """


jobs.add_command(failures)


@jobs.command("list")
@click.option("--kind", type=click.Choice(list(registry.JOB_KINDS)), help="List jobs of one kind.  [default: all]")
@click.option("--limit", type=arguments.NUMBER, default=20, show_default=True, help="Number of jobs to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, kind: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs. The id is what the other commands take as JOB."""
    kinds = registry.JOB_KINDS.values() if kind is None else [registry.JOB_KINDS[kind]]

    def read(session: Session) -> list[JobView]:
        return [job for one in kinds for job in job_views.newest(session, one.display.view, limit=limit)]

    with connection.connect_to_data() as runtime:
        found = transact(runtime.sessions, read)
    # Of jobs that were created at the same time, those that work on the images of others are newer.
    found = sorted(found, key=lambda job: job.created_at)[::-1][:limit]
    if as_json:
        click.echo(json.dumps([job.as_json() for job in found], indent=2))
        return
    console.out.print(_table(found) if found else "no jobs yet. Create one, for example: pixcrawler crawl cat")
    quarantine.note(runtime.settings)


def _table(found: Iterable[JobView]) -> Table:
    # The name takes what the other columns leave: it may be long, and they may not be cut off.
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("id", "status", "progress", "images", "chunks"):
        table.add_column(heading, justify="right" if heading != "status" else "left", no_wrap=True)
    table.add_column("name", overflow="ellipsis", no_wrap=True, ratio=1)
    for job in found:
        done, total, _ = job.count
        table.add_row(
            job.argument,
            job.status,
            f"{job.progress} %",
            f"{done}/{total}",
            f"{job.completed_chunks}/{job.total_chunks}",
            console.escaped(job.name),
        )
    return table


@jobs.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--recipe",
    is_flag=True,
    help="Print the recipe of a crawl job and its dataset, as pixcrawler build --recipe takes it.",
)
def show(*, ref: JobRef, as_json: bool, recipe: bool) -> None:
    """Show the counts, chunks and log of a job.

    Includes the rejection reasons of a crawl job, the findings of a validation, or the files of an export.
    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    if recipe and (as_json or ref.table is not CRAWL_JOBS):
        raise click.UsageError("--recipe is for a crawl job, and without --json")
    with connection.connect_to_data() as runtime:
        if recipe:
            job_status.print_recipe(runtime, ref.id)
            return
        job_status.print_table(runtime.sessions, ref, as_json=as_json)
    if not as_json:
        quarantine.note(runtime.settings)


@jobs.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
def watch(*, ref: JobRef) -> None:
    """Show the progress of a job until it ends. Exit code 1 when it failed, was cancelled, or brought no image.

    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    view = registry.kind_of(ref).display.view
    has_worker = not connection.are_stopped()
    with connection.connect_to_data() as runtime:
        job = job_status.require(runtime.sessions, view, ref.id)
        if not has_worker and not job.ended:
            console.out.print(job_status.line(job), soft_wrap=True)
            raise PermanentError(f"{job.title} does not run. {_without_worker(job)}")
        if not job_watch.succeeded(job_watch.watch(runtime.sessions, view, ref.id)):
            sys.exit(1)


def _without_worker(job: JobView) -> str:
    """Return what runs a job of a data directory in which no service runs."""
    return f"No worker runs in this directory. Run it: pixcrawler build --job {job.crawl_id}, or all: pixcrawler up"


@jobs.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
def cancel(*, ref: JobRef) -> None:
    """Cancel a job that has not ended. Exit code 1 when it ended otherwise before.

    The images that a crawl job has stored are kept. A cancelled validation or export has the status failed, with
    "cancelled" as its error; the files of the export are deleted.
    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    kind = registry.kind_of(ref)
    with connection.connect_to_data() as runtime:
        job_status.require(runtime.sessions, kind.display.view, ref.id)
        cancelled = submission.cancel(runtime, kind, ref.id)
        job = job_status.require(runtime.sessions, kind.display.view, ref.id)
    if not cancelled and not job.cancelled:
        raise PermanentError(f"{job.title} is {job.status} already: there is nothing to cancel")
    console.out.print(job_status.line(job), soft_wrap=True)


@jobs.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
def retry(*, ref: JobRef) -> None:
    """Run the failed and cancelled chunks of a job again. What was completed is kept.

    Exit code 1 when the job must not run again, because it was started without its options.
    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    kind = registry.kind_of(ref)
    has_worker = not connection.are_stopped()
    with connection.connect_to_data() as runtime:
        job = job_status.require(runtime.sessions, kind.display.view, ref.id)
        if not job_status.has_retry(runtime.sessions, job):
            console.out.print(f"{job.title} is {job.status}: there is nothing to retry")
            return
        job_status.require_retry(runtime.sessions, job)
        if not has_worker:
            sweeper.unsent(runtime, submission.retry(runtime, kind, ref.id))
            console.out.print(f"{job.title} is queued for a retry. {_without_worker(job)}", soft_wrap=True)
            return
        try:
            client.send(Task(str(kind.retry_task)), ref.id)
        except client.BrokerError as error:
            raise TransientError(f"the broker does not respond: {error}") from error
    console.out.print(f"{job.title} is queued for a retry. Watch it: pixcrawler jobs watch {job.argument}")

"""`pixcrawler jobs watch`, `cancel` and `retry`."""

import sys

import click

from pixcrawler_worker import client, displays, registry
from pixcrawler_worker.cli import arguments, connection, console, environment, job_retry, job_status, job_watch
from pixcrawler_worker.db.job_views import JobView
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.jobs import submission, sweeper


@click.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
def watch(*, ref: JobRef) -> None:
    """Show the progress of a job until it ends. Exit code 1 when it failed, was cancelled, or brought no image.

    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    view = displays.display_of(ref).view
    has_worker = not environment.are_stopped()
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


@click.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
def cancel(*, ref: JobRef) -> None:
    """Cancel a job that has not ended. Exit code 1 when it ended otherwise before.

    The images that a crawl job has stored are kept. A cancelled validation or export has the status failed, with
    "cancelled" as its error; the files of the export are deleted.
    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    kind = registry.kind_of(ref)
    with connection.connect_to_data() as runtime:
        job_status.require(runtime.sessions, displays.display_of(ref).view, ref.id)
        cancelled = submission.cancel(runtime, kind, ref.id)
        job = job_status.require(runtime.sessions, displays.display_of(ref).view, ref.id)
    if not cancelled and not job.cancelled:
        raise PermanentError(f"{job.title} is {job.status} already: there is nothing to cancel")
    console.out.print(job_status.line(job), soft_wrap=True)


@click.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
def retry(*, ref: JobRef) -> None:
    """Run the failed and cancelled chunks of a job again. What was completed is kept.

    Exit code 1 when the job must not run again, because it was started without its options.
    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    kind = registry.kind_of(ref)
    has_worker = not environment.are_stopped()
    with connection.connect_to_data() as runtime:
        job = job_status.require(runtime.sessions, displays.display_of(ref).view, ref.id)
        if not job_retry.has_retry(runtime.sessions, job):
            console.out.print(f"{job.title} is {job.status}: there is nothing to retry")
            return
        job_retry.require_retry(runtime.sessions, job)
        if not has_worker:
            sweeper.unsent(runtime, submission.retry(runtime, kind, ref.id))
            console.out.print(f"{job.title} is queued for a retry. {_without_worker(job)}", soft_wrap=True)
            return
        try:
            client.send(Task(str(kind.retry_task)), ref.id)
        except client.BrokerError as error:
            raise TransientError(f"the broker does not respond: {error}") from error
    console.out.print(f"{job.title} is queued for a retry. Watch it: pixcrawler jobs watch {job.argument}")

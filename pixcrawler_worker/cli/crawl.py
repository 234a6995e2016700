"""`pixcrawler crawl`."""

import sys
from typing import Unpack

import click
from kombu.exceptions import OperationalError

from pixcrawler_worker import client
from pixcrawler_worker.cli import console, request, watching
from pixcrawler_worker.cli.request import Asked, Request
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime


@click.command()
@click.argument("keywords", nargs=-1, required=True, metavar="KEYWORD...")
@request.takes
@click.option("--project", type=console.NUMBER, metavar="ID", help="Project that the job belongs to.")
@click.option("--name", help="Name of the job.  [default: the keywords]")
@click.option("--watch", is_flag=True, help="Show the job until it ends.")
def crawl(
    *, keywords: tuple[str, ...], project: int | None, name: str | None, watch: bool, **asked: Unpack[Asked]
) -> None:
    """Create a crawl job, start it, and print its id.

    \b
    pixcrawler crawl cat --urls cats.txt --watch
    pixcrawler crawl "red panda" "snow leopard" --max-images 200
    """  # noqa: D301 - click's mark for lines it must not wrap
    wanted = request.read(keywords, asked)
    with console.connected() as runtime:
        runtime.settings.require_broker()
        job_id = create(runtime, wanted, project_id=project, name=name)
        click.echo(job_id)
        start(job_id)
        if watch and watching.watch(runtime.sessions, CrawlView, job_id).status != "completed":
            sys.exit(1)


def create(runtime: Runtime, wanted: Request, *, project_id: int | None = None, name: str | None = None) -> int:
    """Write the job's row and what it is started with; return its id.

    Raises:
        PermanentError: when there is no such project.
    """

    def insert(session: Session) -> int | None:
        job_id = job_rows.create_crawl_job(
            session,
            # An argument may be no text at all.
            name=(name or ", ".join(wanted.keywords)).encode("utf-8", "replace").decode(),
            keywords=list(wanted.keywords),
            max_images=wanted.max_images,
            project_id=project_id,
        )
        if job_id is not None:
            planner.record_options(runtime, session, job_id, wanted.options)
        return job_id

    job_id = transact(runtime.sessions, insert)
    if job_id is None:
        raise PermanentError(f"there is no project {project_id}")
    return job_id


def start(job_id: int) -> None:
    """Send the message that starts a job. Without a broker the sweep of any worker starts it a little later."""
    try:
        client.start_crawl(job_id)
    except OperationalError as error:
        click.echo(
            f"pixcrawler: the broker does not answer ({error}); job {job_id} is kept and starts when a worker sweeps",
            err=True,
        )

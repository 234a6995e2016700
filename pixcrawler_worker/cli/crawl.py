"""`pixcrawler crawl`."""

import sys
from pathlib import Path
from typing import TextIO

import click
from kombu.exceptions import OperationalError

from pixcrawler_worker import client
from pixcrawler_worker.cli import console
from pixcrawler_worker.crawl import options, planner
from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.db import intake
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import planning
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime

_DEFAULT_IMAGES = 1000


@click.command()
@click.argument("keywords", nargs=-1, required=True, metavar="KEYWORD...")
@click.option(
    "--urls",
    type=click.File(errors="replace"),
    help="File with one address a line, or - for stdin; one KEYWORD labels it.",
)
@click.option("--max-images", type=console.NUMBER, help="Images wanted.  [default: the list's length, or 1000]")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Source to ask; may be repeated.")
@click.option("--project", type=console.NUMBER, metavar="ID", help="Project that the job belongs to.")
@click.option("--name", help="Name of the job.  [default: the keywords]")
@click.option("--watch", is_flag=True, help="Show the job until it ends.")
def crawl(
    *,
    keywords: tuple[str, ...],
    urls: TextIO | None,
    max_images: int | None,
    sources: tuple[str, ...],
    project: int | None,
    name: str | None,
    watch: bool,
) -> None:
    """Create a crawl job, start it, and print its id.

    \b
    pixcrawler crawl cat --urls cats.txt --watch
    pixcrawler crawl "red panda" "snow leopard" --max-images 200
    """  # noqa: D301 - click's mark for lines it must not wrap
    listed = () if urls is None else addresses(urls)
    raw: dict[str, object] = {"urls": list(listed)} if listed else {}
    asked = options.parse(raw | ({"sources": list(sources)} if sources else {}))
    with console.connected() as runtime:
        runtime.settings.require_broker()
        job_id = create(
            runtime,
            keywords=list(keywords),
            asked=asked,
            max_images=max_images or len(listed) or _DEFAULT_IMAGES,
            project_id=project,
            name=name,
        )
        click.echo(job_id)
        start(job_id)
        if watch and console.watch(runtime.sessions, job_id).status != "completed":
            sys.exit(1)


def create(
    runtime: Runtime,
    *,
    keywords: list[str],
    asked: CrawlOptions,
    max_images: int,
    project_id: int | None = None,
    name: str | None = None,
) -> int:
    """Write the job's row and what it is started with; return its id.

    Raises:
        PermanentError: when the keywords cannot be used, or there is no such project.
    """
    planning.keywords(keywords)

    def insert(session: Session) -> int | None:
        job_id = intake.create_crawl_job(
            session,
            # An argument may be no text at all.
            name=(name or ", ".join(keywords)).encode("utf-8", "replace").decode(),
            keywords=keywords,
            max_images=max_images,
            project_id=project_id,
        )
        if job_id is not None:
            planner.keep(runtime, session, job_id, asked)
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


def addresses(lines: TextIO) -> tuple[str, ...]:
    """Return the addresses of a list: a line each, without blank lines and those that begin with `#`.

    Raises:
        PermanentError: when there is none.
    """
    # What the database cannot hold, and the mark that some editors put at the beginning, are no part of an address.
    texts = (line.replace("\x00", "").removeprefix("\ufeff").strip() for line in lines)
    found = tuple(text for text in texts if text and not text.startswith("#"))
    if not found:
        raise PermanentError(f"{Path(lines.name).name} has no addresses: it needs one a line")
    return found

"""Creating and starting jobs, as several commands do."""

from collections.abc import Callable
from typing import Any

import click

from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.client import BrokerError
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.postgres_types import storable
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime


def create_crawl(
    runtime: Runtime, crawl: CrawlArguments, *, project_id: int | None = None, name: str | None = None
) -> int:
    """Insert a crawl job with its options; return its id.

    Raises:
        PermanentError: when there is no such project.
    """

    def insert(session: Session) -> int | None:
        job_id = job_rows.create_crawl_job(
            session,
            # An argument may hold bytes that are not UTF-8.
            name=storable(name or ", ".join(crawl.keywords)),
            keywords=list(crawl.keywords),
            max_images=crawl.max_images,
            project_id=project_id,
        )
        if job_id is not None:
            planner.record_options(runtime, session, job_id, crawl.options)
        return job_id

    job_id = transact(runtime.sessions, insert)
    if job_id is None:
        raise PermanentError(f"there is no project {project_id}")
    return job_id


def create_validation(runtime: Runtime, crawl_job_id: int, *, name: str, rules: dict[str, Any]) -> int:
    """Insert a validation job; return its id.

    Raises:
        PermanentError: when there is no such crawl job.
    """

    def insert(session: Session) -> int | None:
        return job_rows.create_validation_job(session, crawl_job_id=crawl_job_id, name=name, rules=rules)

    return _require_crawl(transact(runtime.sessions, insert), crawl_job_id)


def create_export(runtime: Runtime, crawl_job_id: int, *, name: str, format_: str, options: dict[str, Any]) -> int:
    """Insert an export job; return its id.

    Raises:
        PermanentError: when there is no such crawl job.
    """

    def insert(session: Session) -> int | None:
        return job_rows.create_export_job(
            session, crawl_job_id=crawl_job_id, name=name, format_=format_, options=options
        )

    return _require_crawl(transact(runtime.sessions, insert), crawl_job_id)


def start(send: Callable[[int], object], job_id: int, *, title: str) -> None:
    """Send a start message. Without a broker, print that the next sweep of a worker starts the job.

    Args:
        send: the function of the client that sends the message.
        job_id: its argument.
        title: the job in the message that is printed.
    """
    try:
        send(job_id)
    except BrokerError as error:
        click.echo(
            f"pixcrawler: the broker does not respond ({error}). {title} is stored, and the next sweep of a worker "
            "starts it",
            err=True,
        )


def _require_crawl(created: int | None, crawl_job_id: int) -> int:
    if created is None:
        raise PermanentError(f"there is no crawl job {crawl_job_id}; `pixcrawler jobs list` lists the existing ones")
    return created

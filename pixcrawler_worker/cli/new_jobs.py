"""Creating and starting jobs, as several commands do."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.client import BrokerError
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import activity_log, extensions, job_rows
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.keywords import parse_keywords
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime


def create_crawl(
    runtime: Runtime,
    crawl: CrawlArguments,
    *,
    project_id: int | None = None,
    name: str | None = None,
    build: Mapping[str, Any] | None = None,
) -> int:
    """Insert a crawl job with its options; return its id.

    Args:
        runtime: connects to the database.
        crawl: the options.
        project_id: the project that it belongs to; None for that of the job that it extends, or of the command line.
        name: of the job; None for its keywords.
        build: the options of `pixcrawler build` for what follows the crawl; see `record_build`.

    Raises:
        PermanentError: when there is no such project, or the job that it extends does not allow that.
    """

    def insert(session: Session) -> int | None:
        project = project_id
        if crawl.options.extends is not None:
            project = _project_to_extend(session, crawl.options.extends, project_id)
        job_id = job_rows.create_crawl_job(
            session,
            name=name or ", ".join(keyword.label for keyword in parse_keywords(list(crawl.keywords))),
            keywords=list(crawl.keywords),
            max_images=crawl.max_images,
            project_id=project,
        )
        if job_id is not None:
            planner.record_options(runtime, session, job_id, crawl.options, crawl.listed)
            if build is not None:
                record_build(session, job_id, build)
        return job_id

    job_id = _insert_once(runtime, CRAWL_JOBS, insert)
    if job_id is None:
        raise PermanentError(f"there is no project {project_id}")
    return job_id


def _project_to_extend(session: Session, base_id: int, project_id: int | None) -> int:
    """Return the project of a job that extends another one.

    Raises:
        PermanentError: when it cannot be extended, or belongs to another project than the one given.
    """
    found = extensions.project_of(session, base_id)
    if found is None:
        raise PermanentError(f"there is no crawl job {base_id}; `pixcrawler jobs list` lists the existing ones")
    if project_id is not None and project_id != found:
        raise PermanentError(f"crawl job {base_id} belongs to project {found}: give --project {found}, or leave it out")
    extensions.check(session, base_id, project_id=found)
    return found


def record_build(session: Session, job_id: int, options: Mapping[str, Any]) -> None:
    """Record the options of `pixcrawler build` with a crawl job, in its activity log, for the build that resumes it."""
    activity_log.record(session, CRAWL_JOBS.ref(job_id), activity_log.BUILD_REQUESTED, options)


def recorded_build(session: Session, job_id: int) -> dict[str, Any]:
    """Return the options that were recorded last; empty for a crawl job that no build has created or resumed."""
    return activity_log.newest_details(session, CRAWL_JOBS.ref(job_id), activity_log.BUILD_REQUESTED) or {}


def create_validation(runtime: Runtime, crawl_job_id: int, *, name: str, rules: dict[str, Any]) -> int:
    """Insert a validation job; return its id.

    Raises:
        PermanentError: when there is no such crawl job.
    """

    def insert(session: Session) -> int | None:
        return job_rows.create_validation_job(session, crawl_job_id=crawl_job_id, name=name, rules=rules)

    return _require_crawl(_insert_once(runtime, VALIDATION_JOBS, insert), crawl_job_id)


def create_export(runtime: Runtime, crawl_job_id: int, *, name: str, format_: str, options: dict[str, Any]) -> int:
    """Insert an export job; return its id.

    Raises:
        PermanentError: when there is no such crawl job.
    """

    def insert(session: Session) -> int | None:
        return job_rows.create_export_job(
            session, crawl_job_id=crawl_job_id, name=name, format_=format_, options=options
        )

    return _require_crawl(_insert_once(runtime, EXPORT_JOBS, insert), crawl_job_id)


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


def _insert_once(runtime: Runtime, table: JobTable, insert: Callable[[Session], int | None]) -> int | None:
    """Insert a job in a transaction of its own, and return its id: one, also when the answer to the COMMIT is lost."""
    inserted: int | None = None

    def work(session: Session) -> int | None:
        nonlocal inserted
        if inserted is None or jobs.status(session, table.ref(inserted)) is None:
            inserted = insert(session)
        return inserted

    return transact(runtime.sessions, work)


def _require_crawl(created: int | None, crawl_job_id: int) -> int:
    if created is None:
        raise PermanentError(f"there is no crawl job {crawl_job_id}; `pixcrawler jobs list` lists the existing ones")
    return created

"""From the images of a crawl job to a dataset in a directory: validation, export, download and reports."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from pixcrawler_worker import client
from pixcrawler_worker.cli import console, downloads, interrupts, job_watch, new_jobs
from pixcrawler_worker.crawl.report import write_crawl_report
from pixcrawler_worker.db import crawl_history, extensions, job_views
from pixcrawler_worker.db.job_views import CrawlView, ExportView, ValidationView, View
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.export import download
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.report import write_validation_report

_KNOWN = {str(Reason.KNOWN_URL), str(Reason.KNOWN_BYTES)}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The file format and the options of the export, and the rules of the validation before it."""

    format: ExportFormat
    options: dict[str, Any]
    rules: dict[str, Any] = field(default_factory=dict)


def deliver(
    runtime: Runtime,
    job: CrawlView,
    folder: Path,
    delivery: Delivery,
    *,
    resume: str,
    check: Callable[[], None] | None = None,
) -> ExportView | None:
    """Validate and export the images of a job, and download the dataset with reports: all of it or nothing.

    Args:
        runtime: connects to database and storage.
        job: the crawl job, which has ended.
        folder: the target directory; empty or new.
        delivery: file format and options.
        resume: what to do after an interruption, as a sentence.
        check: called at every poll; raises when the jobs cannot make progress any more.

    Returns:
        The export; None when there are no images, or validation or export failed, which has been printed.

    Raises:
        SystemExit: 130 when interrupted; the files written so far are removed.
    """
    interrupted = f"\nno files were written. The images of job {job.id} are stored. {resume}"
    download.require_empty(folder)
    if not job.valid_images and not _extended_images(runtime, job.id):
        click.echo(_why_empty(runtime, job), err=True)
        return None
    # Without new images, there are those of the jobs that it extends, which have their own validations.
    validation_id = None
    if job.valid_images:
        validation_id = _validate(runtime, job, delivery, check=check, interrupted=interrupted)
        if validation_id is None:
            return None
    export_id = _unfinished(
        runtime, ExportView, job.id, lambda one: (one.format, one.export_options) == (delivery.format, delivery.options)
    ) or new_jobs.create_export(runtime, job.id, name=job.name, format_=delivery.format, options=delivery.options)
    new_jobs.start(client.start_export, export_id, title=f"export {export_id}")
    export = job_watch.watch(runtime.sessions, ExportView, export_id, check=check, interrupted=interrupted)
    if export.status != JobStatus.COMPLETED:
        return None
    try:
        with download.all_or_nothing(folder):
            downloads.fetch(runtime, export, folder)
            with console.out.status("writing the reports"):
                write_crawl_report(runtime, job.id, folder / "report.html", dataset=folder)
                if validation_id is not None:
                    write_validation_report(runtime, validation_id, folder / "quality.html", dataset=folder)
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(interrupts.EXIT_CODE)
    return export


def _unfinished(runtime: Runtime, view: type[View], crawl_id: int, fits: Callable[[View], bool]) -> int | None:
    """Return the newest validation or export of a crawl job that an interrupted build has left; None without one."""
    found = transact(runtime.sessions, lambda session: job_views.of_crawl(session, view, crawl_id))
    return next((one.id for one in found if not one.ended and fits(one)), None)


def _validate(
    runtime: Runtime, job: CrawlView, delivery: Delivery, *, check: Callable[[], None] | None, interrupted: str
) -> int | None:
    """Validate the images of a job; return the validation, None when it was not completed."""
    validation_id = _unfinished(
        runtime, ValidationView, job.id, lambda one: (one.name, one.validation_rules) == (job.name, delivery.rules)
    ) or new_jobs.create_validation(runtime, job.id, name=job.name, rules=delivery.rules)
    new_jobs.start(client.start_validation, validation_id, title=f"validation {validation_id}")
    validation = job_watch.watch(runtime.sessions, ValidationView, validation_id, check=check, interrupted=interrupted)
    return validation_id if validation.status == JobStatus.COMPLETED else None


def _why_empty(runtime: Runtime, job: CrawlView) -> str:
    """Return why a job without images makes no dataset, and what to do."""
    reasons = transact(runtime.sessions, lambda session: crawl_history.reasons(session, job.id))
    what = "correct the URLs or keywords, or accept more images"
    if job.failed_chunks:
        what = f"what its sources answered is above. Try them again: pixcrawler build --job {job.id}"
    elif reasons and reasons.keys() <= _KNOWN:
        what = (
            "other jobs of the project have all that it found. "
            "Leave out --skip-known, or add to the dataset of one of them with --extend"
        )
    extends = bool(transact(runtime.sessions, lambda session: extensions.bases(session, job.id)))
    others = ", and neither have the jobs that it extends" if extends else ""
    return f"job {job.id} has no images{others}, so there is no dataset: {what}"


def _extended_images(runtime: Runtime, job_id: int) -> bool:
    """Return whether a job extends a dataset with images, which is exported even if it has found no new ones."""

    def read(session: Session) -> bool:
        return bool(extensions.bases(session, job_id)) and extensions.has_images(session, job_id)

    return transact(runtime.sessions, read)

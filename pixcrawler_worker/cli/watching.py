"""Showing a job of any kind while it runs, and how it ended."""

import signal
import sys
import time
from collections.abc import Callable
from typing import Generic

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from pixcrawler_worker.cli import console
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import activity_log, job_views, session
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import CrawlView, ExportView, JobView, ValidationView, View
from pixcrawler_worker.db.ledger import chunks as ledger
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.session import Session, Sessions
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.validate import planner as judging

_INTERRUPTED = 128 + signal.SIGINT
_POLL_SECONDS = 0.5
#: Over how much of the past the rate is taken.
_RATE_SECONDS = 15.0
#: How long a job may be pending before it is asked whether anybody works.
_PATIENCE_SECONDS = 5.0
#: Without a terminal a line is written this often at most, and only when something changed.
_LINE_SECONDS = 2.0


def require(sessions: Sessions, view: type[View], job_id: int) -> View:
    """Return a job.

    Args:
        sessions: the database.
        view: of which kind it is.
        job_id: its row.

    Raises:
        PermanentError: when there is none of that id.
    """
    job = session.transact(sessions, lambda s: job_views.job(s, view, job_id))
    if job is None:
        shown = "list` shows those there are" if view.table is CRAWL_JOBS else "show JOB` shows those of a crawl"
        raise PermanentError(f"there is no {view.table.name} job {job_id}; `pixcrawler jobs {shown}")
    return job


def watch(
    sessions: Sessions,
    view: type[View],
    job_id: int,
    *,
    check: Callable[[], None] = lambda: None,
    interrupted: str | None = None,
) -> View:
    """Show a job until it ends, then what came of it; return it. Interrupting leaves it running and says so.

    Args:
        sessions: the database.
        view: of which kind it is.
        job_id: its row.
        check: called at every look; raises when waiting has become pointless.
        interrupted: what to say instead to whoever interrupts.

    Raises:
        PermanentError: when there is no such job, or it is deleted meanwhile.
        SystemExit: 130 when interrupted.
    """
    job = _shown(_Looks(lambda: require(sessions, view, job_id), check), interrupted or _goes_on(view.table, job_id))
    for line in session.transact(sessions, lambda s: _told(s, job)):
        console.out.print(line, soft_wrap=True)
    return job


def _goes_on(table: JobTable, job_id: int) -> str:
    if table is CRAWL_JOBS:
        again = f"Watch it again: pixcrawler jobs watch {job_id}. Stop it: pixcrawler jobs cancel {job_id}"
        return f"\njob {job_id} goes on. {again}"
    return f"\n{table.name} {job_id} goes on. Watch it again: pixcrawler jobs watch {table.name}:{job_id}"


def _told(s: Session, job: JobView) -> list[str]:
    """Return lines that say what came of a job that has ended."""
    if isinstance(job, CrawlView):
        return why(s, job)
    if isinstance(job, ValidationView):
        return found_by(s, job)
    assert isinstance(job, ExportView)
    return made(job)


def made(job: ExportView) -> list[str]:
    """Return lines that say what an export that has ended made, and where that is."""
    parts = job.result.get("parts", [])
    size = job.result.get("file_size", 0)
    return [
        *([f"{len(parts)} files, {size:,} bytes" if len(parts) > 1 else f"{size:,} bytes"] if parts else []),
        *([console.shown(job.download_url)] if job.download_url else []),
        *([console.shown(job.error_message)] if job.error_message else []),
    ]


def found_by(s: Session, job: ValidationView) -> list[str]:
    """Return lines that say what a validation that has ended found."""
    found = ", ".join(f"{count} {check}" for check, count in judging.counts(s, job.id).items())
    return [
        *([f"valid: {job.validated_images}, invalid: {job.invalid_images}"] if job.total_images else []),
        *([f"found: {found}"] if found else []),
        *([console.shown(job.error_message)] if job.error_message else []),
    ]


def why(s: Session, job: CrawlView) -> list[str]:
    """Return lines that say why a job that has ended did not get all its images; none when it did."""
    if job.valid_images >= job.max_images:
        return []
    last = next(iter(activity_log.latest(s, CRAWL_JOBS.ref(job.id), limit=1)), None)
    reason = (last.metadata_ or {}).get("reason") if last else None
    refused = ", ".join(f"{count} {name}" for name, count in planner.reasons(s, job.id).items())
    failed = ledger.errors(s, CRAWL_JOBS.ref(job.id))
    return [
        *([console.shown(str(reason))] if reason else []),
        *([f"refused: {refused}"] if refused else []),
        *(f"failed: {count} x {console.shown(error)}" for error, count in failed.items()),
    ]


def outcome(job: JobView) -> str:
    """Return how a job stands, in one line."""
    took = ""
    if job.started_at and job.completed_at:
        took = f" in {(job.completed_at - job.started_at).total_seconds():.1f} s"
    done, wanted, what = job.count
    return f"{job.title} {job.status}{took}: {done} of {wanted} {what}, {chunks(job)}"


def chunks(job: JobView) -> str:
    """Return how far the chunks of a job are, in a few words."""
    text = f"{job.completed_chunks} of {job.total_chunks} chunks"
    return f"{text}, {job.failed_chunks} failed" if job.failed_chunks else text


class _Looks(Generic[View]):
    """Looks at a job, and at whether anybody is there to do it."""

    def __init__(self, read: Callable[[], View], check: Callable[[], None]) -> None:
        self._read = read
        self._check = check
        self._begun: float | None = time.monotonic()

    def look(self) -> View:
        self._check()
        job = self._read()
        if job.status != "pending":
            self._begun = None
        elif self._begun is not None and time.monotonic() - self._begun > _PATIENCE_SECONDS:
            self._begun = None
            _warn_if_nobody_works(job.title)
        return job


def _shown(looks: _Looks[View], interrupted: str) -> View:
    """Show a job until it ends, and in one line how it ended.

    Raises:
        SystemExit: 130 when interrupted.
    """
    show = _bar if console.out.is_terminal else _lines
    try:
        job = show(looks.look)
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(_INTERRUPTED)
    console.out.print(outcome(job), soft_wrap=True)
    return job


def _warn_if_nobody_works(title: str) -> None:
    # Celery takes a third of a second to import: only those who wait pay for it.
    from pixcrawler_worker import client  # noqa: PLC0415

    try:
        somebody = client.workers()
    except (PermanentError, OSError):
        return
    if not somebody:
        click.echo(
            f"{title} waits: no worker answers. Start one: celery -A pixcrawler_worker worker, or pixcrawler up",
            err=True,
        )


def _bar(look: Callable[[], View]) -> View:
    # The narrow ones first, so that a terminal of 80 columns still has room for the bar.
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[chunks]}"),
    )
    with Progress(
        *columns, console=console.out, transient=True, speed_estimate_period=_RATE_SECONDS, expand=True
    ) as progress:
        job = look()
        bar = progress.add_task("", rate="", chunks="")
        while True:
            done, wanted, _ = job.count
            speed = progress.tasks[0].speed
            progress.update(
                bar,
                description=f"{job.title} {job.status}",
                completed=done,
                total=wanted,
                rate=f"{speed:.0f}/s" if speed else "",
                chunks=f"{job.completed_chunks}/{job.total_chunks} chunks",
            )
            if job.ended:
                return job
            time.sleep(_POLL_SECONDS)
            job = look()


def _lines(look: Callable[[], View]) -> View:
    said, last = "", -_LINE_SECONDS
    while True:
        job = look()
        if job.ended:
            return job
        line = outcome(job)
        if line != said and time.monotonic() - last >= _LINE_SECONDS:
            console.out.print(line, soft_wrap=True)
            said, last = line, time.monotonic()
        time.sleep(_POLL_SECONDS)

"""Watching a job of any kind until it ends."""

import sys
import time
from collections.abc import Callable
from typing import Generic

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from pixcrawler_worker import displays, registry
from pixcrawler_worker.cli import console, interrupts, job_status
from pixcrawler_worker.db.job_views import JobView, View
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs.kind import AnyJobKind

_POLL_SECONDS = 0.5
#: The period over which the rate is measured.
_RATE_SECONDS = 15.0
#: How long a job may be pending before workers are looked for.
_PENDING_SECONDS = 5.0
#: Without a terminal, the least time between two lines.
_LINE_SECONDS = 2.0


def watch(
    sessions: Sessions,
    view: type[View],
    job_id: int,
    *,
    check: Callable[[], None] | None = None,
    interrupted: str | None = None,
) -> View:
    """Show a job until it ends, then its outcome; return it. Ctrl-C leaves the job running and says so.

    Args:
        sessions: the database.
        view: the columns to read.
        job_id: the id in the table of the view.
        check: called at every poll; raises when the job cannot make progress any more. Without it, a warning is printed
            when the job stays pending and no worker responds.
        interrupted: the message after Ctrl-C; by default, how to resume watching and how to cancel the job.

    Raises:
        PermanentError: when there is no such job, or it is deleted meanwhile.
        SystemExit: 130 when interrupted.
    """
    ref = view.table.ref(job_id)
    first = job_status.require(sessions, view, job_id)
    poll = _Poll(lambda: job_status.require(sessions, view, job_id), check)
    follow = _bar if console.out.is_terminal else _lines
    try:
        job = follow(poll.read)
    except KeyboardInterrupt:
        click.echo(interrupted or _still_running(registry.kind_of(ref), first), err=True)
        sys.exit(interrupts.EXIT_CODE)
    console.out.print(job_status.line(job), soft_wrap=True)
    for line in transact(sessions, lambda session: displays.display_of(ref).outcome(session, job)):
        for part in console.wrapped(console.printable(line), indent=0):
            console.out.print(console.escaped(part), soft_wrap=True)
    return job


def succeeded(job: JobView) -> bool:
    """Return whether a job has ended as it should: completed, and with at least one image if it is to bring images."""
    images = job.count[0] if job.brings_images else 1
    return job.status == JobStatus.COMPLETED and images > 0


def _still_running(kind: AnyJobKind, job: JobView) -> str:
    hint = f"Resume watching: pixcrawler jobs watch {job.argument}"
    if kind.cancel_task is not None:
        hint = f"{hint}. Cancel the job: pixcrawler jobs cancel {job.argument}"
    return f"\n{job.title} keeps running. {hint}"


class _Poll(Generic[View]):
    """Reads a job, and warns once when it stays pending and no worker responds."""

    def __init__(self, read: Callable[[], View], check: Callable[[], None] | None) -> None:
        self._read = read
        self._check = check
        self._pending_since = time.monotonic() if check is None else None

    def read(self) -> View:
        if self._check is not None:
            self._check()
        job = self._read()
        if job.status != "pending":
            self._pending_since = None
        elif self._pending_since is not None and time.monotonic() - self._pending_since > _PENDING_SECONDS:
            self._pending_since = None
            _warn_without_workers(job.title)
        return job


def _warn_without_workers(title: str) -> None:
    # Celery takes a third of a second to import: only a job that stays pending pays for it.
    from pixcrawler_worker import client  # noqa: PLC0415

    try:
        workers = client.workers()
    except (PermanentError, OSError):
        return
    if not workers:
        click.echo(
            f"{title} is pending and no worker responds. Start one: celery -A pixcrawler_worker worker, "
            "or pixcrawler up",
            err=True,
        )


def _bar(read: Callable[[], View]) -> View:
    # The narrow columns have a fixed width, so that a terminal of 80 columns has room for the bar.
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
        job = read()
        bar = progress.add_task("", total=None, rate="", chunks="")
        while True:
            done, total, _ = job.count
            speed = progress.tasks[0].speed
            progress.update(
                bar,
                description=f"{job.title} {job.status}",
                completed=done,
                total=total,
                rate=f"{speed:.0f}/s" if speed else "",
                chunks=f"{job.completed_chunks}/{job.total_chunks} chunks",
            )
            if job.ended:
                return job
            time.sleep(_POLL_SECONDS)
            job = read()


def _lines(read: Callable[[], View]) -> View:
    printed, printed_at = "", -_LINE_SECONDS
    while True:
        job = read()
        if job.ended:
            return job
        line = job_status.line(job)
        if line != printed and time.monotonic() - printed_at >= _LINE_SECONDS:
            console.out.print(line, soft_wrap=True)
            printed, printed_at = line, time.monotonic()
        time.sleep(_POLL_SECONDS)

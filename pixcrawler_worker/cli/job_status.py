"""The status of a job, in one line or as a table."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Any

import click
from rich.table import Table

from pixcrawler_worker import displays
from pixcrawler_worker.cli import console
from pixcrawler_worker.db import activity_log, job_views
from pixcrawler_worker.db.job_views import JobView, View
from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session, Sessions, transact
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs.display import Row


def require(sessions: Sessions, view: type[View], job_id: int) -> View:
    """Return a job.

    Args:
        sessions: the database.
        view: the columns to read.
        job_id: the id in the table of the view.

    Raises:
        PermanentError: when there is no such job.
    """
    job = transact(sessions, lambda session: job_views.job(session, view, job_id))
    if job is None:
        ref = view.table.ref(job_id)
        listed_by = displays.display_of(ref).listed_by
        raise PermanentError(f"there is no {ref}; `{listed_by}` lists the existing ones")
    return job


def line(job: JobView) -> str:
    """Return status, duration and counts of a job in one line."""
    duration = ""
    if job.started_at and job.completed_at:
        duration = f" in {(job.completed_at - job.started_at).total_seconds():.1f} s"
    done, total, noun = job.count
    failed = f", {job.failed_chunks} failed" if job.failed_chunks else ""
    return (
        f"{job.title} {job.status}{duration}: {done} of {total} {noun},"
        f" {job.completed_chunks} of {job.total_chunks} chunks{failed}"
    )


def print_table(sessions: Sessions, ref: JobRef, *, as_json: bool) -> None:
    """Print everything that is known about a job, as a table or as JSON.

    Raises:
        PermanentError: when there is no such job.
    """
    display = displays.display_of(ref)
    job = require(sessions, display.view, ref.id)
    details = transact(sessions, lambda session: _ledger(session, ref) | display.details(session, job))
    if as_json:
        click.echo(json.dumps(job.as_json() | details, indent=2))
        return
    states = ", ".join(f"{count} {state}" for state, count in details["chunks"].items())
    rows: list[Row] = [
        (job.noun, [job.heading]),
        ("status", [f"{job.status}, {job.progress} %"]),
        *display.rows(job, details),
        ("chunks", [states or "none"]),
        ("failed", [f"{count:>6}  {error}" for error, count in details["errors"].items()]),
        ("log", [_log_line(entry) for entry in details["activity"]]),
    ]
    console.out.print(_table(rows))
    for url in display.urls(job):
        # Below the table, which would wrap it: a URL is there to be copied.
        console.out.print(console.escaped(url), soft_wrap=True)


def _ledger(session: Session, ref: JobRef) -> dict[str, Any]:
    """Return what chunks and activity log of a job of any kind say."""
    return {
        "chunks": chunk_results.states(session, ref),
        "errors": chunk_results.errors(session, ref),
        "activity": [
            {
                "at": entry.timestamp.astimezone(UTC).isoformat(),
                "action": entry.action,
                "reason": entry.details.get("reason", ""),
            }
            for entry in reversed(activity_log.latest(session, ref))
        ],
    }


def _table(rows: Iterable[Row]) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, lines in rows:
        for position, text in enumerate(lines):
            table.add_row(label if position == 0 else "", console.escaped(text))
    return table


def _log_line(entry: Mapping[str, Any]) -> str:
    return f"{entry['at'][:19]}Z  {entry['action']}  {entry['reason']}".rstrip()

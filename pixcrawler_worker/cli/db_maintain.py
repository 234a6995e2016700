"""`pixcrawler db maintain` and `pixcrawler db prune`."""

import functools
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import click

from pixcrawler_worker import registry
from pixcrawler_worker.cli import environment
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import crawls, maintenance, retention, session
from pixcrawler_worker.db.ledger.tables import JobTable
from pixcrawler_worker.db.session import Session, Sessions, transact

T = TypeVar("T")

_DAYS = click.IntRange(1, 36_500)


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done, and why.")
def maintain(*, dry_run: bool) -> None:
    """Vacuum and analyze the tables, and build bloated and invalid indexes again; exit code 1 if something failed.

    Workers may run: nothing that they need is locked. A second run at the same time does nothing. Run it as the role
    that runs `pixcrawler db upgrade`.
    """
    settings = environment.load_settings()
    url = settings.require_database()
    engine = session.connect(url, pool_size=1)
    failed = 0
    try:
        if dry_run:
            for step in maintenance.steps(engine):
                click.echo(f"{step.statement}  -- {step.reason}")
            return
        with maintenance.exclusive(url) as exclusive:
            for step in maintenance.steps(engine):
                done = maintenance.run(exclusive, step)
                failed += done.error is not None and not done.skipped
                outcome = "done" if done.error is None else f"{'skipped' if done.skipped else 'NOT DONE'}: {done.error}"
                click.echo(f"{step.statement}  -- {step.reason}: {outcome}")
    except maintenance.MaintenanceRunsError as error:
        click.echo(f"another run maintains the database: {error}")
        return
    finally:
        engine.dispose()
    if failed:
        click.echo(f"{failed} not done: run it again when no migration and no long transaction is running")
        sys.exit(1)


@click.command()
@click.option("--logs", type=_DAYS, metavar="DAYS", help="Delete entries of activity_logs older than this.")
@click.option("--chunks", type=_DAYS, metavar="DAYS", help="Delete chunks of jobs that ended longer ago.")
@click.option(
    "--candidates", type=_DAYS, metavar="DAYS", help="Delete URLs that became images, of jobs that ended longer ago."
)
@click.option("--dry-run", is_flag=True, help="Show how many rows would be deleted.")
def prune(*, logs: int | None, chunks: int | None, candidates: int | None, dry_run: bool) -> None:
    """Delete old rows that no job needs any more, in small transactions.

    Counters, retries, lists of failures, reports and exports stay as they are: chunks and candidates are deleted only
    of completed jobs for which a retry has nothing to do, and log entries not of jobs that failed, were cancelled or
    have not ended. Workers may run, and several runs as well.
    """
    if logs is chunks is candidates is None:
        raise click.UsageError("nothing to delete: give --logs, --chunks or --candidates")
    settings = environment.load_settings()
    engine = session.connect(settings.require_database(), pool_size=1)
    sessions = session.sessions(engine)
    tables = tuple(kind.table for kind in registry.JOB_KINDS.values())
    try:
        if not dry_run:
            transact(sessions, retention.require_rights)
        if logs is not None:
            age = timedelta(days=logs)
            _prune(
                "entries of activity_logs",
                transact(sessions, lambda opened: retention.count_logs(opened, tables, age)),
                lambda: _repeat(sessions, lambda opened: retention.delete_logs(opened, tables, age)),
                dry_run=dry_run,
            )
        if chunks is not None:
            old = timedelta(days=chunks)
            _prune(
                "chunks",
                transact(sessions, lambda opened: retention.count_chunks(opened, old)),
                lambda: _of_jobs(
                    sessions,
                    lambda opened, after: retention.chunk_jobs(opened, old, after=after),
                    lambda opened, job: retention.delete_chunks(opened, job, old, list_source=planner.URLS),
                ),
                dry_run=dry_run,
            )
            for table in tables:
                if table is not crawls.CRAWL_JOBS:
                    _prune_other(sessions, table, old, dry_run=dry_run)
        if candidates is not None:
            past = timedelta(days=candidates)
            _prune(
                "candidates",
                transact(sessions, lambda opened: retention.count_candidates(opened, past)),
                lambda: _of_jobs(
                    sessions,
                    lambda opened, after: retention.candidate_jobs(opened, past, after=after),
                    lambda opened, job: retention.delete_candidates(opened, job, past),
                ),
                dry_run=dry_run,
            )
    finally:
        engine.dispose()


def _prune_other(sessions: Sessions, table: JobTable, age: timedelta, *, dry_run: bool) -> None:
    """Delete the chunks of settled validations, of exports, or of another kind but crawls."""
    _prune(
        f"chunks of {table.name}s",
        transact(sessions, lambda opened: retention.count_simple_chunks(opened, table, age)),
        lambda: _of_jobs(
            sessions,
            lambda opened, after: retention.simple_jobs(opened, table, age, after=after),
            lambda opened, job: retention.delete_simple_chunks(opened, table, job, age),
        ),
        dry_run=dry_run,
        kind="",
    )


def _prune(
    what: str, found: retention.Prunable, delete: Callable[[], int], *, dry_run: bool, kind: str = "crawl "
) -> None:
    of_jobs = f" of {found.jobs:,} {kind}jobs" if found.jobs else ""
    kept = f"; those of {found.kept_jobs:,} jobs stay, which may run again" if found.kept_jobs else ""
    if dry_run:
        click.echo(f"{found.rows:,} {what}{of_jobs} would be deleted{kept}")
    else:
        click.echo(f"{delete():,} {what}{of_jobs} deleted{kept}")


def _repeat(sessions: Sessions, batch: Callable[[Session], int]) -> int:
    """Delete batches until one is empty, each in a transaction of its own; return the number of rows."""
    total = 0
    while deleted := transact(sessions, batch):
        total += deleted
    return total


def _of_jobs(
    sessions: Sessions, page: Callable[[Session, int], list[int]], batch: Callable[[Session, int], int]
) -> int:
    """Delete batches of each job until one is empty; return the number of rows."""
    total, after = 0, 0
    while job_ids := transact(sessions, functools.partial(_swapped, page, after)):
        for job_id in job_ids:
            total += _repeat(sessions, functools.partial(_swapped, batch, job_id))
        after = job_ids[-1]
    return total


def _swapped(work: Callable[[Session, int], T], number: int, opened: Session) -> T:
    return work(opened, number)

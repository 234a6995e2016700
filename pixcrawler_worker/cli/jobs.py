"""`pixcrawler jobs`."""

import json
import sys
from datetime import UTC
from typing import Any

import click
from kombu.exceptions import OperationalError
from rich.table import Table

from pixcrawler_worker import client
from pixcrawler_worker.cli import console
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.db import activity, chunks, views
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain.lifecycle import JobKind, JobRef
from pixcrawler_worker.errors import TransientError


@click.group()
def jobs() -> None:
    """List, show, watch, cancel and retry jobs."""


@jobs.command("list")
@click.option("--limit", type=console.NUMBER, default=20, show_default=True, help="Newest jobs to show.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def list_(*, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    with console.connected() as runtime:
        found = transact(runtime.sessions, lambda session: views.crawl_jobs(session, limit=limit))
    if as_json:
        click.echo(json.dumps([job.as_json() for job in found], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "status", "progress", "images", "chunks"):
        table.add_column(heading, justify="right" if heading != "status" else "left", no_wrap=True)
    table.add_column("name", overflow="ellipsis", no_wrap=True)
    for job in found:
        table.add_row(
            str(job.id),
            job.status,
            f"{job.progress} %",
            f"{job.valid_images}/{job.max_images}",
            f"{job.completed_chunks}/{job.total_chunks}",
            console.shown(job.name),
        )
    console.out.print(table if found else "no jobs yet: pixcrawler crawl KEYWORD --urls FILE")


@jobs.command()
@click.argument("job_id", type=console.NUMBER, metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def show(*, job_id: int, as_json: bool) -> None:
    """Show one job: counts, chunks, and why candidates were refused."""
    with console.connected() as runtime:
        job = console.require_job(runtime.sessions, job_id)
        found = transact(runtime.sessions, lambda session: _details(session, job_id))
    if as_json:
        click.echo(json.dumps(job.as_json() | found, indent=2))
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("job", f"{job.id}  {console.shown(job.name)}")
    table.add_row("status", f"{job.status}, {job.progress} %")
    table.add_row("keywords", console.shown(json.dumps(job.keywords, ensure_ascii=False)))
    table.add_row("images", f"{job.valid_images} of {job.max_images}")
    table.add_row("candidates", f"{job.total_images} found, {job.downloaded_images} downloaded")
    table.add_row("chunks", ", ".join(f"{count} {state}" for state, count in found["chunks"].items()) or "none")
    for heading in ("reasons", "errors"):
        for position, (reason, count) in enumerate(found[heading].items()):
            label = {"reasons": "refused", "errors": "failed"}[heading]
            table.add_row(label if position == 0 else "", f"{count:>6}  {console.shown(reason)}")
    for position, entry in enumerate(found["activity"]):
        line = f"{entry['at'][:19]}Z  {entry['action']}  {entry.get('reason', '')}".rstrip()
        table.add_row("log" if position == 0 else "", console.shown(line))
    console.out.print(table)


@jobs.command()
@click.argument("job_id", type=console.NUMBER, metavar="ID")
def watch(*, job_id: int) -> None:
    """Show a job until it ends. Exit code 1 when it failed or was cancelled."""
    with console.connected() as runtime:
        if console.watch(runtime.sessions, job_id).status != "completed":
            sys.exit(1)


@jobs.command()
@click.argument("job_id", type=console.NUMBER, metavar="ID")
def cancel(*, job_id: int) -> None:
    """Cancel a job. Images that it has already stay."""
    with console.connected() as runtime:
        planner.cancel(runtime, job_id)
        console.out.print(console.outcome(console.require_job(runtime.sessions, job_id)), soft_wrap=True)


@jobs.command()
@click.argument("job_id", type=console.NUMBER, metavar="ID")
def retry(*, job_id: int) -> None:
    """Run the failed and cancelled chunks of a job again."""
    with console.connected() as runtime:
        job = console.require_job(runtime.sessions, job_id)
        if not job.ended:
            console.out.print(f"job {job_id} is {job.status}: there is nothing to retry")
            return
        try:
            client.retry_crawl(job_id)
        except OperationalError as error:
            raise TransientError(f"the broker does not answer: {error}") from error
    console.out.print(f"job {job_id} is retried; watch it: pixcrawler jobs watch {job_id}")


def _details(session: Session, job_id: int) -> dict[str, Any]:
    return {
        "chunks": views.chunk_states(session, job_id),
        "reasons": dict(planner.reasons(session, job_id)),
        "errors": chunks.errors(session, JobRef(JobKind.CRAWL, job_id)),
        "activity": [
            {
                "at": entry.timestamp.astimezone(UTC).isoformat(),
                "action": entry.action,
                "reason": (entry.metadata_ or {}).get("reason", ""),
            }
            for entry in reversed(activity.latest(session, JobRef(JobKind.CRAWL, job_id)))
        ],
    }

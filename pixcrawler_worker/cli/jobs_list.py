"""`pixcrawler jobs list`."""

import json
from collections.abc import Iterable

import click
from rich.table import Table

from pixcrawler_worker import displays
from pixcrawler_worker.cli import arguments, console, database, quarantine_note
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.job_views import JobView
from pixcrawler_worker.db.session import Session, transact


@click.command("list")
@click.option("--kind", type=click.Choice(list(displays.DISPLAYS)), help="List jobs of one kind.  [default: all]")
@click.option("--limit", type=arguments.NUMBER, default=20, show_default=True, help="Number of jobs to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, kind: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs. The id is what the other commands take as JOB."""
    shown = displays.DISPLAYS.values() if kind is None else [displays.DISPLAYS[kind]]

    def read(session: Session) -> list[JobView]:
        return [job for one in shown for job in job_views.newest(session, one.view, limit=limit)]

    with database.connect_to_data() as opened:
        found = transact(opened.sessions, read)
    # Of jobs that were created at the same time, those that work on the images of others are newer.
    found = sorted(found, key=lambda job: job.created_at)[::-1][:limit]
    if as_json:
        click.echo(json.dumps([job.as_json() for job in found], indent=2))
        return
    console.out.print(_table(found) if found else "no jobs yet. Create one, for example: pixcrawler crawl cat")
    quarantine_note.note(opened.settings)


def _table(found: Iterable[JobView]) -> Table:
    # The name takes what the other columns leave: it may be long, and they may not be cut off.
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("id", "status", "progress", "images", "chunks"):
        table.add_column(heading, justify="right" if heading != "status" else "left", no_wrap=True)
    table.add_column("name", overflow="ellipsis", no_wrap=True, ratio=1)
    for job in found:
        done, total, _ = job.count
        table.add_row(
            job.argument,
            job.status,
            f"{job.progress} %",
            f"{done}/{total}",
            f"{job.completed_chunks}/{job.total_chunks}",
            console.escaped(job.name),
        )
    return table

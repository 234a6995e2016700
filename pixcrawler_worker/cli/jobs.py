"""`pixcrawler jobs`."""

import json
import sys
from datetime import UTC
from typing import Any

import click
from kombu.exceptions import OperationalError
from rich.table import Table

from pixcrawler_worker import client
from pixcrawler_worker.cli import console, watching
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import activity_log, job_views
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.exports import EXPORT_JOBS
from pixcrawler_worker.db.job_views import VIEWS, CrawlView, ExportView, ValidationView
from pixcrawler_worker.db.ledger import chunks
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.validate import planner as judging


@click.group()
def jobs() -> None:
    """List, show, watch, cancel and retry jobs."""


@jobs.command("list")
@click.option("--limit", type=console.NUMBER, default=20, show_default=True, help="Newest jobs to show.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def list_(*, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    with console.connected() as runtime:
        found = transact(runtime.sessions, lambda session: job_views.newest(session, CrawlView, limit=limit))
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
@click.argument("ref", type=console.JOB, metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def show(*, ref: JobRef, as_json: bool) -> None:
    """Show one job: counts, chunks, and why candidates were refused, what a validation found, or what an export made.

    ID is the number of a crawl job, or validation:3 or export:3 for one of the others.
    """
    show_one = {CRAWL_JOBS: _show_crawl, VALIDATION_JOBS: _show_validation, EXPORT_JOBS: _show_export}[ref.table]
    show_one(ref.id, as_json=as_json)


def _show_crawl(job_id: int, *, as_json: bool) -> None:
    with console.connected() as runtime:
        job = watching.require(runtime.sessions, CrawlView, job_id)
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
    table.add_row("chunks", _states(found))
    for heading in ("reasons", "errors"):
        for position, (reason, count) in enumerate(found[heading].items()):
            label = {"reasons": "refused", "errors": "failed"}[heading]
            table.add_row(label if position == 0 else "", f"{count:>6}  {console.shown(reason)}")
    for position, validation in enumerate(found["validations"]):
        text = (
            f"{validation['id']}  {validation['status']}: {validation['valid']} valid, {validation['invalid']} invalid"
        )
        table.add_row("validation" if position == 0 else "", text)
    for position, export in enumerate(found["exports"]):
        text = f"{export['id']}  {export['status']}: {export['images']} images as {export['format']}"
        table.add_row("export" if position == 0 else "", text)
    _add_log(table, found["activity"])
    console.out.print(table)


def _show_validation(job_id: int, *, as_json: bool) -> None:
    ref = VALIDATION_JOBS.ref(job_id)
    with console.connected() as runtime:
        job = watching.require(runtime.sessions, ValidationView, job_id)
        found = transact(
            runtime.sessions,
            lambda session: _ledger(session, ref) | {"counts": dict(judging.counts(session, job_id))},
        )
    if as_json:
        click.echo(json.dumps(job.as_json() | found, indent=2))
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("validation", f"{job.id}  {console.shown(job.name)}, of job {job.crawl_job_id}")
    table.add_row("status", f"{job.status}, {job.progress} %")
    table.add_row("rules", console.shown(json.dumps(job.validation_rules, ensure_ascii=False)))
    table.add_row("images", f"{job.total_images}: {job.validated_images} valid, {job.invalid_images} invalid")
    table.add_row("chunks", _states(found))
    if job.error_message:
        table.add_row("note", console.shown(job.error_message))
    for position, (check, count) in enumerate(found["counts"].items()):
        table.add_row("found" if position == 0 else "", f"{count:>6}  {check}")
    _add_log(table, found["activity"])
    console.out.print(table)


def _show_export(job_id: int, *, as_json: bool) -> None:
    with console.connected() as runtime:
        job = watching.require(runtime.sessions, ExportView, job_id)
        found = transact(runtime.sessions, lambda session: _ledger(session, EXPORT_JOBS.ref(job_id)))
    if as_json:
        click.echo(json.dumps(job.as_json() | found, indent=2))
        return
    asked = {name: value for name, value in job.export_options.items() if name != "result"}
    table = Table.grid(padding=(0, 2))
    table.add_row("export", f"{job.id}  {console.shown(job.name)}, of job {job.crawl_job_id}")
    table.add_row("status", f"{job.status}, {job.progress} %")
    table.add_row("format", job.format)
    table.add_row("options", console.shown(json.dumps(asked, ensure_ascii=False)))
    table.add_row("images", f"{job.exported_images} of {job.total_images}")
    table.add_row("chunks", _states(found))
    if job.error_message:
        table.add_row("note", console.shown(job.error_message))
    for position, part in enumerate(job.result.get("parts", [])):
        text = f"{part['name']}  {part['images']:,} images, {part['size']:,} bytes, sha256 {part['sha256'][:16]}..."
        table.add_row("files" if position == 0 else "", text)
    if job.download_url and job.expires_at:
        table.add_row("kept until", f"{job.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    _add_log(table, found["activity"])
    console.out.print(table)
    if job.download_url:
        # Below the table, which would break it: it is there to be copied.
        console.out.print(console.shown(job.download_url), soft_wrap=True)


def _states(found: dict[str, Any]) -> str:
    return ", ".join(f"{count} {state}" for state, count in found["chunks"].items()) or "none"


def _add_log(table: Table, entries: list[dict[str, str]]) -> None:
    for position, entry in enumerate(entries):
        line = f"{entry['at'][:19]}Z  {entry['action']}  {entry['reason']}".rstrip()
        table.add_row("log" if position == 0 else "", console.shown(line))


@jobs.command()
@click.argument("ref", type=console.JOB, metavar="ID")
def watch(*, ref: JobRef) -> None:
    """Show a job until it ends. Exit code 1 when it failed or was cancelled.

    ID is the number of a crawl job, or validation:3 or export:3 for one of the others.
    """
    with console.connected() as runtime:
        if watching.watch(runtime.sessions, VIEWS[ref.table], ref.id).status != "completed":
            sys.exit(1)


@jobs.command()
@click.argument("job_id", type=console.NUMBER, metavar="ID")
def cancel(*, job_id: int) -> None:
    """Cancel a crawl job. Images that it has already stay."""
    with console.connected() as runtime:
        submission.cancel(runtime, CRAWL, job_id)
        console.out.print(watching.outcome(watching.require(runtime.sessions, CrawlView, job_id)), soft_wrap=True)


@jobs.command()
@click.argument("job_id", type=console.NUMBER, metavar="ID")
def retry(*, job_id: int) -> None:
    """Run the failed and cancelled chunks of a crawl job again."""
    with console.connected() as runtime:
        job = watching.require(runtime.sessions, CrawlView, job_id)
        if not job.ended:
            console.out.print(f"job {job_id} is {job.status}: there is nothing to retry")
            return
        try:
            client.retry_crawl(job_id)
        except OperationalError as error:
            raise TransientError(f"the broker does not answer: {error}") from error
    console.out.print(f"job {job_id} is retried; watch it: pixcrawler jobs watch {job_id}")


def _details(session: Session, job_id: int) -> dict[str, Any]:
    return _ledger(session, CRAWL_JOBS.ref(job_id)) | {
        "reasons": dict(planner.reasons(session, job_id)),
        "validations": [
            {"id": job.id, "status": job.status, "valid": job.validated_images, "invalid": job.invalid_images}
            for job in job_views.of_crawl(session, ValidationView, job_id)
        ],
        "exports": [
            {"id": job.id, "status": job.status, "format": job.format, "images": job.exported_images}
            for job in job_views.of_crawl(session, ExportView, job_id)
        ],
    }


def _ledger(session: Session, ref: JobRef) -> dict[str, Any]:
    """Return what chunks and log of a job of any kind say."""
    return {
        "chunks": chunks.states(session, ref),
        "errors": chunks.errors(session, ref),
        "activity": [
            {
                "at": entry.timestamp.astimezone(UTC).isoformat(),
                "action": entry.action,
                "reason": (entry.metadata_ or {}).get("reason", ""),
            }
            for entry in reversed(activity_log.latest(session, ref))
        ],
    }

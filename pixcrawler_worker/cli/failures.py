"""`pixcrawler jobs failures`."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from functools import partial

import click

from pixcrawler_worker.cli import arguments, connection, job_status
from pixcrawler_worker.db import candidates
from pixcrawler_worker.db.candidates import Failure
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session, Sessions, transact
from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.errors import PermanentError

#: Rows that are read in one transaction.
_PAGE = 1000
_COLUMNS = ("url", "label", "reason", "detail", "http_status", "retriable", "attempts", "time")


@click.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
@click.option(
    "--reason",
    "reasons",
    type=click.Choice([reason.value for reason in Reason]),
    metavar="REASON",
    multiple=True,
    help="List those with this reason only. May be given several times.",
)
@click.option("--retriable", is_flag=True, help="List only those that `pixcrawler jobs retry` tries again.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "txt"], case_sensitive=False),
    default="csv",
    show_default=True,
    help="csv, one JSON object per line, or one URL per line, as --urls reads it.",
)
def failures(*, ref: JobRef, reasons: tuple[str, ...], retriable: bool, form: str) -> None:
    """List the URLs of a crawl job that did not become images.

    Each with its class, the reason, what happened, the HTTP status, whether a retry tries it again, the number of
    attempts, and the time of the last one. In no particular order.
    """
    if ref.table is not CRAWL_JOBS:
        raise PermanentError(f"{ref.table.name} {ref.id} has no URLs: expected the id of a crawl job")
    unknown = 0
    with connection.connect_to_data() as runtime:
        job_status.require(runtime.sessions, CrawlView, ref.id)
        if form == "csv":
            click.echo(_csv(_COLUMNS), nl=False)
        for failure in _read(runtime.sessions, ref.id, reasons, retriable=retriable):
            unknown += failure.url is None
            if form == "csv":
                click.echo(_csv(tables.cell(value) for value in _values(failure)), nl=False)
            elif form == "jsonl":
                click.echo(json.dumps(dict(zip(_COLUMNS, _values(failure), strict=True)), ensure_ascii=False))
            elif failure.url is not None:
                click.echo(" ".join(failure.url.split()))
    if unknown:
        click.echo(
            f"pixcrawler: the URLs of {unknown} are not known: a job keeps no more than PIXCRAWLER_KEPT_FAILURES",
            err=True,
        )


def _read(sessions: Sessions, job_id: int, reasons: tuple[str, ...], *, retriable: bool) -> Iterator[Failure]:
    """Yield failures, a page in each transaction: a job may have a million."""
    after = b""
    while page := transact(sessions, partial(_page, job_id, reasons, retriable=retriable, after=after)):
        yield from page
        after = page[-1].url_hash


def _page(
    job_id: int, reasons: tuple[str, ...], session: Session, *, retriable: bool, after: bytes
) -> Sequence[Failure]:
    return candidates.failures(session, job_id, reasons=reasons, retriable=retriable, after=after, limit=_PAGE)


def _values(failure: Failure) -> tuple[object, ...]:
    time = None if failure.tried_at is None else failure.tried_at.astimezone(UTC).isoformat(timespec="seconds")
    return (
        failure.url,
        failure.label,
        failure.reason,
        failure.detail,
        failure.http_status,
        failure.retriable,
        failure.attempts,
        time,
    )


def _csv(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()

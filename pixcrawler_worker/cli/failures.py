"""`pixcrawler jobs failures`."""

import csv
import io
import json
from collections.abc import Iterable, Mapping

import click

from pixcrawler_worker.cli import arguments, database, job_status
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.domain.safe_text import safe_url
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import failure_rows


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
    attempts, and the time of the last one; where the URL list of the job had captions or other columns, with these. In
    no particular order. All formats are URL lists themselves.
    """
    if ref.table is not CRAWL_JOBS:
        raise PermanentError(f"{ref.table.name} {ref.id} has no URLs: expected the id of a crawl job")
    unknown = 0
    with database.connect_to_data() as opened:
        job_status.require(opened.sessions, CrawlView, ref.id)
        columns = failure_rows.columns(opened.sessions, ref.id)
        if form == "csv":
            click.echo(",".join(columns))
        for failure in failure_rows.read(opened.sessions, ref.id, reasons=reasons, retriable=retriable):
            unknown += failure.url is None
            if form == "csv":
                click.echo(_csv(failure_rows.values(failure, columns)), nl=False)
            elif form == "jsonl":
                click.echo(failure_rows.line(failure, columns))
            elif failure.url is not None:
                click.echo(" ".join(safe_url(failure.url).split()))
    if unknown:
        click.echo(
            f"pixcrawler: the URLs of {unknown} are not known: a job keeps no more than PIXCRAWLER_KEPT_FAILURES",
            err=True,
        )


def _csv(values: Iterable[object]) -> str:
    line = io.StringIO()
    # What is nested is JSON in a cell.
    plain = (json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value for value in values)
    cells = (tables.cell(value, max_length=tables.MAX_CELL) for value in plain)
    csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(cells)
    return line.getvalue()

"""`pixcrawler build`."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import click

from pixcrawler_worker import downloads
from pixcrawler_worker import settings as configuration
from pixcrawler_worker.cli import console, local, request, watching
from pixcrawler_worker.cli import crawl as crawling
from pixcrawler_worker.cli import export as exporting
from pixcrawler_worker.cli import validate as validating
from pixcrawler_worker.cli.request import Asked
from pixcrawler_worker.crawl import report as crawl_report
from pixcrawler_worker.db import job_rows
from pixcrawler_worker.db.job_views import CrawlView, ExportView, ValidationView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.domain.planning import slug
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import croissant
from pixcrawler_worker.exporters.protocol import Carrier
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import report as validation_report


@click.command()
@click.argument("keywords", nargs=-1, metavar="KEYWORD...")
@request.takes
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the dataset is written; made if missing.  [default: the first keyword and the job's id]",
)
@click.option("--job", type=console.NUMBER, metavar="ID", help="Go on with a job instead of creating one.")
@click.option(
    "--format", "format_", type=click.Choice([Carrier.ZIP, Carrier.TAR]), default=Carrier.ZIP, help="zip is unpacked."
)
@click.option("--layout", metavar="NAME", help="How the images lie; pixcrawler export --layouts lists them.")
def build(
    *,
    keywords: tuple[str, ...],
    out: Path | None,
    job: int | None,
    format_: str,
    layout: str | None,
    **asked: Unpack[Asked],
) -> None:
    """Turn keywords into a dataset in a folder: crawl, judge, export, and fetch it, checked against its digests.

    Uses the configured services, with the workers that run there. Where none are configured it runs PostgreSQL, Redis
    and a worker of its own for as long as it takes; what they hold stays, and --job goes on with it.

    \b
    pixcrawler build "red panda" "snow leopard" --max-images 200
    pixcrawler build cat --urls cats.txt --license cc0 --out cats
    pixcrawler build cat --layout coco
    pixcrawler build --job 3
    """  # noqa: D301 - click's mark for lines it must not wrap
    if job is None and not keywords:
        raise click.UsageError("give at least one KEYWORD, or --job ID to go on with a job")
    if job is not None and (keywords or any(asked.values())):
        raise click.UsageError("a job has its keywords and options already: give --job alone, or how it is delivered")
    wanted = None if job is not None else request.read(keywords, asked)
    delivery = Delivery(Carrier(format_), exporting.read(None, format_=format_, layout=layout))
    if out is not None:
        downloads.require_empty(out)
    with _service() as (runtime, check):
        job_id = job or crawling.create(runtime, wanted) if wanted else job
        assert job_id is not None
        if wanted:
            crawling.start(job_id)
        again = f"pixcrawler build --job {job_id}"
        kept = f"\njob {job_id} is kept. Go on with it: {again}. Give it up: pixcrawler jobs cancel {job_id}"
        found = watching.watch(runtime.sessions, CrawlView, job_id, check=check, interrupted=kept)
        folder = out or Path(f"{slug(_first_keyword(found))}-{job_id}")
        made = deliver(runtime, found, folder, delivery, check=check, again=again)
    if made is None:
        sys.exit(1)
    lines = {"images": f"{made.exported_images} in {folder}", "page": folder / "report.html"}
    console.out.print("\n".join(f"{name:<8}{what}" for name, what in lines.items()), soft_wrap=True)
    if found.status != JobStatus.COMPLETED:
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a dataset is wanted: what carries it, and the options of its export."""

    carrier: Carrier
    options: dict[str, Any]


def deliver(
    runtime: Runtime,
    job: CrawlView,
    folder: Path,
    delivery: Delivery,
    *,
    again: str,
    check: Callable[[], None] = lambda: None,
) -> ExportView | None:
    """Judge and export the images of a job, and fetch the dataset with reports: all of it or nothing.

    Args:
        runtime: what connects to database and storage.
        job: the crawl job, which has ended.
        folder: where to; empty, or made here.
        delivery: what is wanted.
        again: the command that goes on when this is interrupted.
        check: called while waiting; raises when that has become pointless.

    Returns:
        The export; None when there was nothing to export, which has been said then.

    Raises:
        SystemExit: 130 when interrupted; what was written is removed.
    """
    kept = f"\nnothing was written. job {job.id} has its images: {again} goes on"
    downloads.require_empty(folder)
    validation_id = transact(
        runtime.sessions,
        lambda session: job_rows.create_validation_job(session, crawl_job_id=job.id, name="build", rules={}),
    )
    assert validation_id is not None
    validating.start(validation_id)
    judged = watching.watch(runtime.sessions, ValidationView, validation_id, check=check, interrupted=kept)
    if judged.status != JobStatus.COMPLETED:
        return None
    export_id = transact(
        runtime.sessions,
        lambda session: job_rows.create_export_job(
            session, crawl_job_id=job.id, name=job.name, format_=delivery.carrier, options=delivery.options
        ),
    )
    assert export_id is not None
    exporting.start(export_id)
    made = watching.watch(runtime.sessions, ExportView, export_id, check=check, interrupted=kept)
    if made.status != JobStatus.COMPLETED:
        return None
    try:
        with downloads.all_or_nothing(folder):
            _fetch(runtime, made, folder, delivery)
            with console.out.status("writing the reports"):
                crawl_report.write(runtime, job.id, folder / "report.html")
                validation_report.write(runtime, judged.id, folder / "validation.html")
    except KeyboardInterrupt:
        click.echo(kept, err=True)
        sys.exit(130)
    return made


def _fetch(runtime: Runtime, made: ExportView, folder: Path, delivery: Delivery) -> None:
    with console.out.status("fetching the dataset"):
        fetched = downloads.fetch(runtime, made, folder)
    if delivery.carrier is not Carrier.ZIP:
        return
    archives = [path for path in fetched if path.suffix == ".zip"]
    with console.counting("unpacking", made.exported_images) as wrote:
        for archive in archives:
            downloads.unpack(archive, folder, wrote=wrote)
            archive.unlink()
    # It tells of the archives, which are gone.
    (folder / croissant.NAME).unlink(missing_ok=True)


@contextlib.contextmanager
def _service() -> Iterator[tuple[Runtime, Callable[[], None]]]:
    """Give a runtime on the configured services, or on some of our own, and a check whether waiting makes sense."""
    configured = configuration.load()
    if configured.database_url is not None:
        configured.require_broker()
        with console.connected() as runtime:
            yield runtime, lambda: None
        return
    if configured.broker_url is not None:
        raise PermanentError("a broker is configured, but no database: set PIXCRAWLER_DATABASE_URL too")
    with local.service(configured.data_dir) as here:
        yield here.runtime, here.check


def _first_keyword(job: CrawlView) -> str:
    """Return what the dataset is called after, whatever shape the keywords of the row have."""
    listed = job.keywords.get("keywords", []) if isinstance(job.keywords, dict) else job.keywords
    first = listed[0] if isinstance(listed, list) and listed else "dataset"
    return str(first.get("label", first.get("query", "dataset")) if isinstance(first, dict) else first)

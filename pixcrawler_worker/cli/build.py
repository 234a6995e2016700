"""`pixcrawler build`."""

import contextlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import click

from pixcrawler_worker import client, settings
from pixcrawler_worker.cli import (
    arguments,
    connection,
    console,
    crawl_arguments,
    export_arguments,
    job_watch,
    local_service,
    new_jobs,
)
from pixcrawler_worker.cli.crawl_arguments import RawCrawlOptions
from pixcrawler_worker.cli.export_arguments import ExportArguments
from pixcrawler_worker.crawl.report import write_crawl_report
from pixcrawler_worker.db.job_views import CrawlView, ExportView, ValidationView
from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import croissant, download
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.report import write_validation_report


@click.command()
@click.argument("keywords", nargs=-1, metavar="KEYWORD...")
@crawl_arguments.add_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory for the dataset, new or empty.  [default: the first keyword and the id of the job]",
)
@click.option("--job", type=arguments.NUMBER, metavar="ID", help="Resume a job instead of creating one.")
@export_arguments.add_options
def build(
    exported: ExportArguments,
    *,
    keywords: tuple[str, ...],
    out: Path | None,
    job: int | None,
    **raw: Unpack[RawCrawlOptions],
) -> None:
    """Turn keywords into a dataset in a directory: crawl, validate, export, download, and verify the checksums.

    Uses the configured services and their workers. Where none are configured, it runs its own PostgreSQL, Redis and
    worker until it is done. Their data is kept, so that --job can resume an interrupted job. A zip is unpacked.

    \b
    pixcrawler build "red panda" "snow leopard" --max-images 200
    pixcrawler build cat --urls cats.txt --license cc0 --out cats
    pixcrawler build cat --layout coco --resize 512 --split train=0.8,test=0.2
    pixcrawler build --job 3
    """  # noqa: D301 - click's mark for lines it must not wrap
    if job is None and not keywords:
        raise click.UsageError("give at least one KEYWORD, or --job ID to resume a job")
    if job is not None and (keywords or any(raw.values())):
        raise click.UsageError(
            "a job has its keywords and options already: combine --job with --out, --format, --layout"
        )
    crawl = None if job is not None else crawl_arguments.parse(keywords, raw)
    delivery = Delivery(*export_arguments.parse(exported))
    if out is not None:
        download.require_empty(out)
    with _services() as (runtime, check):
        job_id = job or new_jobs.create_crawl(runtime, crawl) if crawl else job
        assert job_id is not None
        if crawl:
            new_jobs.start(client.start_crawl, job_id, title=f"job {job_id}")
        resume = f"pixcrawler build --job {job_id}"
        interrupted = f"\njob {job_id} is stored. Resume it: {resume}. Cancel it: pixcrawler jobs cancel {job_id}"
        ended = job_watch.watch(runtime.sessions, CrawlView, job_id, check=check, interrupted=interrupted)
        folder = out or Path(f"{slug(_first_keyword(ended))}-{job_id}")
        export = deliver(runtime, ended, folder, delivery, check=check, resume=resume)
    if export is None:
        sys.exit(1)
    console.out.print(f"images: {export.exported_images} in {folder}", soft_wrap=True)
    console.out.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    if ended.status != JobStatus.COMPLETED:
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The file format and the options of the export."""

    format: ExportFormat
    options: dict[str, Any]


def deliver(
    runtime: Runtime,
    job: CrawlView,
    folder: Path,
    delivery: Delivery,
    *,
    resume: str,
    check: Callable[[], None] | None = None,
) -> ExportView | None:
    """Validate and export the images of a job, and download the dataset with reports: all of it or nothing.

    Args:
        runtime: connects to database and storage.
        job: the crawl job, which has ended.
        folder: the target directory; empty or new.
        delivery: file format and options.
        resume: the command that resumes after an interruption.
        check: called at every poll; raises when the jobs cannot make progress any more.

    Returns:
        The export; None when there are no images, or validation or export failed, which has been printed.

    Raises:
        SystemExit: 130 when interrupted; the files written so far are removed.
    """
    interrupted = f"\nno files were written. The images of job {job.id} are stored. Resume: {resume}"
    download.require_empty(folder)
    if not job.valid_images:
        click.echo(
            f"job {job.id} has no images, so there is no dataset: correct the URLs or keywords, or accept more images",
            err=True,
        )
        return None
    validation_id = new_jobs.create_validation(runtime, job.id, name=job.name, rules={})
    new_jobs.start(client.start_validation, validation_id, title=f"validation {validation_id}")
    validation = job_watch.watch(runtime.sessions, ValidationView, validation_id, check=check, interrupted=interrupted)
    if validation.status != JobStatus.COMPLETED:
        return None
    export_id = new_jobs.create_export(
        runtime, job.id, name=job.name, format_=delivery.format, options=delivery.options
    )
    new_jobs.start(client.start_export, export_id, title=f"export {export_id}")
    export = job_watch.watch(runtime.sessions, ExportView, export_id, check=check, interrupted=interrupted)
    if export.status != JobStatus.COMPLETED:
        return None
    try:
        with download.all_or_nothing(folder):
            _download(runtime, export, folder, delivery)
            with console.out.status("writing the reports"):
                write_crawl_report(runtime, job.id, folder / "report.html", dataset=folder)
                write_validation_report(runtime, validation.id, folder / "quality.html", dataset=folder)
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(130)
    return export


def _download(runtime: Runtime, export: ExportView, folder: Path, delivery: Delivery) -> None:
    with console.out.status("downloading the dataset"):
        files = download.fetch(runtime, export, folder)
    if delivery.format is not ExportFormat.ZIP:
        return
    archives = [path for path in files if path.suffix == ".zip"]
    sizes = [_entries(archive) for archive in archives]
    with console.progress_bar("unpacking", sum(sizes)) as update:
        for position, archive in enumerate(archives):
            download.unpack(archive, folder, wrote=_added_to(sum(sizes[:position]), update))
            archive.unlink()
    # It describes the archives, which are unpacked and removed.
    (folder / croissant.NAME).unlink(missing_ok=True)


def _added_to(start: int, update: Callable[[int], None]) -> Callable[[int], None]:
    return lambda count: update(start + count)


def _entries(archive: Path) -> int:
    with zipfile.ZipFile(archive) as packed:
        return len(packed.namelist())


@contextlib.contextmanager
def _services() -> Iterator[tuple[Runtime, Callable[[], None] | None]]:
    """Yield a runtime on the configured services; or on local ones, with a function that raises when they fail."""
    configured = settings.load()
    if configured.database_url is not None:
        configured.require_broker()
        with connection.connect() as runtime:
            yield runtime, None
        return
    if configured.broker_url is not None:
        raise PermanentError("a broker is configured, but no database: set PIXCRAWLER_DATABASE_URL too")
    with local_service.running(configured.data_dir) as service:
        yield service.runtime, service.check


def _first_keyword(job: CrawlView) -> str:
    """Return the name for the directory of the dataset, from any accepted form of the keywords."""
    listed = job.keywords.get("keywords", []) if isinstance(job.keywords, dict) else job.keywords
    first = listed[0] if isinstance(listed, list) and listed else "dataset"
    return str(first.get("label", first.get("query", "dataset")) if isinstance(first, dict) else first)

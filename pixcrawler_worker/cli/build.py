"""`pixcrawler build`."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

import click

from pixcrawler_worker import dataset
from pixcrawler_worker import settings as configuration
from pixcrawler_worker.cli import console, local, request
from pixcrawler_worker.cli import crawl as crawling
from pixcrawler_worker.cli.request import Asked
from pixcrawler_worker.db.images import Stored
from pixcrawler_worker.db.views import CrawlView
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.domain.planning import slug
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.reports import crawl as crawl_report
from pixcrawler_worker.runtime import Runtime


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
def build(*, keywords: tuple[str, ...], out: Path | None, job: int | None, **asked: Unpack[Asked]) -> None:
    """Turn keywords into a folder of pictures: crawl, wait, and write images, images.csv and report.html.

    Uses the configured services, with the workers that run there. Where none are configured it runs PostgreSQL, Redis
    and a worker of its own for as long as it takes; what they hold stays, and --job goes on with it.

    \b
    pixcrawler build "red panda" "snow leopard" --max-images 200
    pixcrawler build cat --urls cats.txt --license cc0 --out cats
    pixcrawler build --job 3
    """  # noqa: D301 - click's mark for lines it must not wrap
    if job is None and not keywords:
        raise click.UsageError("give at least one KEYWORD, or --job ID to go on with a job")
    if job is not None and (keywords or any(asked.values())):
        raise click.UsageError("a job has its keywords and options already: give --job and --out alone")
    wanted = None if job is not None else request.read(keywords, asked)
    if out is not None:
        dataset.require_empty(out)
    with _service() as (runtime, check):
        job_id = job or crawling.create(runtime, wanted) if wanted else job
        assert job_id is not None
        if wanted:
            crawling.start(job_id)
        again = f"pixcrawler build --job {job_id}"
        kept = f"\njob {job_id} is kept. Go on with it: {again}. Give it up: pixcrawler jobs cancel {job_id}"
        found = console.watch(runtime.sessions, job_id, check=check, interrupted=kept)
        folder = out or Path(f"{slug(_first_keyword(found))}-{job_id}")
        written = write(runtime, found, folder, again=again)
    lines = {"images": f"{len(written)} in {folder}", "table": folder / "images.csv", "page": folder / "report.html"}
    console.out.print("\n".join(f"{name:<8}{what}" for name, what in lines.items()), soft_wrap=True)
    if found.status != JobStatus.COMPLETED or not written:
        sys.exit(1)


def write(runtime: Runtime, job: CrawlView, folder: Path, *, again: str) -> list[Stored]:
    """Write the dataset of a job and its report, with a progress bar, all of it or nothing; return its images.

    Args:
        runtime: what connects to database and storage.
        job: the crawl job.
        folder: where to.
        again: the command that writes it when this is interrupted.

    Raises:
        SystemExit: 130 when interrupted; what was written is removed.
    """
    fresh = not folder.exists()
    try:
        with console.counting("writing", job.valid_images) as wrote:
            written = dataset.write(runtime, job.id, folder, wrote=wrote)
        with console.out.status("writing the report"):
            crawl_report.write(runtime, job.id, folder / "report.html")
    except KeyboardInterrupt:
        _clear(folder, itself=fresh)
        click.echo(f"\nnothing was written. job {job.id} has its images: {again} writes them", err=True)
        sys.exit(130)
    return written


def _clear(folder: Path, *, itself: bool) -> None:
    """Remove what was written, and the folder when it was not there before."""
    for path in folder.iterdir() if folder.exists() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if itself:
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


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

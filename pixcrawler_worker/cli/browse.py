"""`pixcrawler browse`."""

import contextlib
from pathlib import Path

import click

from pixcrawler_worker.browse import content, page_file, server
from pixcrawler_worker.cli import arguments, connection, console, interrupts, job_status
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.html_report import size

#: The port by default: the marks in a browser belong to an address with its port, and are there again with the same.
_PORT = 9402


@click.command()
@click.argument("job_id", type=arguments.NUMBER, metavar="JOB")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File of the page, or a directory for it.  [default: browse-JOB.html]",
)
@click.option("--serve", is_flag=True, help="Serve the page on 127.0.0.1 until Ctrl-C, and write no file.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=_PORT,
    show_default=True,
    help="With --serve: TCP port, 0 for any free one.",
)
def browse(*, job_id: int, output: Path | None, serve: bool, port: int) -> None:
    """Look at all images of a crawl job in a browser: filter, sort, compare near duplicates, and mark images.

    Writes one HTML file that has everything in it, or serves it with larger images. The page saves what was marked as a
    list of exclusions, which --exclude of pixcrawler export and pixcrawler build reads. JOB is the id of a crawl job.

    \b
    pixcrawler browse 3
    pixcrawler browse 3 --serve
    pixcrawler export 3 --exclude exclusions-job-3.json
    """  # noqa: D301 - click's mark for lines it must not wrap
    if serve and output is not None:
        raise click.UsageError("--serve writes no file: leave out --output")
    if serve:
        # However it is ended, that is how it ends.
        with contextlib.suppress(KeyboardInterrupt), interrupts.handled(), connection.connect_to_data() as runtime:
            job_status.require(runtime.sessions, CrawlView, job_id)
            server.serve(runtime, job_id, port=port, started=_say_where)
        return
    with connection.connect_to_data() as runtime:
        job_status.require(runtime.sessions, CrawlView, job_id)
        found = content.read(runtime, job_id)
        path = output or Path(f"browse-{job_id}.html")
        if path.is_dir():
            path /= f"browse-{job_id}.html"
        with console.progress_bar("thumbnails", len(found.images)) as show:
            written = page_file.write(runtime, found, path, show=show)
    missing = f", {written.missing:,} without a thumbnail" if written.missing else ""
    click.echo(f"page: {written.path} ({written.images:,} images{missing}, {size(written.size)})")


def _say_where(url: str) -> None:
    click.echo(f"page: {url}\nStop with Ctrl-C.")

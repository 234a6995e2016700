"""`pixcrawler push`."""

import tempfile
from pathlib import Path

import click

from pixcrawler_worker.cli import arguments, connection, console, downloads, job_status
from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.job_views import CrawlView, ExportView
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import failed, hub
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.runtime import Runtime


@click.command()
@click.argument("job", type=arguments.JOB)
@click.argument("target", metavar="hf://OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new dataset visible to its owner alone.")
@click.option("--replace", is_flag=True, help="Delete files of the dataset on the hub that the export has not.")
def push(*, job: JobRef, target: str, private: bool, replace: bool) -> None:
    """Publish an export on the Hugging Face Hub, with its dataset card. Prints the URL.

    JOB is an export, as in export:3, or a crawl job, of which the newest export is taken. The upload is one commit.
    After an interruption, the same command uploads what is missing. The token is that of HF_TOKEN, or of hf auth login.

    \b
    pixcrawler push export:3 hf://ada/red-pandas --private
    """  # noqa: D301 - click's mark for lines it must not wrap
    repository = hub.repository(target)
    with connection.connect_to_data() as runtime:
        export = _export(runtime, job)
        with tempfile.TemporaryDirectory(prefix="pixcrawler-push-") as folder:
            downloads.fetch(runtime, export, Path(folder))
            # It has URLs of images that are not in the dataset.
            (Path(folder) / failed.NAME).unlink(missing_ok=True)
            with console.out.status(f"uploading to {repository}"):
                url = hub.push(Path(folder), repository, private=private, replace=replace)
    click.echo(url)


def _export(runtime: Runtime, job: JobRef) -> ExportView:
    """Return the export to publish.

    Raises:
        PermanentError: when there is none that is completed, or it is no ZIP.
    """
    if job.table is EXPORT.table:
        export = job_status.require(runtime.sessions, ExportView, job.id)
    elif job.table is CRAWL.table:
        job_status.require(runtime.sessions, CrawlView, job.id)
        found = transact(runtime.sessions, lambda session: job_views.of_crawl(session, ExportView, job.id))
        completed = [one for one in found if one.status == JobStatus.COMPLETED and one.format == ExportFormat.ZIP]
        if not completed:
            raise PermanentError(
                f"job {job.id} has no completed export of the format zip: pixcrawler export {job.id} --watch makes one"
            )
        export = completed[0]
    else:
        raise PermanentError(f"{job} is no export: give an export, as in export:3, or a crawl job")
    if export.status != JobStatus.COMPLETED:
        raise PermanentError(f"export {export.id} is {export.status}: pixcrawler jobs show export:{export.id} says why")
    if export.format != ExportFormat.ZIP:
        raise PermanentError(
            f"export {export.id} is of the format {export.format}, and only the contents of zip are published: "
            f"pixcrawler export {export.crawl_id} --watch makes one"
        )
    return export

"""`pixcrawler crawl`."""

import json
import sys
from typing import Unpack

import click

from pixcrawler_worker import client
from pixcrawler_worker.cli import arguments, connection, crawl_arguments, job_watch, new_jobs
from pixcrawler_worker.cli.crawl_arguments import RawCrawlOptions
from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.db.job_views import CrawlView


@click.command()
@click.argument("keywords", nargs=-1, metavar="KEYWORD...")
@crawl_arguments.add_options
@click.option("--project", type=arguments.NUMBER, metavar="ID", help="Project that the job belongs to.")
@click.option("--name", help="Name of the job.  [default: the keywords]")
@click.option("--watch", is_flag=True, help="Show the progress of the job until it ends.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the options of a crawl, and exit.")
def crawl(
    *,
    keywords: tuple[str, ...],
    project: int | None,
    name: str | None,
    watch: bool,
    schema: bool,
    **raw: Unpack[RawCrawlOptions],
) -> None:
    """Create a crawl job, start it, and print its id.

    \b
    pixcrawler crawl cat --urls cats.txt --watch
    pixcrawler crawl "red panda" "snow leopard" --max-images 200
    """  # noqa: D301 - click's mark for lines it must not wrap
    if schema:
        click.echo(json.dumps(CrawlOptions.model_json_schema(), indent=2))
        return
    if not keywords:
        raise click.UsageError("give at least one KEYWORD, or --schema")
    parsed = crawl_arguments.parse(keywords, raw)
    with connection.connect() as runtime:
        runtime.settings.require_broker()
        job_id = new_jobs.create_crawl(runtime, parsed, project_id=project, name=name)
        click.echo(job_id)
        new_jobs.start(client.start_crawl, job_id, title=f"job {job_id}")
        if watch and not job_watch.succeeded(job_watch.watch(runtime.sessions, CrawlView, job_id)):
            sys.exit(1)

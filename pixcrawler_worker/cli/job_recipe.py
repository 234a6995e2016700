"""The recipe of a crawl job."""

import click

from pixcrawler_worker.cli import job_status, new_jobs, recipes
from pixcrawler_worker.db import extensions
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.runtime import Runtime


def print_recipe(runtime: Runtime, job_id: int) -> None:
    """Print the recipe of a crawl job.

    Raises:
        PermanentError: when there is no such job, or its recipe is not known.
    """
    job = job_status.require(runtime.sessions, CrawlView, job_id)

    def read(session: Session) -> str:
        recipe = recipes.of_job(runtime, session, job, new_jobs.recorded_build(session, job_id))
        return recipe.to_toml(extends=next(iter(extensions.bases(session, job_id)), None))

    click.echo(transact(runtime.sessions, read), nl=False)

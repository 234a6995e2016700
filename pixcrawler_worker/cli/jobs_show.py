"""`pixcrawler jobs show`."""

import click

from pixcrawler_worker.cli import arguments, database, job_status, quarantine_note
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.db.ledger.tables import JobRef


@click.command()
@click.argument("ref", type=arguments.JOB, metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--recipe",
    is_flag=True,
    help="Print the recipe of a crawl job and its dataset, as pixcrawler build --recipe takes it.",
)
def show(*, ref: JobRef, as_json: bool, recipe: bool) -> None:
    """Show the counts, chunks and log of a job.

    Includes the rejection reasons of a crawl job, the findings of a validation, or the files of an export.
    JOB is the id of a crawl job, or validation:3 or export:3 for the other kinds.
    """
    if recipe and (as_json or ref.table is not CRAWL_JOBS):
        raise click.UsageError("--recipe is for a crawl job, and without --json")
    if recipe:
        _print_recipe(ref.id)
        return
    with database.connect_to_data() as opened:
        job_status.print_table(opened.sessions, ref, as_json=as_json)
    if not as_json:
        quarantine_note.note(opened.settings)


def _print_recipe(job_id: int) -> None:
    # What a recipe is checked with takes a while to import.
    from pixcrawler_worker.cli import connection, job_recipe  # noqa: PLC0415

    with connection.connect_to_data() as runtime:
        job_recipe.print_recipe(runtime, job_id)

"""`pixcrawler db`."""

import click

from pixcrawler_worker import health
from pixcrawler_worker.cli import db_backup, db_maintain, db_report, environment
from pixcrawler_worker.db import server


@click.group()
def db() -> None:
    """Maintain the database."""


@db.command()
@click.option(
    "--supabase",
    type=click.Choice(["auto", "require", "off"]),
    default="auto",
    show_default=True,
    help="Row level security and grants for Supabase: where it is detected, always (again), or never.",
)
def upgrade(*, supabase: str) -> None:
    """Run the migrations that this version needs."""
    settings = environment.load_settings()
    server.upgrade(settings.require_database(), supabase=supabase)
    health.require_migrated(settings)
    click.echo("the database is up to date")


for _command in (
    db_backup.backup,
    db_backup.restore,
    db_backup.drill,
    db_report.report,
    db_maintain.maintain,
    db_maintain.prune,
):
    db.add_command(_command)

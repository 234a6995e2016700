"""`pixcrawler db`."""

import click

from pixcrawler_worker import health
from pixcrawler_worker.cli import connection
from pixcrawler_worker.db import server


@click.group()
def db() -> None:
    """Maintain the database."""


@db.command()
def upgrade() -> None:
    """Run the migrations that this version needs."""
    settings = connection.load_settings()
    server.upgrade(settings.require_database())
    health.require_migrated(settings)
    click.echo("the database is up to date")

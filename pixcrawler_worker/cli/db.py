"""`pixcrawler db`."""

import click

from pixcrawler_worker import health
from pixcrawler_worker.cli import console
from pixcrawler_worker.db import checks


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
def upgrade() -> None:
    """Bring the database's tables to what this version needs."""
    settings = console.settings()
    checks.upgrade(settings.require_database())
    health.require_migrated(settings)
    click.echo("the database is up to date")

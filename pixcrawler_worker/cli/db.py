"""`pixcrawler db`."""

import json
from dataclasses import asdict

import click

from pixcrawler_worker import health
from pixcrawler_worker.cli import connection
from pixcrawler_worker.db import server, session, sizes


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
    settings = connection.load_settings()
    server.upgrade(settings.require_database(), supabase=supabase)
    health.require_migrated(settings)
    click.echo("the database is up to date")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(*, as_json: bool) -> None:
    """Show sizes of tables, dead rows, and how many ids are left."""
    settings = connection.load_settings()
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        tables, ids = sizes.tables(engine), sizes.ids(engine)
    finally:
        engine.dispose()
    if as_json:
        found = {
            "tables": [asdict(table) for table in tables],
            "ids": [asdict(one) | {"used": one.used} for one in ids],
        }
        click.echo(json.dumps(found, indent=2, default=str))
        return
    click.echo(f"{'TABLE':<34}{'ROWS':>14}{'DEAD':>12}{'MB':>12}  VACUUMED")
    for table in tables:
        vacuumed = "never" if table.vacuumed_at is None else f"{table.vacuumed_at:%Y-%m-%d %H:%M} UTC"
        click.echo(f"{table.name:<34}{table.rows:>14,}{table.dead_rows:>12,}{table.bytes / 1e6:>12,.1f}  {vacuumed}")
    click.echo(f"\n{'IDS OF':<34}{'LAST':>14}{'USED':>12}")
    for one in ids:
        click.echo(f"{one.column:<34}{one.last:>14,}{one.used:>12.1%}")

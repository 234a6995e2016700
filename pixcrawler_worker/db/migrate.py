"""Migrations from Python, for `pixcrawler db upgrade`; `alembic upgrade head` in a checkout runs the same files."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

import pixcrawler_worker
from pixcrawler_worker.db import private_models
from pixcrawler_worker.errors import PermanentError

_PACKAGE = Path(pixcrawler_worker.__file__).parent


def upgrade(url: str, revision: str = "head", *, supabase: str = "auto", lock_seconds: int = 30) -> None:
    """Migrate a database.

    Args:
        url: of the database, in the form of libpq.
        revision: to migrate to; the newest by default.
        supabase: `auto` sets row level security up where the database is one of Supabase, `require` fails where it is
            not, and sets all of it up again; `off` leaves it alone.
        lock_seconds: to wait for another process that migrates the same database.

    Raises:
        CommandError: when another process takes longer, or the database is not one of Supabase and has to be.
    """
    config = _config(url)
    config.attributes |= {"supabase": supabase, "lock_seconds": lock_seconds}
    command.upgrade(config, revision)


def head() -> str:
    """Return the newest revision that this package knows."""
    newest = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert newest is not None
    return newest


def knows(revision: str) -> bool:
    """Return whether this package has a revision, which may be an older one."""
    return revision in {script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()}


def current(engine: Engine) -> str | None:
    """Return the revision that the database is at; None if it was never migrated."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": private_models.PRIVATE})
        return context.get_current_revision()


def folder(package: Path = _PACKAGE) -> Path:
    """Return the folder of the migrations: inside the package of a wheel, or next to the package in a checkout.

    Raises:
        PermanentError: when it is in neither place.
    """
    places = (package / "migrations", package.parent / "migrations")
    found = next((place for place in places if (place / "env.py").is_file()), None)
    if found is None:
        raise PermanentError(f"there are no migrations in {places[0]} or {places[1]}: install the package again")
    return found


def _config(url: str | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder()))
    if url is not None:
        # Alembic's configuration interpolates "%", which URLs with quoted parts contain.
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config

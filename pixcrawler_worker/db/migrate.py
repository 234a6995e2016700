"""Migrations from Python, for `pixcrawler db upgrade`; `alembic upgrade head` in a checkout runs the same files."""

from alembic import command
from alembic.config import Config

from pixcrawler_worker.db import revisions


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


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(revisions.folder()))
    # Alembic's configuration interpolates "%", which URLs with quoted parts contain.
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config

"""Migrations from inside an installed package; `alembic upgrade head` does the same from a checkout."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from pixcrawler_worker.db import models


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database's tables to a revision, the newest unless told otherwise.

    Args:
        url: the database, as libpq writes it.
        revision: where to go.
    """
    command.upgrade(_config(url), revision)


def head() -> str:
    """Return the newest revision that this package knows."""
    newest = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert newest is not None
    return newest


def current(engine: Engine) -> str | None:
    """Return the revision that the database is at; None when it was never migrated."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": models.PRIVATE})
        return context.get_current_revision()


def _config(url: str | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    if url is not None:
        # Alembic's configuration interpolates "%", which addresses with quoted parts contain.
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config

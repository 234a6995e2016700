"""The migrations that this package has, and the one that a database is at; `db/migrate.py` runs them with Alembic."""

from pathlib import Path

from sqlalchemy import Engine, text

import pixcrawler_worker
from pixcrawler_worker.errors import PermanentError

_PACKAGE = Path(pixcrawler_worker.__file__).parent
_TABLE = text("SELECT to_regclass('pixcrawler.alembic_version') IS NOT NULL")
_CURRENT = text("SELECT version_num FROM pixcrawler.alembic_version")


def head() -> str:
    """Return the newest revision that this package knows."""
    return max(_revisions())


def knows(revision: str) -> bool:
    """Return whether this package has a revision, which may be an older one."""
    return revision in _revisions()


def current(engine: Engine) -> str | None:
    """Return the revision that the database is at; None if it was never migrated."""
    with engine.connect() as connection:
        return connection.scalar(_CURRENT) if connection.scalar(_TABLE) else None


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


def _revisions() -> set[str]:
    """Return all revisions: files are named after them (`0001_name.py`), and later ones have higher numbers."""
    return {file.name.partition("_")[0] for file in (folder() / "versions").glob("[0-9]*_*.py")}

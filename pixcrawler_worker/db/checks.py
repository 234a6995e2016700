"""Questions about the database itself."""

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from pixcrawler_worker.db import migrate
from pixcrawler_worker.errors import TransientError


def revision(engine: Engine) -> str | None:
    """Return the migration that the database is at; None when it was never migrated.

    Raises:
        TransientError: when the database does not answer.
    """
    try:
        return migrate.current(engine)
    except DBAPIError as error:
        raise TransientError(f"the database does not answer: {str(error.orig).partition(chr(10))[0]}") from error

"""Whether everything that the service needs is there and fits."""

from dataclasses import dataclass

from pixcrawler_worker.db import checks, migrate, session
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: its name, whether it is well, and a line for people."""

    name: str
    well: bool
    detail: str


def require_migrated(settings: Settings) -> None:
    """Return when the database has the tables that this version needs.

    Raises:
        PermanentError: when it does not; the message says what to do.
        TransientError: when it does not answer.
    """
    engine = session.connect(settings.require_database(), pool_size=1)
    try:
        found = checks.revision(engine)
    finally:
        engine.dispose()
    if found is None:
        raise PermanentError("the database has no tables yet: run `pixcrawler db upgrade`")
    if found != migrate.head():
        raise PermanentError(
            f"the database is at migration {found}, this version needs {migrate.head()}: run `pixcrawler db upgrade`"
        )

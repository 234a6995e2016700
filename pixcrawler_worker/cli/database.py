"""A connection to the database alone, for commands that read jobs: the rest of a runtime takes longer to import."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from pixcrawler_worker import logs
from pixcrawler_worker.cli import environment
from pixcrawler_worker.db import session
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Database:
    """The settings of the process, and transactions in the database."""

    settings: Settings
    sessions: Sessions


@contextlib.contextmanager
def connect_to_data() -> Iterator[Database]:
    """Yield the database; if the embedded services are stopped, run them while the context is open.

    Raises:
        PermanentError: when no database is configured, and the data directory has none.
    """
    with environment.running_services():
        found = environment.load_settings()
        database_url = found.require_database()
        logs.configure(found.log_format, level=30)
        sessions = session.sessions(session.connect(database_url))
        try:
            yield Database(found, sessions)
        finally:
            session.close(sessions)

"""Times that PostgreSQL has and Python has not: `infinity`, years before 1 and after 9999."""

from datetime import UTC, datetime

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.types.datetime import TimestamptzLoader

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class BoundedTimestamps(TimestamptzLoader):
    """Reads a time beyond the range of Python as the end of that range, so that one row does not fail a whole query."""

    def load(self, data: Buffer) -> datetime:
        """Return the time."""
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            written = bytes(data)
            early = written.startswith(b"-") or written.endswith(b"BC")
            return _FIRST if early else _LAST


def register(connection: AdaptContext) -> None:
    """Read the times of a connection that way."""
    adapters = connection.adapters
    assert adapters is not None
    adapters.register_loader("timestamptz", BoundedTimestamps)

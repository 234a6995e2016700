"""Noticing that the broker may have lost messages, which are then sent again soon."""

import time
import uuid

import kombu
from celery import bootsteps
from kombu.exceptions import OperationalError

from pixcrawler_worker import runtime
from pixcrawler_worker.jobs import sweeper

#: The key in Redis by which a sweep recognizes that the messages were lost: it is lost with them.
_MARKER = "pixcrawler:marker"


def broker_identity(connection: kombu.Connection) -> str | None:
    """Return what identifies the data in Redis: it changes when Redis restarts or is flushed; None for other brokers.

    Raises:
        OperationalError: when it does not respond, or takes no writes.
    """
    try:
        client = getattr(connection.default_channel, "client", None)
        if client is None:
            return None
        if (marker := client.get(_MARKER)) is None:
            client.set(_MARKER, uuid.uuid4().hex, nx=True)
            marker = client.get(_MARKER)
        return f"{client.info('server').get('run_id')} {marker}"
    except (*connection.connection_errors, *connection.channel_errors) as error:
        raise OperationalError(str(error)) from error


class BrokerWatch:
    """Has messages sent again soon that the broker may have lost."""

    def __init__(self) -> None:
        # When the consumer has connected again, on the monotonic clock; None when nothing is to be done about it.
        self._suspected: float | None = None

    def reconnected(self) -> None:
        """Note that the consumer has connected again: what it had received does not come back for an hour."""
        self._suspected = time.monotonic()

    def look(self, connection: kombu.Connection) -> None:
        """Note in the database that messages are lost, if they are.

        Raises:
            OperationalError: when the broker does not respond, or takes no writes.
            TransientError: when the database does not answer.
        """
        identity = broker_identity(connection)
        if identity is not None:
            sweeper.note_broker(runtime.current(), identity)
        suspected = self._suspected
        if suspected is not None:
            settled = sweeper.suspect_broker(runtime.current(), seconds=time.monotonic() - suspected)
            # Unless the consumer has connected once more.
            if settled and self._suspected == suspected:
                self._suspected = None


broker_watch = BrokerWatch()


class Reconnection(bootsteps.StartStopStep):
    """Notes when the consumer has connected again: messages that it had received do not come back for an hour."""

    label = "Reconnection"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: object, **options: object) -> None:
        super().__init__(parent, **options)
        self._connected = False

    def start(self, parent: object) -> None:
        """Note a connection that is not the first."""
        del parent
        if self._connected:
            broker_watch.reconnected()
        self._connected = True

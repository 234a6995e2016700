"""Which workers are there, by asking them through the broker; they need no gossip with each other for that."""

from collections.abc import Mapping

from kombu.exceptions import KombuError

from pixcrawler_worker.broker.app import BrokerApp
from pixcrawler_worker.domain import broker_urls
from pixcrawler_worker.errors import TransientError

#: Seconds that workers get to respond. On a machine that is busy, the first question may be too short.
_TIMEOUTS = (1.0, 2.0)


def consumed_queues(broker_url: str) -> Mapping[str, frozenset[str]]:
    """Return the names of the queues that each worker consumes, by the name of the worker; nothing when none responds.

    Takes a second, or three when no worker responds.

    Raises:
        PermanentError: when the URL is invalid.
        TransientError: when the broker does not answer.
    """
    with BrokerApp("pixcrawler-doctor", broker=broker_urls.for_kombu(broker_url), set_as_current=False) as app:
        timeouts = {"socket_timeout": 3, "socket_connect_timeout": 3, "max_retries": 1, "interval_start": 0}
        app.conf.update(result_backend=None, broker_transport_options=timeouts)
        try:
            for seconds in _TIMEOUTS:
                if found := app.control.inspect(timeout=seconds).active_queues():
                    return {worker: frozenset(queue["name"] for queue in queues) for worker, queues in found.items()}
        except (KombuError, OSError) as error:
            raise TransientError(f"the broker does not answer: {error}") from error
    return {}

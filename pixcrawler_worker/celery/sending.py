"""The messages that a worker sends and looks for."""

import contextlib
from collections.abc import Iterable

import structlog
from kombu.exceptions import KombuError

from pixcrawler_worker import runtime
from pixcrawler_worker.broker import queues
from pixcrawler_worker.celery.application import app
from pixcrawler_worker.celery.lost_messages import LostMessage
from pixcrawler_worker.db.ledger.tables import ChunkMessage
from pixcrawler_worker.domain.messages import QUEUES
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.jobs import sweeper

log = structlog.get_logger()

#: Redis keeps a list for each priority. That of messages without one, 0, is read first: a start or a cancel is short,
#: and does not wait behind the chunks of other jobs.
_CHUNK_PRIORITY = 3


def send_messages(messages: Iterable[ChunkMessage]) -> None:
    """Send messages. Those that a broken broker does not take are sent again by the next sweep."""
    given = list(messages)
    try:
        with app.producer_or_acquire() as producer, producer.batch():
            for message in given:
                app.send_task(
                    message.task,
                    args=(message.chunk_id,),
                    queue=message.queue,
                    task_id=message.task_id,
                    priority=_CHUNK_PRIORITY,
                    producer=producer,
                    ignore_result=True,
                )
    except KombuError as error:
        log.warning("messages not sent, the sweep will send them again", reason=str(error))
        with contextlib.suppress(TransientError):
            sweeper.unsent(runtime.current(), given)


def send_lost(message: LostMessage) -> None:
    """Send a message about a whole job again.

    Raises:
        KombuError: when a broken broker does not take it.
    """
    queue = QUEUES[message.task].value
    app.send_task(message.task.value, message.args, dict(message.kwargs), queue=queue, ignore_result=True)


def requests_wait() -> bool:
    """Return whether messages about whole jobs wait in the queues of this worker; False when the broker is away."""
    return queues.has_requests(runtime.current().settings.require_broker(), app.amqp.queues.consume_from)

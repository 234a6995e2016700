"""Celery's consumer, as `worker_consumer` names it, with what cannot be set in its configuration."""

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import structlog
from celery.worker import consumer
from kombu import Message

from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.broker.reading import UnreadableError

log = structlog.get_logger()
celery_log = logging.getLogger(consumer.__name__)


class Consumer(consumer.Consumer):
    """A consumer that sets aside what it cannot handle, and talks to no other workers."""

    # Celery ends the worker if a child has died by the time of the first start (0): its replacement is started instead.
    restart_count = 0
    # What the stubs of Celery leave out.
    connection_errors: tuple[type[Exception], ...]
    event_dispatcher: Any
    #: Called about each second while the broker is away.
    on_waiting: Callable[[], None] | None = None

    def __init__(self, on_task_request: Any, *, worker_options: dict[str, Any] | None = None, **options: Any) -> None:
        # The ledger says what was cancelled, so workers need no messages to each other; and both raise on reconnects.
        quiet = {"without_gossip": True, "without_mingle": True}
        super().__init__(on_task_request, worker_options={**(worker_options or {}), **quiet}, **options)

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection when it is established, however long that takes."""
        ensure = conn.ensure_connection

        def ensure_connection(errback: Any, max_retries: Any, *, callback: Callable[[], None], **options: Any) -> Any:
            def wait() -> None:
                callback()
                if self.on_waiting:
                    self.on_waiting()

            return ensure(errback, max_retries, callback=wait, **options)

        # Celery has a function of its own called then, and no hook.
        conn.ensure_connection = ensure_connection
        try:
            return super().ensure_connected(conn)
        finally:
            conn.ensure_connection = ensure

    def on_decode_error(self, message: Message, exc: Exception) -> NoReturn:
        """Raise: the transport sets the message aside."""
        del message
        raise exc

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> NoReturn:
        """Raise: the transport sets the message aside."""
        del body, message
        raise exc

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        """Log and drop a message that names an unknown task: without its arguments, which Celery would repeat."""
        del body
        named = {**(message.payload if isinstance(message.payload, dict) else {}), **message.headers}
        log.error("message dropped: there is no such task", task=named.get("task"), message_id=named.get("id"))
        message.reject_log_error(celery_log, self.connection_errors)
        if self.event_dispatcher:
            self.event_dispatcher.send("task-failed", uuid=named.get("id"), exception=f"NotRegistered({exc})")

    def on_unknown_message(self, body: object, message: Message) -> NoReturn:
        """Raise: the transport sets the message aside."""
        del body, message
        raise UnreadableError(Fault.ENVELOPE, "it asks for no task")

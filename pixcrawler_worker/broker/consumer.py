"""Celery's consumer, as `worker_consumer` names it, with what cannot be set in its configuration."""

from typing import Any, NoReturn

import structlog
from celery.worker import consumer
from kombu import Message

from pixcrawler_worker.broker.reading import Fault, UnreadableError

log = structlog.get_logger()

#: What kombu says of a file descriptor that is gone.
_DEAD_CHILD = "file descriptor is None"
#: Children that may have died at that moment.
_MAX_DEAD_CHILDREN = 100


class Consumer(consumer.Consumer):
    """A consumer that sets aside what it cannot handle, and talks to no other workers."""

    # Celery ends the worker if a child has died by the time of the first start (0): its replacement is started instead.
    restart_count = 0

    def __init__(self, on_task_request: Any, *, worker_options: dict[str, Any] | None = None, **options: Any) -> None:
        # The ledger says what was cancelled, so workers need no messages to each other; and both raise on reconnects.
        quiet = {"without_gossip": True, "without_mingle": True}
        super().__init__(on_task_request, worker_options={**(worker_options or {}), **quiet}, **options)
        # Celery's own loop, of events where its pool has them.
        self.event_loop: Any = getattr(self, "loop")  # noqa: B009 - Celery is not typed
        self.loop = self._loop_with_live_children

    def _loop_with_live_children(self, *args: Any) -> Any:
        """Run the event loop until the connection breaks.

        It begins with watching the children. Of one that has just died, kombu says that its "file descriptor is None",
        which would end the worker: it is replaced, and the loop begins again.
        """
        for _ in range(_MAX_DEAD_CHILDREN):
            try:
                return self.event_loop(*args)
            except ValueError as error:
                if str(error) != _DEAD_CHILD:
                    raise
                log.warning("a child process died while the connection was restored; it is replaced")
                self.pool._pool.maintain_pool()
        return self.event_loop(*args)

    def on_decode_error(self, message: Message, exc: Exception) -> NoReturn:
        """Raise: the transport sets the message aside."""
        del message
        raise exc

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> NoReturn:
        """Raise: the transport sets the message aside."""
        del body, message
        raise exc

    def on_unknown_message(self, body: object, message: Message) -> NoReturn:
        """Raise: the transport sets the message aside."""
        del body, message
        raise UnreadableError(Fault.ENVELOPE, "it asks for no task")

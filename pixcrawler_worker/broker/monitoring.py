"""What Celery's monitoring learns of a task: its name, its id and the ids in its arguments, and no secret.

Celery shows arguments in the events `task-sent` and `task-received`, in its log, and in the answers to
`celery inspect`, from where Flower has them. A client can say what is shown of them; any other program that sends
messages does not. So what is shown is made here, of the arguments themselves.
"""

import time
from typing import Any

import structlog
from celery import Task
from celery.app import events
from celery.events import dispatcher
from celery.worker import request
from celery.worker import state as worker_state
from kombu import Message

from pixcrawler_worker.broker.reading import masked_event
from pixcrawler_worker.domain.messages import (
    CHUNK_TASKS,
    arguments_text,
    keywords_text,
    shown_arguments,
    shown_keywords,
)

log = structlog.get_logger()


class MonitoredRequest(request.Request):
    """A message in a worker."""

    # What the stubs of Celery leave out.
    _args: list[Any]
    _kwargs: dict[str, Any]
    _request_dict: dict[str, Any]
    _already_revoked: bool
    _app: Any

    def __init__(self, message: Message, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr = self._request_dict["argsrepr"] = arguments_text(self._args)
        self._kwargsrepr = self._request_dict["kwargsrepr"] = keywords_text(self._kwargs)

    def revoked(self) -> bool:
        """Return whether the message is to be discarded, because an operator or a client has revoked its task.

        Workers keep the ids of revoked tasks for hours, and the sweep sends the message of a chunk again with the same
        id for as long as its job runs: only the message that waits at the time of the revocation is discarded, which is
        the one that a worker meets within a lease. Whether a job goes on is in its row.
        """
        is_chunk = self.name in CHUNK_TASKS
        ids: Any = worker_state.revoked  # the stubs leave out when each was added
        noted = ids._data.get(self.id) if is_chunk else None
        if noted and time.monotonic() - noted[0] > self._app.revocation.total_seconds():
            ids.discard(self.id)
        was_known = self._already_revoked
        discarded: bool = super().revoked()
        if discarded and not was_known:
            log.warning(
                "message discarded: its task was revoked",
                task=self.name,
                task_id=self.id,
                then="the sweep sends it again unless its job is cancelled"
                if is_chunk
                else "a job that it would have started ends, unless another message starts it",
            )
        return discarded

    def info(self, safe: bool = False) -> Any:  # noqa: FBT001, FBT002 - Celery's own
        """Return what `celery inspect` shows of a task."""
        found: Any = super().info(safe=safe)
        shown = {"args": shown_arguments(self._args), "kwargs": shown_keywords(self._kwargs)}
        return found if safe else found | shown


class MonitoredTask(Task):  # type: ignore[type-arg]  # the stubs have parameters that the class itself does not take
    """The base of all tasks of an app."""

    abstract = True
    Request = f"{__name__}:{MonitoredRequest.__name__}"


class Dispatcher(dispatcher.EventDispatcher):
    """Sends events without secrets."""

    def send(self, type: str, **fields: Any) -> Any:  # type: ignore[override]  # noqa: A002 - options are among the fields
        """Send an event."""
        return super().send(type, **masked_event(fields))

    def publish(self, type: str, fields: dict[str, Any], *arguments: Any, **options: Any) -> Any:  # noqa: A002 - Celery's own
        """Send an event with a given producer."""
        return super().publish(type, masked_event(fields), *arguments, **options)


class MonitoredEvents(events.Events):
    """The events of an app."""

    dispatcher_cls = f"{__name__}:{Dispatcher.__name__}"

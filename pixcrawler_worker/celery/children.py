"""What the processes do around their tasks."""

import celery
import structlog
from celery import signals

from pixcrawler_worker import error_reports, runtime, tracing
from pixcrawler_worker.domain.messages import CHUNK_TASKS


@signals.worker_process_shutdown.connect
def _close(**_: object) -> None:
    runtime.close_current()
    _close_reports()


@signals.worker_shutdown.connect
def _close_reports(**_: object) -> None:
    """Send what is not sent yet, in the main process too: it sweeps."""
    tracing.close()
    error_reports.close()


@signals.task_prerun.connect
def _name_task(task_id: str, task: celery.Task[..., object], **_: object) -> None:
    structlog.contextvars.bind_contextvars(task=task.name.removeprefix("pixcrawler."), task_id=task_id)
    # The message of a chunk may serve another job than the one that its sender was at.
    tracing.received({} if task.name in CHUNK_TASKS else vars(task.request))


@signals.task_postrun.connect
def _forget_task(**_: object) -> None:
    structlog.contextvars.clear_contextvars()

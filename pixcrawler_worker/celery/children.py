"""What the processes do around their tasks."""

import celery
import structlog
from celery import signals

from pixcrawler_worker import runtime


@signals.worker_process_shutdown.connect
def _close(**_: object) -> None:
    runtime.close_current()


@signals.task_prerun.connect
def _name_task(task_id: str, task: celery.Task[..., object], **_: object) -> None:
    structlog.contextvars.bind_contextvars(task=task.name.removeprefix("pixcrawler."), task_id=task_id)


@signals.task_postrun.connect
def _forget_task(**_: object) -> None:
    structlog.contextvars.clear_contextvars()

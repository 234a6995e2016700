"""What an API imports to enqueue: `from pixcrawler_worker import client; client.start_crawl(job_id)`.

The broker's address comes from the environment, as the worker reads it. Write and commit the job's row first.
"""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from celery import Celery

from pixcrawler_worker.domain.messages import QUEUES, Task
from pixcrawler_worker.errors import PermanentError

#: Where the broker's address is looked for, in this order; the same names that the worker's settings accept.
BROKER_VARIABLES = ("PIXCRAWLER_BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL")


def start_crawl(job_id: int, options: Mapping[str, Any] | None = None) -> str:
    """Ask for a pending crawl job to be run; return the message's id. Sending it twice does no harm.

    Args:
        job_id: the row in `crawl_jobs`.
        options: sources, urls, licenses, min_width, ...; unknown ones fail the job with a reason.

    Raises:
        PermanentError: when no broker is configured.
        kombu.exceptions.OperationalError: when the broker does not answer.
    """
    return _send(Task.CRAWL_START, job_id, dict(options or {}))


def cancel_crawl(job_id: int) -> str:
    """Ask for a crawl job to be cancelled; return the message's id. Raises as `start_crawl`."""
    return _send(Task.CRAWL_CANCEL, job_id)


def retry_crawl(job_id: int) -> str:
    """Ask for failed and cancelled chunks to be run again; return the message's id. Raises as `start_crawl`."""
    return _send(Task.CRAWL_RETRY, job_id)


def start_validation(job_id: int) -> str:
    """Ask for a pending validation job to be run; return the message's id. Raises as `start_crawl`.

    Args:
        job_id: the row in `validation_jobs`, whose `validation_rules` say what is checked.
    """
    return _send(Task.VALIDATION_START, job_id)


def start_export(job_id: int) -> str:
    """Ask for a pending export job to be run; return the message's id. Raises as `start_crawl`.

    Args:
        job_id: the row in `export_jobs`, whose `format` and `export_options` say what is made.
    """
    return _send(Task.EXPORT_START, job_id)


def workers(*, seconds: float = 1.0) -> list[str]:
    """Return the names of the workers that answer within some seconds. Raises as `start_crawl`."""
    answers = _app(_broker()).control.ping(timeout=seconds) or []
    return sorted(name for answer in answers for name in answer)


def _broker() -> str:
    broker = next((os.environ[name] for name in BROKER_VARIABLES if os.environ.get(name)), None)
    if broker is None:
        raise PermanentError(f"no broker is configured: set {BROKER_VARIABLES[0]}")
    return broker


def _send(task: Task, *args: object) -> str:
    sent = _app(_broker()).send_task(task.value, args=args, queue=QUEUES[task].value, ignore_result=True)
    return str(sent.id)


@cache
def _app(broker: str) -> Celery:
    app = Celery("pixcrawler-client", broker=broker)
    app.conf.update(
        task_serializer="json",
        result_backend=None,
        task_default_exchange="",
        task_create_missing_queues=True,
        # Kombu tries again for four seconds: a broker that hangs is told to an API's user within five.
        broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
    )
    return app

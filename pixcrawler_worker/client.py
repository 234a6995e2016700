"""What an API imports to enqueue jobs: `from pixcrawler_worker import client; client.start_crawl(job_id)`.

The URL of the broker comes from the environment, as for the worker. Write and commit the row of the job first.
"""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from pixcrawler_worker.domain.messages import QUEUES, Task
from pixcrawler_worker.errors import PermanentError

#: Raised when the broker does not respond: `kombu.exceptions.OperationalError`.
BrokerError = OperationalError
#: Variables for the URL of the broker, in the order of precedence; the settings of the worker accept the same names.
BROKER_VARIABLES = ("PIXCRAWLER_BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL")


def start_crawl(job_id: int, options: Mapping[str, Any] | None = None) -> str:
    """Request the start of a pending crawl job; return the id of the message. Sending it twice does no harm.

    Args:
        job_id: the row in `crawl_jobs`.
        options: sources, urls, licenses, min_width, ...; `pixcrawler crawl --schema` prints their JSON Schema.

    Raises:
        PermanentError: when no broker is configured, or an option is unknown or invalid; the message names it.
        BrokerError: when the broker does not respond.
    """
    given = dict(options or {})
    if given:
        # Only an API that sends options needs pydantic.
        from pixcrawler_worker.crawl.options import parse  # noqa: PLC0415

        parse(given)
    return send(Task.CRAWL_START, job_id, given)


def cancel_crawl(job_id: int) -> str:
    """Request the cancellation of a crawl job; return the id of the message. Raises as `start_crawl`."""
    return send(Task.CRAWL_CANCEL, job_id)


def retry_crawl(job_id: int) -> str:
    """Request that failed and cancelled chunks run again; return the id of the message. Raises as `start_crawl`."""
    return send(Task.CRAWL_RETRY, job_id)


def start_validation(job_id: int) -> str:
    """Request the start of a pending validation job; return the id of the message. Raises as `start_crawl`.

    Args:
        job_id: the row in `validation_jobs`, with its `validation_rules`.
    """
    return send(Task.VALIDATION_START, job_id)


def cancel_validation(job_id: int) -> str:
    """Request the cancellation of a validation job; return the id of the message. Raises as `start_crawl`.

    The job ends as `failed`, with "cancelled" as its `error_message`.
    """
    return send(Task.VALIDATION_CANCEL, job_id)


def retry_validation(job_id: int) -> str:
    """Request that failed and cancelled chunks run again; return the id of the message. Raises as `start_crawl`."""
    return send(Task.VALIDATION_RETRY, job_id)


def start_export(job_id: int) -> str:
    """Request the start of a pending export job; return the id of the message. Raises as `start_crawl`.

    Args:
        job_id: the row in `export_jobs`, with its `format` and `export_options`.
    """
    return send(Task.EXPORT_START, job_id)


def cancel_export(job_id: int) -> str:
    """Request the cancellation of an export job; return the id of the message. Raises as `start_crawl`.

    The job ends as `failed`, with "cancelled" as its `error_message`; its files are deleted.
    """
    return send(Task.EXPORT_CANCEL, job_id)


def retry_export(job_id: int) -> str:
    """Request that failed and cancelled chunks run again; return the id of the message. Raises as `start_crawl`."""
    return send(Task.EXPORT_RETRY, job_id)


def send(task: Task, *args: object) -> str:
    """Send the message of a task; return its id. Raises as `start_crawl`.

    Args:
        task: the task; the functions above name those of jobs.
        args: its arguments, with JSON's types only.
    """
    sent = _app(_broker()).send_task(task.value, args=args, queue=QUEUES[task].value, ignore_result=True)
    return str(sent.id)


def workers(*, seconds: float = 1.0) -> list[str]:
    """Return the names of the workers that respond within `seconds`. Raises as `start_crawl`."""
    replies = _app(_broker()).control.ping(timeout=seconds) or []
    return sorted(name for reply in replies for name in reply)


def _broker() -> str:
    broker = next((os.environ[name] for name in BROKER_VARIABLES if os.environ.get(name)), None)
    if broker is None:
        raise PermanentError(f"no broker is configured: set {BROKER_VARIABLES[0]}")
    return broker


@cache
def _app(broker: str) -> Celery:
    app = Celery("pixcrawler-client", broker=broker)
    app.conf.update(
        task_serializer="json",
        result_backend=None,
        task_default_exchange="",
        task_create_missing_queues=True,
        # Kombu retries for four seconds, so that an API can report a hanging broker within five.
        broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
    )
    return app

"""The Celery app: queues, and how messages are delivered.

The settings below are what the ledger's promises rest on; `docs/decisions` has the measurement behind each.
"""

import logging
import os
from typing import NoReturn

import kombu
import structlog
from celery import Celery

from pixcrawler_worker import cores, logs, settings
from pixcrawler_worker.broker import control
from pixcrawler_worker.broker.app import BrokerApp
from pixcrawler_worker.broker.consumer import Consumer
from pixcrawler_worker.broker.monitoring import MonitoredEvents, MonitoredTask
from pixcrawler_worker.broker.pool import ChildPool
from pixcrawler_worker.broker.transport import CheckedAMQP
from pixcrawler_worker.domain.messages import QUEUES, Queue
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs.limits import LIMITS

log = structlog.get_logger()


def _make() -> Celery:
    try:
        configured = settings.load()
        broker = None if configured.broker_url is None else configured.require_broker()
    except PermanentError as error:
        refuse_to_start(error)
    # With the transport that checks each message before Celery reads it.
    made = BrokerApp(
        "pixcrawler",
        broker=broker,
        amqp=CheckedAMQP,
        events=MonitoredEvents,
        task_cls=MonitoredTask,
        include=["pixcrawler_worker.tasks", control.__name__],
        revocation=configured.lease,
    )
    made.conf.update(
        # Exchange "" routes by the queue's name alone: no bindings that a flushed Redis could lose.
        task_queues=[kombu.Queue(queue.value, exchange="", routing_key=queue.value) for queue in Queue],
        task_default_queue=Queue.CRAWL.value,
        task_default_exchange="",
        task_default_routing_key=Queue.CRAWL.value,
        task_routes={task.value: {"queue": queue.value, "routing_key": queue.value} for task, queue in QUEUES.items()},
        # A message is gone only when its task has ended; what a dead worker held comes back by the ledger.
        task_acks_late=True,
        task_acks_on_failure=True,
        task_acks_on_timeout=True,
        task_reject_on_worker_lost=False,
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        worker_consumer=f"{Consumer.__module__}:{Consumer.__name__}",
        worker_pool=f"{ChildPool.__module__}:{ChildPool.__name__}",
        # Celery's own default is all cores of the machine, also in a container that may use two of them.
        worker_concurrency=cores.available(),
        worker_prefetch_multiplier=1,
        task_soft_time_limit=int(LIMITS.soft_time_limit.total_seconds()),
        task_time_limit=int(LIMITS.time_limit.total_seconds()),
        worker_max_tasks_per_child=500,
        worker_max_memory_per_child=1_000_000,
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=25,
        worker_enable_soft_shutdown_on_idle=True,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        # What Redis rejects, for example while it is full, is tried again on a new connection.
        broker_channel_error_retry=True,
        broker_pool_acquire_timeout=10,
        broker_transport_options={
            "visibility_timeout": int(LIMITS.visibility_timeout.total_seconds()),
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": False,
        },
    )
    return made


def refuse_to_start(error: PermanentError) -> NoReturn:
    """End the process with one line on stderr, in the form of its log."""
    # The settings may be what is invalid.
    if os.environ.get("PIXCRAWLER_LOG_FORMAT", "").lower() != "json":
        raise SystemExit(f"pixcrawler: {error}") from None
    if not logging.getLogger().handlers:
        logs.configure("json")
    log.critical("the worker does not start", reason=str(error))
    raise SystemExit(1) from None


app = _make()

"""The Celery app: `celery -A pixcrawler_worker worker` finds it here. Queues, delivery, and the life of processes.

The settings below are what the ledger's promises rest on; `docs/decisions` has the measurement behind each.
"""

import contextlib
import importlib
import logging
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import celery
import click
import kombu
import structlog
from celery import Celery, bootsteps, concurrency, signals
from celery.concurrency import solo as solo_pool
from kombu.exceptions import KombuError, OperationalError

from pixcrawler_worker import health, logs, metrics, runtime, settings, settings_report
from pixcrawler_worker.broker import control, liveness, queues
from pixcrawler_worker.broker.app import BrokerApp
from pixcrawler_worker.broker.consumer import Consumer
from pixcrawler_worker.broker.monitoring import MonitoredEvents, MonitoredTask
from pixcrawler_worker.broker.pool import ChildPool
from pixcrawler_worker.broker.reading import Fault
from pixcrawler_worker.broker.transport import CheckedAMQP
from pixcrawler_worker.db.ledger.tables import ChunkMessage
from pixcrawler_worker.domain.messages import QUEUES, Queue, Task
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.inspection import kernel
from pixcrawler_worker.jobs import sweeper
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.jobs.setbacks import Setbacks
from pixcrawler_worker.monitored_state import MonitoredState
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.sources import protocol

log = structlog.get_logger()

#: Seconds that a sweep under way gets when the worker stops.
_SWEEP_GRACE = 10
#: Sweeps in which a failed task's process is looked for.
_LOOKS = 2
#: Redis keeps a list for each priority. That of messages without one, 0, is read first: a start or a cancel is short,
#: and does not wait behind the chunks of other jobs.
_CHUNK_PRIORITY = 3
#: Pools that run one chunk in a process at a time.
_POOLS = {ChildPool.__module__, "celery.concurrency.prefork", "celery.concurrency.solo"}
#: Seconds between two messages that ask for storage to be tidied.
_TIDY_SECONDS = 600
#: Seconds that a sweep waits for a connection of the pool.
_ACQUIRE_SECONDS = 10
#: The key in Redis by which a sweep recognizes that the messages were lost: it is lost with them.
_MARKER = "pixcrawler:marker"


def _make() -> Celery:
    try:
        configured = settings.load()
        broker = None if configured.broker_url is None else configured.require_broker()
    except PermanentError as error:
        _refuse_to_start(error)
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


def _refuse_to_start(error: PermanentError) -> NoReturn:
    """End the process with one line on stderr, in the form of its log."""
    # The settings may be what is invalid.
    if os.environ.get("PIXCRAWLER_LOG_FORMAT", "").lower() != "json":
        raise SystemExit(f"pixcrawler: {error}") from None
    if not logging.getLogger().handlers:
        logs.configure("json")
    log.critical("the worker does not start", reason=str(error))
    raise SystemExit(1) from None


app = _make()


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


def broker_identity(connection: kombu.Connection) -> str | None:
    """Return what identifies the data in Redis: it changes when Redis restarts or is flushed; None for other brokers.

    Raises:
        OperationalError: when it does not respond, or takes no writes.
    """
    try:
        client = getattr(connection.default_channel, "client", None)
        if client is None:
            return None
        if (marker := client.get(_MARKER)) is None:
            client.set(_MARKER, uuid.uuid4().hex, nx=True)
            marker = client.get(_MARKER)
        return f"{client.info('server').get('run_id')} {marker}"
    except (*connection.connection_errors, *connection.channel_errors) as error:
        raise OperationalError(str(error)) from error


class BrokerWatch:
    """Has messages sent again soon that the broker may have lost."""

    def __init__(self) -> None:
        # When the consumer has connected again, on the monotonic clock; None when nothing is to be done about it.
        self._suspected: float | None = None

    def reconnected(self) -> None:
        """Note that the consumer has connected again: what it had received does not come back for an hour."""
        self._suspected = time.monotonic()

    def look(self, connection: kombu.Connection) -> None:
        """Note in the database that messages are lost, if they are.

        Raises:
            OperationalError: when the broker does not respond, or takes no writes.
            TransientError: when the database does not answer.
        """
        identity = broker_identity(connection)
        if identity is not None:
            sweeper.note_broker(runtime.current(), identity)
        suspected = self._suspected
        if suspected is not None:
            settled = sweeper.suspect_broker(runtime.current(), seconds=time.monotonic() - suspected)
            # Unless the consumer has connected once more.
            if settled and self._suspected == suspected:
                self._suspected = None


broker_watch = BrokerWatch()


class Reconnection(bootsteps.StartStopStep):
    """Notes when the consumer has connected again: messages that it had received do not come back for an hour."""

    label = "Reconnection"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: object, **options: object) -> None:
        super().__init__(parent, **options)
        self._connected = False

    def start(self, parent: object) -> None:
        """Note a connection that is not the first."""
        del parent
        if self._connected:
            broker_watch.reconnected()
        self._connected = True


def requests_wait() -> bool:
    """Return whether messages about whole jobs wait in the queues of this worker; False when the broker is away."""
    return queues.has_requests(runtime.current().settings.require_broker(), app.amqp.queues.consume_from)


class Sweeper(bootsteps.StartStopStep):
    """Sweeps in a thread of the worker's main process, so that repairs never wait behind what they repair."""

    label = "Sweeper"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: object, **options: object) -> None:
        super().__init__(parent, **options)
        self._pid = os.getpid()
        self._wanted = threading.Event()
        self._ended = threading.Event()
        # Tasks that ended badly, with how often they are still looked at: a process may take a moment to die.
        self._failed: deque[tuple[str, int]] = deque()
        self._setbacks = Setbacks()
        self._thread: threading.Thread | None = None
        signals.task_failure.connect(self._on_failure, weak=False)

    def start(self, parent: object) -> None:
        """Begin to sweep."""
        del parent
        self._thread = threading.Thread(target=self._sweep_until_ended, name="sweeper", daemon=True)
        self._thread.start()

    def stop(self, parent: object) -> None:
        """End after the sweep that may be under way."""
        del parent
        self._ended.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=_SWEEP_GRACE)

    terminate = stop

    def _on_failure(self, task_id: str, **_: object) -> None:
        """Give a failed task's chunk back without waiting for its lease.

        A child that was killed, or ran into its time limit, is reported here in the main process, where the sweeping
        thread takes over; a bug is reported in the child itself.
        """
        if os.getpid() == self._pid:
            self._failed.append((task_id, _LOOKS))
            self._wanted.set()
            return
        with contextlib.suppress(TransientError):
            sweeper.expire_lease(runtime.current(), task_id, ended=lambda pid: pid == os.getpid())

    def _sweep_until_ended(self) -> None:
        tidied = time.monotonic()
        while not self._ended.is_set():
            seconds = runtime.current().settings.sweep_seconds
            unfinished = self._sweep()
            if time.monotonic() - tidied > _TIDY_SECONDS:
                tidied = time.monotonic()
                with contextlib.suppress(OperationalError):
                    app.send_task(Task.SWEEP.value, queue=QUEUES[Task.SWEEP].value, ignore_result=True)
            if unfinished:
                continue
            # Jitter, so that many workers do not sweep in step.
            self._wanted.wait(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, guards nothing
            self._wanted.clear()

    def _check_broker(self) -> None:
        """Have messages sent again soon that the broker may have lost. Whatever goes wrong here stops no sweep."""
        try:
            pool: Any = app.pool  # the stubs take it for a pool of producers
            with pool.acquire(block=True, timeout=_ACQUIRE_SECONDS) as connection:
                broker_watch.look(connection)
            HealthFile.database = ""
        except KombuError as error:
            log.warning("the broker could not be checked", reason=str(error))
        except TransientError as error:
            # The sweep that follows meets the same database, and says so in the log.
            HealthFile.database = str(error)
        except Exception:
            log.exception("the broker could not be checked")

    def _sweep(self) -> bool:
        """Sweep once; return whether rows are left that there was no time for."""
        self._check_broker()
        try:
            for _ in range(len(self._failed)):
                # Taken out first: whatever cannot be looked up must not stop every sweep from now on.
                task_id, looks = self._failed.popleft()
                try:
                    expired = sweeper.expire_lease(runtime.current(), task_id, ended=_is_gone)
                except TransientError:
                    self._failed.append((task_id, looks))
                    raise
                if looks > 1 and not expired:
                    self._failed.append((task_id, looks - 1))
            swept = sweeper.sweep(runtime.current(), JOB_KINDS.values(), setbacks=self._setbacks)
            send_messages(swept.messages)
        except TransientError as error:
            log.warning("sweep put off", reason=str(error))
        except Exception:  # a sweeper that dies of a bug would leave every job behind it standing still
            log.exception("sweep failed")
        else:
            return swept.unfinished
        return False


class MetricsServer(bootsteps.StartStopStep):
    """Serves the metrics of the worker's main process, where an operator asks for it."""

    label = "Metrics server"
    # Children that start before it do not even inherit the port.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: object, **options: object) -> None:
        super().__init__(parent, **options)
        self._port = settings.load().metrics_port
        if self._port:
            metrics.prepare(JOB_KINDS, steps=sweeper.STEPS, faults=[fault.value for fault in Fault])
            # Before there are children.
            metrics.collect()

    def start(self, parent: object) -> None:
        """Begin to serve."""
        del parent
        if self._port:
            tables = [kind.table for kind in JOB_KINDS.values()]
            # This worker is one: asking them all would have each ask all others.
            state = MonitoredState(settings.load(), tables, ask_workers=False)
            metrics.serve(self._port, readings=state.readings)


class HealthFile(bootsteps.StartStopStep):
    """Writes the file of `pixcrawler health` in the event loop of the consumer, where an operator asks for it."""

    label = "Health file"
    requires = ("celery.worker.consumer.tasks:Tasks",)
    #: Why the database is no reason to call the worker ready; empty when it responds. Sweeps set it.
    database: ClassVar[str] = "the database was not asked yet"

    def __init__(self, parent: Any, **options: object) -> None:  # noqa: ANN401 - Celery's consumer
        super().__init__(parent, **options)
        self._path = settings.load().health_file
        self._hostname: str = parent.hostname
        # Chunks of the pool solo run where the file is written.
        solo = type(parent.pool).__module__ == solo_pool.__name__
        self._max_age = liveness.MAX_AGE + (LIMITS.time_limit.total_seconds() if solo else 0)
        self._entry: Any = None
        self._written, self._said = 0.0, ""
        self._reported = False
        parent.on_waiting = self._wait

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's consumer
        """Begin to say that messages are consumed."""
        self._write(self.database)
        self._entry = parent.timer.call_repeatedly(1.0, lambda: self._keep(self.database))

    def stop(self, parent: object) -> None:
        """Say so no longer: the connection is lost, or the worker stops."""
        del parent
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
        self._write("no messages are consumed")

    def shutdown(self, parent: object) -> None:
        """Remove the file."""
        del parent
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _wait(self) -> None:
        self._keep("the broker does not answer")

    def _keep(self, not_ready: str) -> None:
        """Write what has changed at once, and what has not when its time has come."""
        if not_ready != self._said or time.monotonic() - self._written >= liveness.INTERVAL:
            self._write(not_ready)

    def _write(self, not_ready: str) -> None:
        self._written, self._said = time.monotonic(), not_ready
        if self._path is None:
            return
        try:
            liveness.write(self._path, self._hostname, not_ready=not_ready, max_age=self._max_age)
        except OSError as error:
            if not self._reported:
                self._reported = True
                log.warning("the health file cannot be written", path=str(self._path), reason=str(error))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


app.steps["worker"].add(Sweeper)
app.steps["consumer"].add(Reconnection)
app.steps["consumer"].add(HealthFile)
app.steps["worker"].add(MetricsServer)


@signals.setup_logging.connect
def _configure_logs(loglevel: int = logging.INFO, logfile: str | None = None, **_: object) -> None:
    try:
        logs.configure(settings.load().log_format, level=loglevel, file=Path(logfile) if logfile else None)
    except OSError as error:
        raise SystemExit(f"pixcrawler: the log file cannot be written: {error}") from None


@signals.celeryd_init.connect
def _check(
    sender: str, instance: object = None, options: Mapping[str, Any] = MappingProxyType({}), **_: object
) -> None:
    """Refuse to start where no chunk could ever run; an absent service is waited for instead."""
    kernel.hide_memory()  # children have it from here
    is_json = False
    try:
        configured = settings.load()
        is_json = configured.log_format == "json"
        if is_json:
            _log_as_json(instance)
        if options.get("logfile") or is_json:
            # A worker in the background has no other place where the lines below would be seen.
            app.log.setup(options.get("loglevel"), options.get("logfile"), hostname=sender)
        if is_json:
            logs.capture()
        configured.require_broker()
        _require_pool(options.get("pool") or options.get("pool_cls"))
        if unknown := settings_report.unknown(protocol.SOURCES.installed()):
            log.warning("unknown settings are ignored", did_you_mean=unknown)
        if networks := [str(network) for network in configured.allowed_networks]:
            log.warning("private networks may be fetched from: this is for development", networks=networks)
        # All that a chunk makes from the settings is made once here, where an error still reaches the operator.
        runtime.connect(configured).close()
        health.require_broker_rights(configured)
        health.require_rights(configured)
        health.require_migrated(configured)
    except TransientError as error:
        log.warning("started without a database; waiting for it", reason=str(error))
    except PermanentError as error:
        if options.get("logfile") and not is_json:
            log.critical("the worker does not start", reason=str(error))
        _refuse_to_start(error)


@signals.celeryd_after_setup.connect
def _leave_own_tasks(**_: object) -> None:
    """Forget the tasks of Celery itself, which run and send what a message says: none of ours needs them."""
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        app.tasks.unregister(name)


def _log_as_json(worker: Any) -> None:  # noqa: ANN401 - what Celery calls a worker has no stubs
    """Keep Celery from writing what is no log entry: its banner, and its own redirection of stdout and stderr."""
    # Children know of the format by it, also where a file `.env` has it.
    os.environ["PIXCRAWLER_LOG_FORMAT"] = "json"
    app.conf.worker_redirect_stdouts = False
    if worker is not None:
        worker.quiet = True


@signals.worker_shutting_down.connect
def _log_shutdown(sig: str, how: str, **_: object) -> None:
    """Log what Celery prints on a signal, which a log of JSON has no line for otherwise."""
    if os.environ.get("PIXCRAWLER_LOG_FORMAT") == "json":
        log.info("the worker stops", signal=sig, how=how)


def _require_pool(pool: type | str | None) -> None:
    """Raise if chunks would share a process: each needs its own event loop, connections, time limits and recycling."""
    if pool is None:
        return
    module = concurrency.get_implementation(pool).__module__
    if module not in _POOLS:
        name = module.rpartition(".")[2]
        raise PermanentError(f"chunks cannot run in the pool {name}: leave out --pool, or use --pool prefork or solo")


@signals.import_modules.connect
def _require_password(**_: object) -> None:
    """Refuse to start Flower for everyone: who reaches it could read of all tasks, and stop the workers."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "flower":
        return
    given = importlib.import_module("tornado.options").options
    if not (given.basic_auth or given.auth):
        _refuse_to_start(
            PermanentError(
                "Flower has no password, which FLOWER_BASIC_AUTH (as name:word) or its option --auth would give"
            )
        )


@signals.worker_process_shutdown.connect
def _close(**_: object) -> None:
    runtime.close_current()


@signals.task_prerun.connect
def _name_task(task_id: str, task: celery.Task[..., object], **_: object) -> None:
    structlog.contextvars.bind_contextvars(task=task.name.removeprefix("pixcrawler."), task_id=task_id)


@signals.task_postrun.connect
def _forget_task(**_: object) -> None:
    structlog.contextvars.clear_contextvars()

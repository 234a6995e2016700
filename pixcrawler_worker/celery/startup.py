"""The start of a worker and of Flower: what is checked, and the form of their logs."""

import contextlib
import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import structlog
from celery import concurrency, signals

from pixcrawler_worker import error_reports, health, logs, runtime, settings, settings_report, tracing
from pixcrawler_worker.broker.pool import ChildPool, note_stop
from pixcrawler_worker.celery.application import app, refuse_to_start
from pixcrawler_worker.db import models
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.inspection import kernel
from pixcrawler_worker.sources import protocol

log = structlog.get_logger()

#: Pools that run one chunk in a process at a time.
_POOLS = {ChildPool.__module__, "celery.concurrency.prefork", "celery.concurrency.solo"}


@signals.setup_logging.connect
def _configure_logs(loglevel: int = logging.INFO, logfile: str | None = None, **_: object) -> None:
    try:
        logs.configure(settings.load().log_format, level=loglevel, file=Path(logfile) if logfile else None)
    except OSError as error:
        raise SystemExit(f"pixcrawler: the log file cannot be written: {error}") from None
    # What is wrong with the DSN prevents the start, see below.
    with contextlib.suppress(PermanentError):
        error_reports.configure(settings.load().secret("sentry_dsn"))


@signals.celeryd_init.connect
def _check(
    sender: str, instance: object = None, options: Mapping[str, Any] = MappingProxyType({}), **_: object
) -> None:
    """Refuse to start where no chunk could ever run; an absent service is waited for instead."""
    # Children have both from here.
    kernel.hide_memory()
    models.configure()
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
        tracing.configure(configured.secret("otlp_endpoint"))
        if dsn := configured.secret("sentry_dsn"):
            error_reports.require(dsn)
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
        refuse_to_start(error)


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
def _note_shutdown(sig: str, how: str, **_: object) -> None:
    """Have the children end what they do; log what Celery prints, which a log of JSON has no line for otherwise."""
    note_stop()
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
        refuse_to_start(
            PermanentError(
                "Flower has no password, which FLOWER_BASIC_AUTH (as name:word) or its option --auth would give"
            )
        )

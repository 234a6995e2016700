"""What an API imports to enqueue jobs: `from pixcrawler_worker import client; client.start_crawl(job_id)`.

The URL of the broker comes from the environment, as for the worker. Write and commit the row of the job first. Each
function has a twin for an event loop, `await client.astart_crawl(job_id)`, with the same arguments and errors. Nothing
but `PermanentError` (the call is wrong: change it) and `BrokerError` (the broker does not take the message: try again
later) is raised, within about five seconds.
"""

import asyncio
import contextvars
import functools
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, ParamSpec, TypeVar

from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from pixcrawler_worker.domain.messages import QUEUES, Task, arguments_text
from pixcrawler_worker.errors import PermanentError

P = ParamSpec("P")
T = TypeVar("T")

#: Raised when the broker does not respond, or does not take the message: `kombu.exceptions.OperationalError`.
BrokerError = OperationalError
#: Variables for the URL of the broker, in the order of precedence; the settings of the worker accept the same names.
BROKER_VARIABLES = ("PIXCRAWLER_BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL")
#: What an API can check before it writes a row or sends a message: options of a crawl, rules of a validation, options
#: of an export.
OptionsKind = Literal["crawl", "validation", "export"]

#: Bytes of the options in a message. A worker reads messages of 32 MiB, in which they are encoded once more.
_MAX_OPTIONS_BYTES = 20 * 1024 * 1024
#: Seconds after which a call for an event loop ends; that of a broker that hangs ends by itself before.
_SECONDS = 5.5
#: Calls of an event loop that talk to the broker at a time; others wait, within their seconds.
_THREADS = 16


def start_crawl(job_id: int, options: Mapping[str, Any] | None = None) -> str:
    """Request the start of a pending crawl job; return the id of the message. Sending it twice does no harm.

    Args:
        job_id: the row in `crawl_jobs`.
        options: sources, urls, licenses, min_width, ...; `options_schema("crawl")` returns their JSON Schema.

    Raises:
        PermanentError: when no broker is configured, the id is no id, or an option is unknown or invalid; the message
            names it.
        BrokerError: when the broker does not respond, or does not take the message.
    """
    number = _job_id(job_id)
    return send(Task.CRAWL_START, number, {} if options is None else _checked(options))


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
        args: the id of the job, and what else the task takes, with JSON's types only.
    """
    checked = (_job_id(args[0]), *args[1:]) if args else ()
    _require_sendable(checked)
    with _broker_errors():
        sent = _app(_broker()).send_task(
            task.value,
            args=checked,
            queue=QUEUES[task].value,
            ignore_result=True,
            # What monitoring shows: options may hold links that are signed.
            argsrepr=arguments_text(checked),
            headers=_trace_context(),
        )
    return str(sent.id)


def _trace_context() -> dict[str, str]:
    """Return the headers of the span in which the caller is, if its program uses OpenTelemetry: workers link to it."""
    carrier: dict[str, str] = {}
    if (propagate := sys.modules.get("opentelemetry.propagate")) is not None:
        propagate.inject(carrier)
    # Others, such as baggage, may have anything in them.
    return {name: carrier[name] for name in ("traceparent", "tracestate") if name in carrier}


def workers(*, seconds: float = 1.0) -> list[str]:
    """Return the names of the workers that respond within `seconds`. Raises as `start_crawl`."""
    with _broker_errors():
        replies = _app(_broker()).control.ping(timeout=seconds) or []
    return sorted(name for reply in replies for name in reply)


def options_schema(kind: OptionsKind) -> dict[str, Any]:
    """Return the JSON Schema of the options of a crawl, the rules of a validation, or the options of an export.

    Raises:
        PermanentError: when there is no such kind.
    """
    schema: dict[str, Any] = _model(kind)[0].model_json_schema()
    return schema


def check_options(kind: OptionsKind, options: Mapping[str, Any] | None) -> None:
    """Return if options are valid: of a crawl, or those that an API writes into the row of a validation or an export.

    Raises:
        PermanentError: when the kind or an option is unknown, or a value is invalid; the message names it.
    """
    parse = _model(kind)[1]
    if options is not None:
        parse(_plain(options))


def _asynchronous(function: Callable[P, T], name: str) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return the twin of a function for an event loop: it runs in a thread, and ends within seconds.

    A call that takes too long, or is cancelled, may send its message later all the same.
    """

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        try:
            return await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), work), _SECONDS
            )
        except TimeoutError:
            raise BrokerError(f"the broker did not take the message within {_SECONDS:g} s") from None

    call.__name__ = call.__qualname__ = name
    return call


astart_crawl = _asynchronous(start_crawl, "astart_crawl")
acancel_crawl = _asynchronous(cancel_crawl, "acancel_crawl")
aretry_crawl = _asynchronous(retry_crawl, "aretry_crawl")
astart_validation = _asynchronous(start_validation, "astart_validation")
acancel_validation = _asynchronous(cancel_validation, "acancel_validation")
aretry_validation = _asynchronous(retry_validation, "aretry_validation")
astart_export = _asynchronous(start_export, "astart_export")
acancel_export = _asynchronous(cancel_export, "acancel_export")
aretry_export = _asynchronous(retry_export, "aretry_export")


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: a child that is forked has none of those of its parent."""
    del process
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="pixcrawler-client")


def _job_id(value: object) -> int:
    # Only on a call, as the models of options: an import of this module brings as little as it can.
    from pixcrawler_worker.domain.postgres_types import MAX_INT4  # noqa: PLC0415

    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_INT4:
        return int(value)
    raise PermanentError(f"job_id: expected an integer from 1 to {MAX_INT4}, got {_shown(value)}")


def _shown(value: object) -> str:
    from pixcrawler_worker.domain.stored_json import quoted  # noqa: PLC0415

    if value is None or isinstance(value, str | bool | int | float | list | tuple | dict):
        return quoted(value)
    return f"a value of the type {type(value).__name__}"


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a crawl as they are sent; those that a worker would reject are not.

    Raises:
        PermanentError: as `start_crawl`.
    """
    plain = _plain(options)
    if plain:
        _model("crawl")[1](plain)
    return plain


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with JSON's types only, of a bounded size.

    Raises:
        PermanentError: when they are no object, or hold what JSON does not have, themselves, or too much.
    """
    if not isinstance(options, Mapping):
        raise PermanentError(f"options: expected an object, got {_shown(options)}")
    try:
        text = json.dumps(dict(options), allow_nan=False)
    except RecursionError:
        raise PermanentError("options: they are nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise PermanentError(f"{_first_without_json(options)} cannot be written as JSON: {error}") from None
    if len(text) > _MAX_OPTIONS_BYTES:
        raise PermanentError(
            f"options: they have {len(text)} bytes as JSON, more than {_MAX_OPTIONS_BYTES}:"
            " split the job, or put the URLs into a file and use `pixcrawler crawl --urls`"
        )
    plain: dict[str, Any] = json.loads(text)
    return plain


def _require_sendable(arguments: Sequence[object]) -> None:
    """Raise if workers would set the message aside."""
    from pixcrawler_worker.domain.stored_json import MAX_DEPTH, is_deeper  # noqa: PLC0415

    if len(arguments) <= 1:
        return
    if is_deeper(arguments):
        raise PermanentError(f"arguments: they are nested too deeply, workers read {MAX_DEPTH} levels")
    try:
        size = len(json.dumps(arguments, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PermanentError(f"arguments: they cannot be written as JSON: {error}") from None
    if size > _MAX_OPTIONS_BYTES:
        raise PermanentError(f"arguments: they have {size} bytes as JSON, more than {_MAX_OPTIONS_BYTES}")


def _first_without_json(options: Mapping[str, Any]) -> str:
    """Return the name of the first option that is no JSON value."""
    for name, value in options.items():
        try:
            json.dumps({name: value}, allow_nan=False)
        except (TypeError, ValueError):
            return f"options.{str(name)[:60]}: it"
    return "options: they"


def _model(kind: OptionsKind) -> tuple[Any, Callable[[object], object]]:
    """Return the model of options, and the function that checks them. Only an API that has options needs pydantic."""
    if kind == "crawl":
        from pixcrawler_worker.crawl.options import CrawlOptions  # noqa: PLC0415
        from pixcrawler_worker.crawl.options import parse as parse_crawl  # noqa: PLC0415

        return CrawlOptions, parse_crawl
    if kind == "validation":
        from pixcrawler_worker.validate.rules import ValidationRules  # noqa: PLC0415
        from pixcrawler_worker.validate.rules import parse as parse_rules  # noqa: PLC0415

        return ValidationRules, parse_rules
    if kind == "export":
        from pixcrawler_worker.export.options import ExportOptions  # noqa: PLC0415
        from pixcrawler_worker.export.options import parse as parse_export  # noqa: PLC0415

        return ExportOptions, parse_export
    raise PermanentError(f"kind: expected crawl, validation or export, got {_shown(kind)}")


@contextmanager
def _broker_errors() -> Iterator[None]:
    """Raise whatever a broker makes Celery raise as `BrokerError`."""
    try:
        yield
    except (OperationalError, PermanentError):
        raise
    except (KombuError, OSError) as error:
        # For example all connections of this process wait for a broker that hangs.
        raise BrokerError(f"the broker does not respond: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "redis":
            raise
        # Redis is full, is a read-only replica, or denies access.
        raise BrokerError(f"the broker does not take the message: {error}") from error


def _broker() -> str:
    broker = next((os.environ[name] for name in BROKER_VARIABLES if os.environ.get(name)), None)
    if broker is None:
        raise PermanentError(f"no broker is configured: set {BROKER_VARIABLES[0]}")
    return broker


@cache
def _app(broker: str) -> Celery:
    from pixcrawler_worker.broker.app import BrokerApp  # noqa: PLC0415

    app = BrokerApp("pixcrawler-client", broker=_checked_url(broker))
    app.conf.update(
        task_serializer="json",
        result_backend=None,
        task_default_exchange="",
        task_create_missing_queues=True,
        # Kombu retries for four seconds, so that an API can report a hanging broker within five.
        broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
        # More connections than an API has threads; a thread that would wait for one is better off with an error.
        broker_pool_limit=100,
        broker_pool_acquire_timeout=1,
    )
    return app


def _checked_url(broker: str) -> str:
    """Return the URL as kombu has it: that of Redis, or of the broker in memory that tests of an API use.

    Raises:
        PermanentError: when it is another one; the message has no part of it.
    """
    from pixcrawler_worker.domain import broker_urls  # noqa: PLC0415

    if broker.rstrip("/") == "memory:":
        return broker
    try:
        return broker_urls.for_kombu(broker)
    except PermanentError as error:
        name = next((name for name in BROKER_VARIABLES if os.environ.get(name)), BROKER_VARIABLES[0])
        raise PermanentError(f"{name} is invalid: {str(error).removeprefix('invalid broker URL, ')}") from None

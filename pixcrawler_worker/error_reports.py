"""Reports of errors to Sentry, where an operator asks for them. Nothing of it is imported otherwise.

What is reported are log entries with a traceback, each once: nothing else has to know of Sentry. A report has the
traceback, the event and the ids of job, chunk and task, all masked as in the log. It has no values of local variables,
no arguments of tasks, no rows of the database, no bodies, no environment and no command line.
"""

import importlib
import logging
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import structlog

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.masking import mask, mask_value
from pixcrawler_worker.tracing import is_installed

#: Of a log entry, what a report has: ids and words of the code. Others may hold what a message or a row has.
_TAGS = ("kind", "step", "task")
_IDS = ("job", "chunk", "attempt", "task_id", "trace_id", "row", "part")
#: Loggers of what sends reports: an error of theirs would be reported by itself.
_OWN = ("sentry_sdk", "urllib3", "opentelemetry")
#: What SQLAlchemy appends to the text of an error: the statement and the values of rows.
_STATEMENT = re.compile(r"\s*\[SQL: .*", re.DOTALL)
#: What psycopg appends: the row that broke a constraint.
_DETAIL = re.compile(r"\n(?:DETAIL|CONTEXT|HINT|QUERY|LINE \d+):.*", re.DOTALL)
#: Seconds that the end of a process waits for what is not sent yet.
_CLOSE_SECONDS = 2.0
_MAX_EVENT = 200


def require(dsn: str) -> None:
    """Return if errors can be reported, else raise.

    Raises:
        PermanentError: when the DSN is invalid, or the extra is not installed; the message has no part of the DSN.
    """
    try:
        parts = urlsplit(dsn)
        is_dsn = (
            parts.scheme in {"http", "https"}
            and bool(parts.username and parts.hostname)
            and parts.port != 0
            and parts.path.rpartition("/")[2].isdecimal()
        )
    except ValueError:
        is_dsn = False
    if not is_dsn:
        raise PermanentError("PIXCRAWLER_SENTRY_DSN is invalid: expected for example https://key@sentry.example/1")
    if not is_installed("sentry_sdk"):
        raise PermanentError(
            "PIXCRAWLER_SENTRY_DSN is set, but Sentry's SDK is not installed: pip install 'pixcrawler-worker[sentry]'"
        )


def configure(dsn: str | None) -> None:
    """Report errors from this process and those that it forks; None to do nothing.

    Call it when the log is configured: the handlers of the root logger are replaced by that.

    Raises:
        PermanentError: see `require`.
    """
    if not dsn:
        return
    require(dsn)
    sdk: Any = importlib.import_module("sentry_sdk")
    dedupe: Any = importlib.import_module("sentry_sdk.integrations.dedupe")
    sdk.init(
        dsn=dsn,
        release=f"pixcrawler-worker@{version('pixcrawler-worker')}",
        # Those that are on by default read command lines, environments, arguments of tasks and requests.
        default_integrations=False,
        auto_enabling_integrations=False,
        # An exception that several entries are about is reported once.
        integrations=[dedupe.DedupeIntegration()],
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        auto_session_tracking=False,
        propagate_traces=False,
        in_app_include=["pixcrawler_worker"],
        before_send=_scrubbed,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _Handler) for handler in root.handlers):
        root.addHandler(_Handler(sdk))


def close() -> None:
    """Send what this process has not sent yet, within seconds."""
    if "sentry_sdk" in sys.modules:
        sdk: Any = importlib.import_module("sentry_sdk")
        sdk.flush(timeout=_CLOSE_SECONDS)


class _Handler(logging.Handler):
    """Reports log entries with a traceback."""

    def __init__(self, sdk: Any) -> None:  # noqa: ANN401 - a module
        super().__init__(logging.ERROR)
        self._sdk = sdk

    def emit(self, record: logging.LogRecord) -> None:
        """Report an entry. Whatever is wrong with that is no reason to disturb what is logged."""
        try:
            self._report(record)
        except Exception:  # noqa: BLE001 - see above
            self.handleError(record)

    def _report(self, record: logging.LogRecord) -> None:
        if record.name.split(".", 1)[0] in _OWN:
            return
        entry = record.msg if isinstance(record.msg, dict) else {}
        error = _exception(entry.get("exc_info") or record.exc_info)
        if error is None:
            return
        fields = structlog.contextvars.get_contextvars() | entry
        # Of entries of other libraries the text without its arguments.
        event = str(entry.get("event", "" if entry else record.msg))[:_MAX_EVENT]
        with self._sdk.new_scope() as scope:
            scope.set_tag("logger", record.name)
            for name in _TAGS:
                if name in fields:
                    scope.set_tag(name, str(fields[name]))
            scope.set_context("log", {"event": event, **{name: fields[name] for name in _IDS if name in fields}})
            scope.capture_exception(error)


def _exception(given: object) -> BaseException | None:
    """Return the exception of a log entry, in any of the forms that the standard library and structlog take."""
    match given:
        case BaseException():
            return given
        case (_, BaseException() as error, _):
            return error
        case None | False | (_, _, _):
            return None
        case _:
            return sys.exc_info()[1]


def _scrubbed(event: dict[str, Any], hint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report without secrets, as it is sent."""
    del hint
    for name in ("request", "user", "extra", "modules", "breadcrumbs", "server_name"):
        event.pop(name, None)
    for error in event.get("exception", {}).get("values", []):
        error["value"] = _DETAIL.sub("", _STATEMENT.sub("", mask(str(error.get("value") or ""))))
        error.get("mechanism", {}).pop("data", None)
        for frame in error.get("stacktrace", {}).get("frames", []):
            frame.pop("vars", None)
    scrubbed: dict[str, Any] = mask_value(event)
    return scrubbed

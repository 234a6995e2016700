"""Traces of jobs by OpenTelemetry, where an operator asks for them. Nothing of it is imported otherwise.

All spans of a job have one trace id, which is derived from its kind and its id: whatever sends a message, sends it
again or serves the turn of another job with it, the trace stays the same, and no message has to carry it. A start
message with the header `traceparent` is linked to the trace of its sender. There is a span for each start, attempt at
a chunk and conclusion; inside of them at most `MAX_STEPS` for statements of the database, and as many for requests of
sources. Single images have none.
"""

import contextlib
import importlib
import importlib.util
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from pixcrawler_worker.errors import PermanentError

log = structlog.get_logger()

#: Spans of one kind of step inside of one span of a job.
MAX_STEPS = 100
#: Seconds that the end of a process waits for what is not exported yet.
_CLOSE_SECONDS = 3.0
#: Characters of the headers of trace contexts.
_MAX_HEADER = 600
#: What is looked for to know whether the extra is installed.
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")

Value = str | int | float | bool


class Span(Protocol):
    """A span that was begun."""

    def set(self, name: str, value: Value) -> None:
        """Set an attribute."""

    def fail(self, kind: str, text: str) -> None:
        """Note that it ended with an error.

        Args:
            kind: name of the type.
            text: for people; secrets in it are masked.
        """

    def end(self) -> None:
        """End it."""


class Tracer(Protocol):
    """Makes spans and exports them."""

    def job(
        self, name: str, kind: str, job_id: int, sender: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[tuple[Span, str]]:
        """Return a context with a span in the trace of a job, and the id of the trace."""

    def step(self, name: str) -> Span:
        """Begin a span inside of the current one, for a request to another service."""

    def close(self) -> None:
        """Export what is not exported yet."""


class _NoSpan:
    def set(self, name: str, value: Value) -> None:
        pass

    def fail(self, kind: str, text: str) -> None:
        pass

    def end(self) -> None:
        pass


_NO_SPAN: Span = _NoSpan()


@dataclass(slots=True)
class _JobSpan:
    """A span of a job that is open in this context, with how many steps of each kind it has."""

    tracer: Tracer
    span: Span
    steps: Counter[str] = field(default_factory=Counter)


_current: ContextVar[_JobSpan | None] = ContextVar("job_span", default=None)
#: Headers of the message that the current task has, as far as they are a trace context.
_sender: ContextVar[Mapping[str, str]] = ContextVar("sender", default=MappingProxyType({}))
_endpoint: str | None = None
_tracers: dict[int, Tracer] = {}
_opening = threading.Lock()


def require(endpoint: str) -> None:
    """Return if spans can be exported, else raise.

    Args:
        endpoint: base URL of a collector that takes OTLP by HTTP.

    Raises:
        PermanentError: when the URL is invalid, or the extra is not installed; the message has no part of the URL.
    """
    try:
        parts = urlsplit(endpoint)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise PermanentError("PIXCRAWLER_OTLP_ENDPOINT is invalid: expected for example http://localhost:4318")
    if not all(map(is_installed, _PACKAGES)):
        raise PermanentError(
            "PIXCRAWLER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: pip install 'pixcrawler-worker[otel]'"
        )


def configure(endpoint: str | None) -> None:
    """Turn traces on for this process and those that it forks, or off.

    Args:
        endpoint: see `require`; None to make no spans.

    Raises:
        PermanentError: see `require`.
    """
    global _endpoint  # noqa: PLW0603 - a process has one, like its log
    if endpoint:
        require(endpoint)
    _endpoint = endpoint or None


def close() -> None:
    """Export what this process has not exported yet, within seconds. Spans that follow are made again."""
    if tracer := _tracers.pop(os.getpid(), None):
        ending = threading.Thread(target=tracer.close, name="tracing", daemon=True)
        ending.start()
        ending.join(_CLOSE_SECONDS)


def received(headers: Mapping[str, object]) -> None:
    """Note the trace of whatever sent the message of the current task; headers that are none mean nothing."""
    if _endpoint is not None:
        names = ("traceparent", "tracestate")
        given = {name: value for name in names if isinstance(value := headers.get(name), str)}
        _sender.set({name: value for name, value in given.items() if len(value) <= _MAX_HEADER})


@contextlib.contextmanager
def job_span(name: str, kind: str, job_id: int) -> Iterator[Span]:
    """Make a span in the trace of a job, whose id is in the log entries of its context, too.

    Args:
        name: what is done with the job: "start", "chunk", ...
        kind: of the job.
        job_id: its row.
    """
    tracer = _tracer()
    if tracer is None:
        yield _NO_SPAN
        return
    with tracer.job(f"{kind} {name}", kind, job_id, _sender.get()) as (span, trace_id):
        opened = _JobSpan(tracer, span)
        token = _current.set(opened)
        try:
            with structlog.contextvars.bound_contextvars(trace_id=trace_id):
                yield span
        finally:
            _current.reset(token)
            for step, count in opened.steps.items():
                if count > MAX_STEPS:
                    span.set(f"pixcrawler.{step}.spans_left_out", count - MAX_STEPS)


def current() -> Span:
    """Return the span of a job that the current context has; one that goes nowhere where it has none."""
    opened = _current.get()
    return _NO_SPAN if opened is None else opened.span


def is_traced() -> bool:
    """Return whether the current context has a span of a job."""
    return _current.get() is not None


def begin_step(kind: str, name: str) -> Span | None:
    """Begin a span for a request to another service; None where the current context has no span of a job.

    Args:
        kind: `db` or `http`.
        name: of the operation, with few different values.
    """
    opened = _current.get()
    if opened is None or not _has_room(opened, kind):
        return None
    return opened.tracer.step(name)


def _has_room(opened: _JobSpan, kind: str) -> bool:
    opened.steps[kind] += 1
    return opened.steps[kind] <= MAX_STEPS


def _tracer() -> Tracer | None:
    """Return the tracer of this process; None when traces are off. One whose making fails turns them off."""
    if _endpoint is None:
        return None
    pid = os.getpid()
    if pid not in _tracers:
        with _opening:
            if pid not in _tracers:
                try:
                    _tracers[pid] = importlib.import_module("pixcrawler_worker.tracing_sdk").open_tracer(_endpoint)
                except Exception:  # whatever its variables hold must not stop jobs
                    log.exception("there are no traces: OpenTelemetry could not be set up")
                    configure(None)
    return _tracers.get(pid)


def is_installed(package: str) -> bool:
    """Return whether a package of an extra is installed. The last part of its name is not imported for that."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False

"""The tracer of a process, made with OpenTelemetry's SDK: the one module that imports it, see `tracing.py`."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pixcrawler_worker.errors import WorkerError
from pixcrawler_worker.masking import mask
from pixcrawler_worker.tracing import Span, Tracer, Value

#: Seconds for one export, unless OpenTelemetry's own variable says otherwise.
_EXPORT_SECONDS = 5.0
#: Characters of a text in a span.
_MAX_TEXT = 1000
#: Resource attributes that distinguish services whose jobs have the same ids, as their names were and are.
_NAMESPACES = ("service.namespace", "deployment.environment.name", "deployment.environment")

_trace_id: ContextVar[int | None] = ContextVar("trace_id", default=None)


def open_tracer(endpoint: str) -> Tracer:
    """Return the tracer of this process. OpenTelemetry's own variables set its sampler, headers, resource and limits.

    Args:
        endpoint: base URL of a collector that takes OTLP by HTTP.
    """
    own = {
        "service.name": "pixcrawler-worker",
        "service.version": version("pixcrawler-worker"),
        "service.instance.id": f"{platform.node()}:{os.getpid()}",
    }
    # What the operator says in OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME takes precedence.
    resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
    is_timed = {"OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"} & os.environ.keys()
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=None if is_timed else _EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return _SdkTracer(provider)


def trace_id(kind: str, job_id: int, attributes: Mapping[str, object]) -> int:
    """Return the id of the trace of a job.

    Args:
        kind: of the job.
        job_id: its row.
        attributes: of the resource: the namespace and the environment keep services apart.
    """
    words = [*(str(attributes.get(name, "")) for name in _NAMESPACES), kind, str(job_id)]
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:16]) or 1


class _Ids(RandomIdGenerator):
    """Gives a trace the id of its job."""

    def generate_trace_id(self) -> int:
        return _trace_id.get() or super().generate_trace_id()


class _SdkSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, mask(value)[:_MAX_TEXT] if isinstance(value, str) else value)

    def fail(self, kind: str, text: str) -> None:
        self._span.set_attribute("error.type", kind)
        # Masked before it is cut: what is left of a URL may not look like one.
        self._span.set_status(StatusCode.ERROR, mask(text)[:_MAX_TEXT])

    def end(self) -> None:
        self._span.end()


class _SdkTracer:
    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pixcrawler_worker", version("pixcrawler-worker"))
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def job(self, name: str, kind: str, job_id: int, sender: Mapping[str, str]) -> Iterator[tuple[Span, str]]:
        number = trace_id(kind, job_id, self._provider.resource.attributes)
        is_inside = trace.get_current_span().get_span_context().trace_id == number
        wanted = _trace_id.set(number)
        try:
            span = self._tracer.start_span(
                name,
                None if is_inside else Context(),
                SpanKind.INTERNAL if is_inside else SpanKind.CONSUMER,
                {"pixcrawler.job.kind": kind, "pixcrawler.job.id": job_id},
                [] if is_inside else self._links(sender),
            )
        finally:
            _trace_id.reset(wanted)
        opened = _SdkSpan(span)
        # The traceback of an error is for the log.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield opened, trace.format_trace_id(number)
            except Exception as error:
                # The texts of other errors may have values of rows.
                opened.fail(type(error).__name__, str(error) if isinstance(error, WorkerError) else "")
                raise

    def step(self, name: str) -> Span:
        return _SdkSpan(self._tracer.start_span(name, kind=SpanKind.CLIENT))

    def close(self) -> None:
        self._provider.shutdown()

    def _links(self, sender: Mapping[str, str]) -> list[Link]:
        found = trace.get_current_span(self._propagator.extract(sender, Context())).get_span_context()
        return [Link(found)] if found.is_valid else []

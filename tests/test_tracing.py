import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_network

import httpx
import pytest
from collector import Collector, attributes, collecting
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from pixcrawler_worker import health, settings, tracing
from pixcrawler_worker.db.session import Sessions, execute_prepared
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.tracing_sdk import trace_id
from pixcrawler_worker.web import http
from pixcrawler_worker.web.downloader import Downloader
from pixcrawler_worker.web.policy import Policy

SECRET = "hunter2"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Traces are on, and arrive here when they are closed."""
    with collecting() as one:
        tracing.configure(one.url)
        yield one
        tracing.close()
        tracing.configure(None)


def test_nothing_is_imported_or_sent_unless_it_is_turned_on() -> None:
    script = (
        "import sys, pixcrawler_worker.tasks, pixcrawler_worker.client\n"
        "from pixcrawler_worker import tracing\n"
        "with tracing.job_span('start', 'crawl', 1) as span:\n"
        "    span.set('a', 1)\n"
        "    assert not tracing.is_traced() and tracing.begin_step('db', 'SELECT') is None\n"
        # Redis' client imports the SDK's metrics wherever that is installed.
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter',"
        " 'sentry_sdk'))])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIXCRAWLER_")}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_spans_of_a_job_have_its_trace_and_others_have_others(collector: Collector) -> None:
    with tracing.job_span("start", "crawl", 7):
        pass
    with tracing.job_span("chunk", "crawl", 7), tracing.job_span("conclude", "crawl", 7):
        pass
    with tracing.job_span("chunk", "crawl", 8), tracing.job_span("chunk", "export", 7):
        pass
    tracing.close()
    spans = {span.name: span for span in collector.spans if span.trace_id == trace_id("crawl", 7, {}).to_bytes(16)}
    assert set(spans) == {"crawl start", "crawl chunk", "crawl conclude"}
    assert spans["crawl conclude"].parent_span_id == spans["crawl chunk"].span_id
    assert not spans["crawl start"].parent_span_id
    assert not spans["crawl chunk"].parent_span_id
    assert {span.trace_id for span in collector.spans} == {
        trace_id(kind, job_id, {}).to_bytes(16) for kind, job_id in (("crawl", 7), ("crawl", 8), ("export", 7))
    }


def test_environments_with_the_same_ids_have_other_traces() -> None:
    names = [{}, {"deployment.environment.name": "staging"}, {"service.namespace": "staging"}]
    assert len({trace_id("crawl", 7, one) for one in names}) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": 7},
        {"traceparent": "00-zz-1-01"},
        {"traceparent": "x" * 100_000},
        {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"},
        {"traceparent": ["00"], "tracestate": {"a": 1}},
    ],
)
def test_a_header_that_is_no_trace_means_nothing(collector: Collector, headers: dict[str, object]) -> None:
    tracing.received(headers)
    with tracing.job_span("start", "crawl", 7):
        pass
    tracing.received({})
    tracing.close()
    assert [list(span.links) for span in collector.spans] == [[]]


def test_the_trace_of_the_sender_is_linked(collector: Collector) -> None:
    sender = "0af7651916cd43dd8448eb211c80319c"
    tracing.received({"traceparent": f"00-{sender}-b7ad6b7169203331-00", "tracestate": "a=b", "baggage": SECRET})
    with tracing.job_span("start", "crawl", 7):
        pass
    tracing.received({})
    tracing.close()
    (sent,) = collector.spans
    assert [link.trace_id.hex() for link in sent.links] == [sender]
    assert sent.trace_id == trace_id("crawl", 7, {}).to_bytes(16)
    assert SECRET not in collector.text


def test_statements_are_spans_without_values_up_to_a_limit(collector: Collector, sessions: Sessions) -> None:
    with tracing.job_span("chunk", "crawl", 7), sessions.begin() as session:
        for number in range(tracing.MAX_STEPS + 5):
            session.execute(text("SELECT CAST(:value AS text)"), {"value": f"{SECRET}{number}"})
    with sessions.begin() as session:
        session.execute(text("SELECT 1"))
    tracing.close()
    steps = [span for span in collector.spans if span.name == "SELECT"]
    (job,) = [span for span in collector.spans if span.name == "crawl chunk"]
    assert len(steps) == tracing.MAX_STEPS
    assert {span.parent_span_id for span in steps} == {job.span_id}
    assert attributes(job)["pixcrawler.db.spans_left_out"] == 5
    assert attributes(steps[0])["db.system.name"] == "postgresql"
    assert SECRET not in collector.text


def test_a_prepared_statement_is_a_span_too(collector: Collector, sessions: Sessions) -> None:
    with tracing.job_span("chunk", "crawl", 7), sessions.begin() as session:
        execute_prepared(session, "SELECT %(value)s::text", {"value": SECRET})
    with (
        pytest.raises(DBAPIError),
        tracing.job_span("chunk", "crawl", 7),
        sessions.begin() as session,
    ):
        execute_prepared(session, "SELECT %(value)s::int", {"value": SECRET})
    tracing.close()
    steps = [span for span in collector.spans if span.name == "SELECT" and "value" in attributes(span)["db.query.text"]]
    assert [attributes(span).get("error.type") for span in steps] == [None, "22P02"]
    assert SECRET not in collector.text


def test_a_statement_that_fails_has_its_code_and_no_text(collector: Collector, sessions: Sessions) -> None:
    with pytest.raises(ProgrammingError), tracing.job_span("chunk", "crawl", 7), sessions.begin() as session:
        session.execute(text(f"SELECT 1 FROM no_such_table WHERE :value = '{SECRET}'"), {"value": SECRET})
    tracing.close()
    failed = {span.name: span.status.message for span in collector.spans if span.status.code == 2}
    assert failed == {"SELECT": "", "crawl chunk": ""}
    codes = {attributes(span)["error.type"] for span in collector.spans}
    assert codes == {"42P01", "ProgrammingError"}


def test_an_error_of_the_service_is_in_the_span_masked(collector: Collector) -> None:
    problem = f"postgresql://ada:{SECRET}@db/x?token={SECRET} does not answer"
    with pytest.raises(TransientError), tracing.job_span("chunk", "crawl", 7):
        raise TransientError(problem)
    tracing.close()
    assert collector.spans[0].status.message.startswith("postgresql://ada:****@db/x")
    assert SECRET not in collector.text


def test_a_request_of_a_source_is_a_span_without_its_query(collector: Collector) -> None:
    async def search(url: str) -> httpx.Response:
        downloader = Downloader(Policy(user_agent="test", allowed_networks=(ip_network("127.0.0.0/8"),)))
        try:
            async with http.client(downloader) as one:
                return await one.get(url)
        finally:
            await downloader.aclose()

    with tracing.job_span("chunk", "crawl", 7):
        answered = asyncio.run(search(f"{collector.url}/api?api_key={SECRET}#{SECRET}"))
    tracing.close()
    (sent,) = [span for span in collector.spans if span.name == "GET"]
    assert attributes(sent)["http.response.status_code"] == answered.status_code == 404
    assert attributes(sent)["url.full"] == f"{collector.url}/api"
    assert attributes(sent)["server.address"] == "127.0.0.1"
    assert SECRET not in collector.text


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://x:4317", "http://", f"http://{SECRET}:port", "http://[x"]
)
def test_an_endpoint_that_is_no_url_is_rejected_without_its_text(endpoint: str) -> None:
    with pytest.raises(
        PermanentError, match="PIXCRAWLER_OTLP_ENDPOINT is invalid: expected for example http"
    ) as caught:
        tracing.configure(endpoint)
    assert SECRET not in str(caught.value)


def test_a_collector_that_is_away_costs_seconds_at_most() -> None:
    tracing.configure("http://127.0.0.1:1")
    try:
        with tracing.job_span("start", "crawl", 7):
            pass
        tracing.close()
    finally:
        tracing.configure(None)


def test_variables_of_opentelemetry_that_are_broken_stop_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1")
    tracing.configure("http://127.0.0.1:1")
    try:
        with tracing.job_span("start", "crawl", 7) as span:
            span.set("a", 1)
        assert not tracing.is_traced()
    finally:
        tracing.close()
        tracing.configure(None)


def test_doctor_asks_what_takes_traces_and_reports() -> None:
    with collecting() as one:
        found = health.run_checks(settings.load(otlp_endpoint=one.url, sentry_dsn=one.dsn))
    lines = {result.name: result for result in found}
    assert (lines["traces"].ok, lines["traces"].detail) == (True, f"are sent to {one.url}")
    assert lines["error reports"].ok
    assert "key" not in lines["error reports"].detail
    away = health.run_checks(settings.load(otlp_endpoint="http://127.0.0.1:1", sentry_dsn="https://key@127.0.0.1:1/7"))
    assert [result.name for result in away if "127.0.0.1:1 cannot be connected to" in result.detail] == [
        "traces",
        "error reports",
    ]
    assert not {"traces", "error reports"} & {result.name for result in health.run_checks(settings.load())}


def test_without_the_extras_it_is_said_how_to_install_them() -> None:
    # An environment in which the packages cannot be found.
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'opentelemetry', 'sentry_sdk'}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from pixcrawler_worker import error_reports, tracing\n"
        f"for check in (lambda: tracing.require('http://x'), lambda: error_reports.require('https://{SECRET}@x/1')):\n"
        "    try: check()\n"
        "    except Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        f"PIXCRAWLER_{name} is set, but {what} is not installed: pip install 'pixcrawler-worker[{extra}]'"
        for name, what, extra in (("OTLP_ENDPOINT", "OpenTelemetry", "otel"), ("SENTRY_DSN", "Sentry's SDK", "sentry"))
    ], done.stderr

import logging
from collections.abc import Iterator

import pytest
import sentry_sdk
import structlog
from collector import Collector, collecting

from pixcrawler_worker import error_reports, logs
from pixcrawler_worker.errors import PermanentError

SECRET = "hunter2"
log = structlog.get_logger("ours")


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Errors are reported, and arrive here when the reports are closed."""
    with collecting() as one:
        logs.configure("json")
        error_reports.configure(one.dsn)
        yield one
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)


def look_up(text: str) -> None:
    raise LookupError(text)


def fail(password: str, *, links: list[str]) -> None:
    row = {"storage_url": f"s3://a:{password}@b/c", "token": password}
    try:
        look_up(f"{row['storage_url']} token={password}\n[SQL: SELECT 1]\n[parameters: {links}]")
    except LookupError as error:
        raise ValueError(f"postgresql://ada:{password}@db/x\nDETAIL: Key (url)=({links[0]}) exists") from error


def caught() -> Exception:
    try:
        fail(SECRET, links=[f"https://a.example/1.jpg?sig={SECRET}"])
    except ValueError as error:
        return error
    raise AssertionError


def test_an_error_is_reported_once_with_its_traceback_and_no_secret(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", SECRET)
    structlog.contextvars.bind_contextvars(task="crawl.chunk", task_id="t-1")
    try:
        fail(SECRET, links=[f"https://a.example/1.jpg?sig={SECRET}"])
    except ValueError:
        log.exception(
            "chunk failed", kind="crawl", job=7, chunk=8, url=f"https://a.example/?sig={SECRET}", args=[SECRET]
        )
        logging.getLogger("celery.app.trace").exception(
            "Task %s raised: %s", "x", SECRET, extra={"data": {"args": SECRET}}
        )
    error_reports.close()
    (event,) = collector.events
    causes = event["exception"]["values"]
    assert [(one["type"], one["value"]) for one in causes] == [
        ("LookupError", "s3://****@b/c token=****"),
        ("ValueError", "postgresql://ada:****@db/x"),
    ]
    functions = [frame["function"] for frame in causes[-1]["stacktrace"]["frames"]]
    assert functions[-2:] == ["test_an_error_is_reported_once_with_its_traceback_and_no_secret", "fail"]
    assert event["tags"] == {"logger": "ours", "kind": "crawl", "task": "crawl.chunk"}
    assert event["contexts"]["log"] == {"event": "chunk failed", "job": 7, "chunk": 8, "task_id": "t-1"}
    assert event["release"].startswith("pixcrawler-worker@")
    assert not {"request", "user", "extra", "modules", "breadcrumbs", "server_name"} & event.keys()
    assert all("vars" not in frame for one in causes for frame in one["stacktrace"]["frames"])
    assert SECRET not in collector.text


@pytest.mark.parametrize(
    "write",
    [
        lambda error: log.error("failed", exc_info=error),
        lambda error: log.error("failed", exc_info=(type(error), error, error.__traceback__)),
        lambda error: logging.getLogger("theirs").error("failed", exc_info=error),
        lambda error: logging.getLogger("pixcrawler_worker").critical("uncaught exception", exc_info=error),
    ],
)
def test_every_form_of_a_traceback_in_the_log_is_reported(collector: Collector, write: object) -> None:
    assert callable(write)
    write(caught())
    error_reports.close()
    assert [event["exception"]["values"][-1]["type"] for event in collector.events] == ["ValueError"]


def test_entries_without_a_traceback_and_those_of_the_exporters_are_not_reported(collector: Collector) -> None:
    log.error("job ended", reason="no images", exc_info=None)
    log.warning("chunk released", exc_info=caught())
    logging.getLogger("theirs").error("no traceback", exc_info=(None, None, None))
    for name in ("sentry_sdk.errors", "urllib3.connectionpool", "opentelemetry.exporter"):
        logging.getLogger(name).error("away", exc_info=caught())
    error_reports.close()
    assert collector.events == []


def test_configuring_the_log_again_reports_each_error_once(collector: Collector) -> None:
    logs.configure("json")
    for _ in range(2):
        error_reports.configure(collector.dsn)
    log.error("failed", exc_info=caught())
    error_reports.close()
    assert len(collector.events) == 1


def test_a_group_of_errors_is_reported_with_its_members(collector: Collector) -> None:
    log.error("failed", exc_info=ExceptionGroup("several", [ValueError(f"token={SECRET}"), TypeError("b")]))
    error_reports.close()
    assert {one["type"] for one in collector.events[0]["exception"]["values"]} == {
        "ExceptionGroup",
        "ValueError",
        "TypeError",
    }
    assert SECRET not in collector.text


@pytest.mark.parametrize(
    "dsn",
    ["sentry.example/1", "https://sentry.example/1", f"https://{SECRET}@sentry.example", f"https://{SECRET}@[x/1", "x"],
)
def test_a_dsn_that_is_none_is_rejected_without_its_text(dsn: str) -> None:
    with pytest.raises(
        PermanentError, match="PIXCRAWLER_SENTRY_DSN is invalid: expected for example https://"
    ) as found:
        error_reports.configure(dsn)
    assert SECRET not in str(found.value)


def test_nothing_is_done_without_a_dsn() -> None:
    before = list(logging.getLogger().handlers)
    error_reports.configure(None)
    error_reports.close()
    assert logging.getLogger().handlers == before

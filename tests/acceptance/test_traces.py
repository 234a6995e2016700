"""Traces and error reports of a real worker, at a stand-in for a collector and for Sentry."""

import psycopg
import pytest
from acceptance_stack import Stack
from celery import Celery
from collector import attributes, collecting

from pixcrawler_worker.domain.messages import Queue, Task
from pixcrawler_worker.tracing_sdk import trace_id

pytestmark = pytest.mark.timeout(300)

SECRET = "hunter2"
SENDER = "0af7651916cd43dd8448eb211c80319c"
#: A bug that the start of a job meets, with secrets in its text.
BUG = f"""
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE 'token={SECRET} and postgresql://ada:{SECRET}@db/x' USING ERRCODE = '42883', DETAIL = '{SECRET}';
    END $$;
    CREATE TRIGGER fail BEFORE INSERT ON pixcrawler.crawl_plans FOR EACH ROW WHEN (NEW.crawl_job_id = %d)
    EXECUTE FUNCTION fail()
"""


def test_a_job_has_one_trace_and_errors_are_reported_without_secrets(stack: Stack) -> None:
    links = [f"{stack.host}/good/{n}.jpg?X-Amz-Signature={SECRET}" for n in range(12)]
    links += [f"{stack.host}/fault/gone/1?token={SECRET}"]
    job_id, other, broken = (stack.make_job(max_images=100) for _ in range(3))
    with psycopg.connect(stack.database_url) as connection:
        connection.execute((BUG % broken).encode())
    with (
        collecting() as collector,
        Celery(broker=stack.broker_url, set_as_current=False) as api,
        stack.worker(
            PIXCRAWLER_OTLP_ENDPOINT=collector.url,
            PIXCRAWLER_SENTRY_DSN=collector.dsn,
            OTEL_BSP_SCHEDULE_DELAY="300",
            GIVEN_TOKEN=SECRET,
        ),
    ):
        options = {"urls": links, "chunk_size": 4}
        api.send_task(
            Task.CRAWL_START,
            args=(job_id, options),
            queue=Queue.CRAWL,
            headers={"traceparent": f"00-{SENDER}-b7ad6b7169203331-01", "tracestate": "a=b"},
        )
        api.send_task(Task.CRAWL_START, args=(other, {"urls": links[1:3]}), queue=Queue.CRAWL)
        api.send_task(Task.CRAWL_START, args=(broken, {"urls": links}), queue=Queue.CRAWL)
        stack.wait(job_id, seconds=120)
        stack.wait(other, seconds=120)
        wanted = {trace_id("crawl", one, {}).to_bytes(16) for one in (job_id, other, broken)}
        collector.wait(lambda one: {span.trace_id for span in one.spans} == wanted)
        collector.wait(lambda one: one.events)
    assert stack.job(job_id)["valid_images"] == 12
    # All of it has arrived when the worker has ended.
    assert {span.trace_id for span in collector.spans} == wanted
    spans = [span for span in collector.spans if span.trace_id == trace_id("crawl", job_id, {}).to_bytes(16)]
    named = [span.name for span in spans]
    assert named.count("crawl start") == 1
    assert named.count("crawl chunk") == 4
    assert attributes(next(span for span in spans if span.name == "crawl start"))["pixcrawler.job.id"] == job_id
    assert [link.trace_id.hex() for span in spans for link in span.links] == [SENDER]
    outcomes = [attributes(span) for span in spans if span.name == "crawl chunk"]
    assert sum(one.get("pixcrawler.images.stored", 0) for one in outcomes) == 12
    assert {one["pixcrawler.chunk.outcome"] for one in outcomes} == {"completed"}
    (ended,) = [span for span in spans if "pixcrawler.job.status" in attributes(span)]
    assert attributes(ended)["pixcrawler.job.status"] == "completed"
    assert {"SELECT", "UPDATE"} <= set(named)
    # Steps of the database, which are bounded, and no span for each of 13 downloads.
    assert not [name for name in named if name in {"GET", "HEAD"}]
    assert f"trace_id={trace_id('crawl', job_id, {}):032x}" in stack.log().replace("\x1b[0m", "")
    (event,) = collector.events
    (error,) = event["exception"]["values"][-1:]
    assert event["exception"]["values"][0]["type"] == "UndefinedFunction"
    assert any(frame["module"].startswith("pixcrawler_worker") for frame in error["stacktrace"]["frames"])
    assert event["tags"] == {"logger": "celery.app.trace", "task": "crawl.start"}
    failed = [span for span in collector.spans if span.status.code == 2 and span.name == "crawl start"]
    assert [attributes(span)["pixcrawler.job.id"] for span in failed] == [broken]
    for word in (SECRET, "vars", "links[0]", "GIVEN_TOKEN", "/good/0.jpg"):
        assert word not in collector.text, word

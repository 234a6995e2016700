"""Celery's remote control of a worker: jobs end whatever its commands do, or the command is rejected with a reason."""

import os
import signal
import time
from typing import Any

import psycopg
import pytest
from acceptance_stack import Stack, children, send, url_list
from celery import Celery
from psycopg.types.json import Jsonb

from pixcrawler_worker.domain.messages import Task

#: Planning a job with a certain name takes seconds.
SLOW_START = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(8) FROM crawl_jobs WHERE id = NEW.crawl_job_id AND name = 'slow';
        RETURN NEW;
    END $$;
    CREATE TRIGGER wait BEFORE INSERT ON pixcrawler.crawl_plans FOR EACH ROW EXECUTE FUNCTION wait()
"""


@pytest.fixture
def control(stack: Stack) -> "Control":
    return Control(stack)


class Control:
    """Sends commands to the only worker of a stack, as `celery control` and Flower do."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __call__(self, command: str, **arguments: object) -> str:
        """Send a command, and return the reply: its text, after `error: ` when it was rejected."""
        with Celery(broker=self._stack.broker_url, set_as_current=False) as app:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                replies = app.control.broadcast(command, arguments=arguments, reply=True, timeout=2, limit=1)
                if replies:
                    ((_, reply),) = replies[0].items()
                    return str(reply["ok"]) if "ok" in reply else f"error: {reply['error']}"
        raise AssertionError(f"no worker replied: {self._stack.log()}")


def start_job(stack: Stack, *, images: int = 8, host: str = "") -> int:
    listed, _ = url_list(host or stack.host, good=images, broken=0)
    job_id = stack.make_job(max_images=images)
    send(stack, Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": 2})
    return job_id


def task_ids(stack: Stack, job_id: int) -> list[str]:
    return list(stack.job(job_id)["task_ids"])


def completes(stack: Stack, job_id: int, *, images: int = 8) -> bool:
    stack.wait(job_id, seconds=60)
    return bool(stack.job(job_id)["valid_images"] == images)


def test_commands_that_would_leave_jobs_waiting_are_rejected_and_the_others_have_their_effect(
    stack: Stack, control: Control
) -> None:
    with stack.worker(concurrency=2):
        rejected: list[tuple[str, dict[str, object], str]] = [
            ("pool_shrink", {"n": 2}, "a worker needs a process: it has 2"),
            ("pool_grow", {"n": 0}, "expected a number of processes of at least 1, got 0"),
            ("pool_restart", {}, "send SIGHUP to the worker"),
            ("autoscale", {"max": 0, "min": 0}, "the worker was not started with --autoscale"),
            ("add_consumer", {"queue": "other"}, "there is no queue 'other': expected one of crawl"),
            ("cancel_consumer", {"queue": "other"}, "there is no queue 'other': expected one of crawl"),
            ("rate_limit", {"task_name": Task.CRAWL_CHUNK, "rate_limit": "1/h"}, "no rate limits"),
            ("time_limit", {"task_name": Task.CRAWL_CHUNK, "soft": 0.01, "hard": 0.02}, "time limits of tasks are"),
        ]
        for command, arguments, reason in rejected:
            reply = control(command, **arguments)
            assert reply.startswith("error: "), command
            assert reason in reply
        assert completes(stack, start_job(stack))
        assert control("pool_shrink", n=1) == "pool will shrink"
        assert "it has 1" in control("pool_shrink")
        assert completes(stack, start_job(stack))
        assert control("pool_grow") == "pool will grow"
        assert completes(stack, start_job(stack))
        # A queue that is not consumed keeps its jobs, and the log says so.
        assert control("cancel_consumer", queue="crawl") == "no longer consuming from crawl"
        waits = start_job(stack)
        time.sleep(2)
        assert stack.job(waits)["status"] == "pending"
        assert "a queue is consumed no longer: its jobs wait unless another worker consumes it" in stack.log()
        assert control("add_consumer", queue="crawl") == "add consumer crawl"
        assert completes(stack, waits)


def test_a_job_whose_chunks_were_all_revoked_or_terminated_ends_nevertheless(
    stack: Stack, control: Control, slow_host: str
) -> None:
    with stack.worker(concurrency=1, PIXCRAWLER_LEASE_SECONDS="2"):
        revoked = start_job(stack, images=16, host=slow_host)
        stack.wait(revoked, until=lambda row: bool(row["task_ids"]))
        control("revoke", task_id=task_ids(stack, revoked))
        stack.wait(revoked, until=lambda _: "message discarded: its task was revoked" in stack.log())
        assert completes(stack, revoked, images=16)

        terminated = start_job(stack, images=4, host=slow_host)
        stack.wait(terminated, until=lambda row: row["active_chunks"] > 0)
        control("revoke", task_id=task_ids(stack, terminated), terminate=True, signal="KILL")
        assert completes(stack, terminated, images=4)
        # Celery itself remembers the ids for hours.
        assert not stack.query("SELECT 1 FROM pixcrawler.chunks WHERE state <> 'completed'")
        assert "Traceback" not in stack.log()


def wait_for_sleep(stack: Stack) -> None:
    deadline = time.monotonic() + 60
    while not stack.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def end_sleeps(stack: Stack) -> None:
    """End the connections that sleep, and wait until they are gone: one is seen for a moment after its end."""
    while stack.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        time.sleep(0.05)


def test_a_pending_job_whose_start_was_revoked_expired_or_killed_ends_with_the_reason(
    stack: Stack, control: Control
) -> None:
    def send_start(job_id: int, **options: object) -> str:
        with Celery(broker=stack.broker_url, set_as_current=False) as app:
            arguments: dict[str, Any] = {"args": (job_id, {"urls": [f"{stack.host}/good/1.jpg"]}), **options}
            return str(app.send_task(Task.CRAWL_START.value, queue="crawl", **arguments).id)

    revoked, expired, killed, lost, deadly, again, requested, export = (stack.make_job(max_images=1) for _ in range(8))
    with psycopg.connect(stack.database_url) as connection:
        urls = Jsonb({"urls": [f"{stack.host}/good/2.jpg"]})
        connection.execute("SELECT pixcrawler.request_crawl(%s, %s)", (requested, urls))
        connection.execute(SLOW_START.encode(), prepare=False)
        (validation,) = connection.execute(
            "INSERT INTO validation_jobs (crawl_job_id, name) VALUES (%s, 'v') RETURNING id", (export,)
        ).fetchone() or (0,)
    with stack.worker(concurrency=1, PIXCRAWLER_LEASE_SECONDS="3") as worker:
        control("cancel_consumer", queue="crawl")
        control("cancel_consumer", queue="validation")
        ids = [send_start(job_id) for job_id in (revoked, again, requested)]
        with Celery(broker=stack.broker_url, set_as_current=False) as app:
            sent = app.send_task(Task.VALIDATION_START.value, kwargs={"job_id": validation}, queue="validation")
        control("revoke", task_id=[*ids, str(sent.id)])
        send_start(again)
        send_start(expired, expires=0.01)
        for queue in ("crawl", "validation"):
            control("add_consumer", queue=queue)
        for job_id in (revoked, expired, again, requested):
            stack.wait(job_id)
        with psycopg.connect(stack.database_url) as connection:
            connection.execute("UPDATE crawl_jobs SET name = 'slow' WHERE id = ANY(%s)", ([killed, lost, deadly],))
        task_id = send_start(killed)
        wait_for_sleep(stack)
        control("revoke", task_id=task_id, terminate=True, signal="KILL")
        stack.wait(killed)
        end_sleeps(stack)
        for job_id, times in ((lost, 1), (deadly, 3)):
            send_start(job_id)
            for _ in range(times):
                wait_for_sleep(stack)
                for child in children(worker.pid):
                    os.kill(child, signal.SIGKILL)
                end_sleeps(stack)
            stack.wait(job_id)
    assert [stack.job(job_id)["status"] for job_id in (revoked, expired, killed)] == ["cancelled"] * 3
    assert [stack.job(job_id)["status"] for job_id in (again, requested, lost)] == ["completed"] * 3
    reasons = stack.query(
        "SELECT resource_id::int, metadata_->>'reason' FROM activity_logs WHERE action = 'crawl_job.cancelled'"
    )
    assert dict(reasons) == {
        revoked: "the task of its start message was revoked",
        expired: "its start message had expired",
        killed: "the task of its start message was revoked",
    }
    (reason,) = stack.query(
        "SELECT metadata_->>'reason' FROM activity_logs WHERE resource_id = %s ORDER BY id", str(deadly)
    )[-1]
    assert (stack.job(deadly)["status"], "the process that started it was ended" in reason) == ("failed", True)
    assert stack.query("SELECT status, error_message FROM validation_jobs") == [("failed", "cancelled")]

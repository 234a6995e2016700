import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import preloaded
import psycopg
import pytest
import redis
import structlog
import supabase
from celery import Celery, signals
from factories import make_job, start_job
from kombu import Connection, Message
from kombu.exceptions import ContentDisallowed, OperationalError
from sqlalchemy import select
from structlog.testing import capture_logs

from pixcrawler_worker import runtime
from pixcrawler_worker.celery import app
from pixcrawler_worker.celery.broker_watch import BrokerWatch, Reconnection, broker_identity, broker_watch
from pixcrawler_worker.db import job_views
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.ledger import dispatch
from pixcrawler_worker.db.private_models import Broker
from pixcrawler_worker.db.session import Sessions, transact
from pixcrawler_worker.domain.messages import QUEUES, Task
from pixcrawler_worker.embedded.services import Services

#: What the ledger's promises rest on. A change here is a change of what may get lost or run twice.
DELIVERY = {
    "task_acks_late": True,
    "task_acks_on_failure": True,
    "task_acks_on_timeout": True,
    "task_reject_on_worker_lost": False,
    "worker_prefetch_multiplier": 1,
    "task_ignore_result": True,
    "result_backend": None,
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_soft_time_limit": 840,
    "task_time_limit": 900,
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    "broker_pool_acquire_timeout": 10,
    "broker_channel_error_retry": True,
    "worker_consumer": "pixcrawler_worker.broker.consumer:Consumer",
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_soft_shutdown_timeout": 25,
    "worker_enable_soft_shutdown_on_idle": True,
    "worker_send_task_events": True,
    "task_send_sent_event": True,
}
TRANSPORT = {
    "visibility_timeout": 3600,
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "retry_on_timeout": False,
}
#: Tasks and their queues, as others send them.
MESSAGES = {
    "pixcrawler.crawl.start": "crawl",
    "pixcrawler.crawl.chunk": "crawl",
    "pixcrawler.crawl.cancel": "maintenance",
    "pixcrawler.crawl.retry": "crawl",
    "pixcrawler.validation.start": "validation",
    "pixcrawler.validation.chunk": "validation",
    "pixcrawler.validation.cancel": "maintenance",
    "pixcrawler.validation.retry": "validation",
    "pixcrawler.export.start": "export",
    "pixcrawler.export.part": "export",
    "pixcrawler.export.cancel": "maintenance",
    "pixcrawler.export.retry": "export",
    "pixcrawler.maintenance.sweep": "maintenance",
}
app.loader.import_default_modules()
START, CHUNK, CANCEL, RETRY = (app.tasks[f"pixcrawler.crawl.{name}"] for name in ("start", "chunk", "cancel", "retry"))
UNKNOWN = 2_000_000_000


@pytest.fixture
def broker_url(services: Services) -> Iterator[str]:
    """An empty Redis database of this test's own."""
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=7")) as server:
        server.flushdb()
        yield services.broker_url.replace("virtual_host=0", "virtual_host=7")
        server.flushdb()


@pytest.fixture
def service(
    database_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[pytest.MonkeyPatch]:
    """This process as a worker's child: settings in its environment, and its runtime closed at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXCRAWLER_DATABASE_URL", database_url)
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", broker_url)
    monkeypatch.setenv("PIXCRAWLER_STORAGE_URL", "memory://")
    yield monkeypatch
    runtime.close_current()


def celery(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the `celery` command with these settings alone."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return preloaded.run(["celery", "-A", "pixcrawler_worker", *arguments], env=kept | environment, cwd=Path.cwd())


def test_messages_are_delivered_as_the_ledger_needs_it() -> None:
    assert {name: app.conf[name] for name in DELIVERY} == DELIVERY
    assert app.conf.broker_transport_options == TRANSPORT
    assert app.conf.worker_max_tasks_per_child > 0
    assert app.conf.worker_max_memory_per_child > 0
    assert app.conf.task_time_limit < TRANSPORT["visibility_timeout"], "or a message comes back while its task runs"


def test_a_worker_reads_the_documented_queues_by_their_names_alone() -> None:
    assert [queue.name for queue in app.conf.task_queues] == ["crawl", "validation", "export", "maintenance"]
    for queue in app.conf.task_queues:
        assert (queue.exchange.name, queue.routing_key) == ("", queue.name)
        assert queue.name in app.amqp.queues.consume_from


def test_tasks_have_their_documented_names_and_queues() -> None:
    app.loader.import_default_modules()
    assert {name for name in app.tasks if name.startswith("pixcrawler.")} == set(MESSAGES)
    assert {task.value: QUEUES[task].value for task in Task} == MESSAGES
    for name, queue in MESSAGES.items():
        route = app.amqp.router.route({}, name)
        assert route["queue"].name == queue
        assert route["routing_key"] == queue


def test_every_task_is_acknowledged_when_it_has_ended_and_keeps_no_result() -> None:
    for name in MESSAGES:
        task = app.tasks[name]
        assert task.acks_late
        assert task.ignore_result
        assert not task.reject_on_worker_lost
        assert (task.soft_time_limit, task.time_limit) == (840, 900)


@pytest.mark.parametrize("kind", ["x-python-serialize", "x-yaml", "x-msgpack"])
def test_a_message_that_is_not_json_is_refused_unread(kind: str, broker_url: str) -> None:
    with Connection(broker_url) as connection, connection.channel() as channel:
        app.amqp.Producer(channel).publish(
            b"cos\nsystem\n(S'true'\ntR.",
            routing_key="crawl",
            content_type=f"application/{kind}",
            content_encoding="binary",
        )
        taken: list[Any] = []
        with (
            app.amqp.TaskConsumer(channel, callbacks=[lambda body, _: taken.append(body)]),
            pytest.raises(ContentDisallowed),
        ):
            connection.drain_events(timeout=5)
        assert not taken


def test_a_message_of_any_celery_is_read_from_the_same_queue(broker_url: str) -> None:
    taken: list[tuple[str, Any]] = []

    def take(body: Any, message: Message) -> None:
        taken.append((message.headers["task"], body[0]))
        message.ack()

    with Celery(broker=broker_url) as api:
        api.send_task("pixcrawler.crawl.start", args=[42], queue="crawl")
        api.send_task("pixcrawler.crawl.cancel", args=[42], queue="maintenance")
    with (
        Connection(broker_url) as connection,
        connection.channel() as channel,
        app.amqp.TaskConsumer(channel, callbacks=[take]),
    ):
        connection.drain_events(timeout=5)
        connection.drain_events(timeout=5)
    assert sorted(taken) == [("pixcrawler.crawl.cancel", [42]), ("pixcrawler.crawl.start", [42])]


@pytest.mark.parametrize("task", [START, CANCEL, RETRY], ids=lambda task: task.name)
def test_an_unknown_job_is_logged_and_dropped(task: Any, service: pytest.MonkeyPatch) -> None:
    with capture_logs() as logged:
        assert task(UNKNOWN) is None
    assert logged == [
        {"event": "message dropped", "reason": f"there is no crawl job {UNKNOWN}", "log_level": "warning"}
    ]


@pytest.mark.parametrize("nonsense", ["7", True, None, 1.5, 0, -1, 2**63, [7], {}], ids=repr)
@pytest.mark.parametrize(
    "task",
    [START, CHUNK, CANCEL, RETRY],
    ids=lambda task: task.name,
)
def test_what_can_be_no_id_is_logged_and_dropped(task: Any, nonsense: object, service: pytest.MonkeyPatch) -> None:
    with capture_logs() as logged:
        assert task(nonsense) is None
    assert [entry["event"] for entry in logged] == ["message dropped"]


def test_an_unknown_chunk_is_dropped(service: pytest.MonkeyPatch) -> None:
    with capture_logs() as logged:
        CHUNK(UNKNOWN)
    assert not [entry for entry in logged if entry["log_level"] in {"error", "critical"}]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"source": ["urls"]}, "did you mean 'sources'?"),
        ({"sources": ["comons"]}, "there is no source 'comons'; did you mean 'commons'?"),
        ({"sources": ["gallery"]}, "source 'gallery' cannot be used: set PIXCRAWLER_GALLERY_URL"),
        ({"sources": ["urls"]}, "source 'urls' needs a list"),
        ({"licenses": ["\x00", "\ud800"]}, "there is no license '\\x00'"),
        ({"licenses": ["cc-bye"]}, "there is no license 'cc-bye'; did you mean 'cc-by'?"),
        ("urls", 'options: expected an object, got "urls"'),
    ],
)
def test_a_message_that_cannot_be_done_fails_its_job_with_a_reason(
    options: Any, reason: str, service: pytest.MonkeyPatch, sessions: Sessions
) -> None:
    job_id = make_job(sessions)
    with capture_logs() as logged:
        START(job_id, options)
    assert transact(sessions, lambda session: job_views.job(session, CrawlView, job_id)).status == "failed"  # type: ignore[union-attr]  # it was just made
    assert [entry["event"] for entry in logged] == ["job ended"]
    assert reason in logged[0]["reason"]


def test_a_list_with_what_the_database_cannot_hold_starts_all_the_same(
    service: pytest.MonkeyPatch, sessions: Sessions
) -> None:
    job_id = make_job(sessions)
    START(job_id, {"urls": ["https://a.example/\x001.jpg", "https://a.example/\ud8002.jpg"]})
    assert transact(sessions, lambda session: job_views.job(session, CrawlView, job_id)).status == "running"  # type: ignore[union-attr]  # it was just made


def test_the_same_message_twice_plans_once(service: pytest.MonkeyPatch, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    for _ in range(2):
        START(job_id, {"urls": ["https://a.example/1.jpg"], "chunk_size": 10})
    job = transact(sessions, lambda session: job_views.job(session, CrawlView, job_id))
    assert job is not None
    assert (job.status, job.total_chunks) == ("running", 1)
    for _ in range(2):
        CANCEL(job_id)
    job = transact(sessions, lambda session: job_views.job(session, CrawlView, job_id))
    assert job is not None
    assert job.status == "cancelled"


def test_a_task_names_itself_in_what_it_logs() -> None:
    signals.task_prerun.send(sender=None, task_id="42-1", task=app.tasks["pixcrawler.crawl.chunk"])
    assert structlog.contextvars.get_contextvars() == {"task": "crawl.chunk", "task_id": "42-1"}
    signals.task_postrun.send(sender=None)
    assert structlog.contextvars.get_contextvars() == {}


def test_celery_finds_the_app_without_any_settings() -> None:
    done = celery("report")
    assert done.returncode == 0, done.stderr
    assert "pixcrawler_worker.tasks" in done.stdout


def test_a_wrong_setting_stops_every_command_with_one_line() -> None:
    done = celery("report", PIXCRAWLER_LEASE_SECONDS="soon")
    assert done.returncode != 0
    assert done.stderr.startswith("pixcrawler: PIXCRAWLER_LEASE_SECONDS is invalid: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_without_a_broker_does_not_start(service: pytest.MonkeyPatch) -> None:
    service.delenv("PIXCRAWLER_BROKER_URL")
    with pytest.raises(SystemExit, match=r"^pixcrawler: no broker is configured: set PIXCRAWLER_BROKER_URL"):
        signals.celeryd_init.send(sender="worker")


def test_a_worker_for_a_database_without_tables_does_not_start(
    service: pytest.MonkeyPatch, empty_database_url: str
) -> None:
    service.setenv("PIXCRAWLER_DATABASE_URL", empty_database_url)
    with pytest.raises(SystemExit, match=r"^pixcrawler: .*run `pixcrawler db upgrade`$"):
        signals.celeryd_init.send(sender="worker")


def test_a_worker_without_rights_does_not_start(service: pytest.MonkeyPatch, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE without_rights LOGIN")
        try:
            service.setenv("PIXCRAWLER_DATABASE_URL", supabase.as_role(database_url, "without_rights"))
            with pytest.raises(
                SystemExit, match=r"^pixcrawler: .*; GRANT SELECT, INSERT ON public.activity_logs TO without"
            ):
                signals.celeryd_init.send(sender="worker@test")
        finally:
            connection.execute("DROP ROLE without_rights")


def test_a_worker_waits_for_a_database_that_is_away(service: pytest.MonkeyPatch) -> None:
    service.setenv("PIXCRAWLER_DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/pixcrawler")
    with capture_logs() as logged:
        signals.celeryd_init.send(sender="worker")
    assert [entry["event"] for entry in logged] == ["started without a database; waiting for it"]
    assert "hunter2" not in str(logged)


def test_a_worker_warns_of_names_that_mean_nothing_and_of_private_networks(service: pytest.MonkeyPatch) -> None:
    service.setenv("PIXCRAWLER_LEASE_SECOND", "5")
    service.setenv("PIXCRAWLER_ALLOWED_NETWORKS", "10.0.0.0/8")
    with capture_logs() as logged:
        signals.celeryd_init.send(sender="worker")
    assert {entry["log_level"] for entry in logged} == {"warning"}
    assert {"PIXCRAWLER_LEASE_SECOND": "PIXCRAWLER_LEASE_SECONDS"} in [entry.get("did_you_mean") for entry in logged]
    assert ["10.0.0.0/8"] in [entry.get("networks") for entry in logged]


# What a broker loses


def test_the_identity_of_the_broker_changes_when_its_data_is_lost(broker_url: str, services: Services) -> None:
    with Connection(broker_url) as connection, Connection(broker_url) as other:
        first = broker_identity(connection)
        assert first is not None
        assert first == broker_identity(connection) == broker_identity(other)
        with redis.Redis.from_url(services.redis_url.replace("db=0", "db=7")) as server:
            server.flushdb()
        assert len({first, broker_identity(connection), broker_identity(other)}) == 2


def test_another_kind_of_broker_has_no_identity() -> None:
    with Connection("memory://") as connection:
        assert broker_identity(connection) is None


def test_a_broker_that_is_away_or_takes_no_writes_has_no_identity(broker_url: str, services: Services) -> None:
    with Connection("redis://127.0.0.1:1/0") as connection, pytest.raises(OperationalError):
        broker_identity(connection)
    with redis.Redis.from_url(services.redis_url) as server, Connection(broker_url) as connection:
        server.config_set("min-replicas-to-write", 1)
        try:
            with pytest.raises(OperationalError, match="NOREPLICAS"):
                broker_identity(connection)
        finally:
            server.config_set("min-replicas-to-write", 0)


def lost_at(sessions: Sessions) -> object:
    with sessions.begin() as session:
        return session.scalar(select(Broker.lost_at))


def test_a_flushed_broker_and_a_connection_that_came_back_are_noted_in_the_database(
    service: pytest.MonkeyPatch, broker_url: str, services: Services, sessions: Sessions
) -> None:
    service.setenv("PIXCRAWLER_LEASE_SECONDS", "1")
    watch = BrokerWatch()
    with Connection(broker_url) as connection, redis.Redis.from_url(services.redis_url.replace("db=0", "db=7")) as raw:
        watch.look(connection)
        raw.flushdb()
        watch.look(connection)
        flushed = lost_at(sessions)
        assert flushed is not None
        watch.look(connection)
        assert lost_at(sessions) == flushed
        watch.reconnected()
        watch.look(connection)
        assert lost_at(sessions) == flushed, "a second loss within a lease waits"
        time.sleep(1.1)
        watch.look(connection)
        reconnected = lost_at(sessions)
        assert reconnected != flushed
        watch.look(connection)
        assert lost_at(sessions) == reconnected


def test_a_consumer_that_connects_again_is_noted_and_not_its_first_connection() -> None:
    assert Reconnection in app.steps["consumer"]
    step, suspected = Reconnection(None), vars(broker_watch)["_suspected"]
    step.start(None)
    assert vars(broker_watch)["_suspected"] == suspected
    step.start(None)
    assert vars(broker_watch)["_suspected"] != suspected
    vars(broker_watch)["_suspected"] = suspected


def test_what_a_dead_broker_does_not_take_is_sent_by_the_next_sweep(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    ref = start_job(sessions, chunks=2)
    with sessions.begin() as session:
        messages = dispatch.next_due(session, ref, limit=2)
    given = [(str(one.task), str(one.queue), one.chunk_id, one.task_id) for one in messages]
    program = f"""
from pixcrawler_worker.celery.sending import send_messages
from pixcrawler_worker.db.ledger.tables import ChunkMessage
send_messages(ChunkMessage(*message) for message in {given!r})
"""
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=os.environ | {"PIXCRAWLER_DATABASE_URL": database_url, "PIXCRAWLER_BROKER_URL": "redis://127.0.0.1:1/0"},
        cwd=tmp_path,
        timeout=60,
    )
    with sessions.begin() as session:
        assert dispatch.next_due(session, ref, limit=2) == messages

"""Secrets are planted in every setting and in the links of jobs, and looked for wherever others read."""

import json
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import malformed
import preloaded
import pytest
import redis
from acceptance_stack import Stack
from calls import call
from celery import Celery

from pixcrawler_worker import settings, settings_report
from pixcrawler_worker.domain.messages import Queue, Task
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.settings import Settings

pytestmark = pytest.mark.timeout(300)

SECRET = "hunter2"
#: Values with a secret, as people write them: well formed, and broken in each part.
PLANTED = (
    f"redis://:{SECRET}@127.0.0.1:1/0",
    f"redis://:x/{SECRET}@127.0.0.1:1/0",
    f"redis://:x#{SECRET}?y@127.0.0.1:1/0",
    f"redis://:{SECRET}@[::1",
    f"redis://:{SECRET}",
    f"sentinel://:{SECRET}@127.0.0.1:1",
    f"postgresql://ada:x@{SECRET}@127.0.0.1:1/db",
    f"postgresql://ada:{SECRET}@127.0.0.1:1/db?options=-c%20a%3D{SECRET}&{SECRET}=1&sslpassword={SECRET}",
    f"postgresql://ada:a {SECRET}@127.0.0.1:1/db",
    f"postgresql://ada:{SECRET}@127.0.0.1:port/db",
    f"postgres:/ada:{SECRET}@127.0.0.1/db",
    f"host=127.0.0.1 password='{SECRET}\\' x' dbname=y",
    f"s3://key:{SECRET}@bucket/prefix?sig={SECRET}#secret={SECRET}",
    f"https://user:{SECRET}@127.0.0.1:1/%zz?token={SECRET}&X-Amz-Signature={SECRET}#{SECRET}",
    f"http://user:{SECRET}@[x",
    f'{{"password": "{SECRET}", "token": ["{SECRET}"]}}',
    f"Authorization: Bearer {SECRET}",
)
#: Settings whose whole value may be a secret; of the others a password is one only where it looks like one.
SECRETS = sorted(name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation))


def load(name: str, value: str) -> str:
    """Return all that is said of the settings with this one."""
    try:
        loaded = settings.load(**{name: value})
    except PermanentError as error:
        return str(error)
    said = [str(one) for one in settings_report.report(loaded)] + [repr(loaded)]
    for require in (loaded.require_broker, loaded.require_database):
        try:
            require()
        except PermanentError as error:
            said.append(str(error))
    return "\n".join(said)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_no_report_or_error_of_a_setting_repeats_a_secret(name: str) -> None:
    for value in PLANTED:
        # The object itself, which no program shows, holds them.
        assert SECRET not in load(name, value).partition("Settings(")[0], value
    if name in SECRETS:
        assert SECRET not in load(name, SECRET)


def test_there_are_settings_with_secrets() -> None:
    assert set(SECRETS) >= {"broker_url", "database_url", "egress_proxy", "storage_url"}


@pytest.mark.parametrize("value", [*PLANTED, SECRET])
def test_no_command_repeats_a_secret_of_the_settings(value: str, database_url: str, tmp_path: Path) -> None:
    env = {
        "PIXCRAWLER_DATABASE_URL": database_url,
        "PIXCRAWLER_DATA_DIR": str(tmp_path),
        "PIXCRAWLER_BROKER_URL": value,
        "PIXCRAWLER_STORAGE_URL": value,
        "PIXCRAWLER_EGRESS_PROXY": value,
        "PIXCRAWLER_USER_AGENT_CONTACT": value if value != SECRET else "",
    }
    for words in (["settings"], ["settings", "--json"], ["quarantine"], ["sources"], ["crawl", "cat"], ["doctor"]):
        assert SECRET not in said(env, *words), words
    if not value.startswith(("postgresql://ada:hunter2@127.0.0.1:1/", "postgresql://ada:a ")):  # these are connected to
        for words in (["jobs", "list"], ["db", "upgrade"], ["doctor"]):
            assert SECRET not in said(env | {"PIXCRAWLER_DATABASE_URL": value}, *words), words


def said(env: Mapping[str, str], *words: str) -> str:
    try:
        return call(env, *words).output
    except PermanentError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - of the database, for example: `main` prints it as one line
        return str(error)


@pytest.mark.parametrize(
    ("command", "value"),
    [(["worker"], PLANTED[1]), (["worker"], PLANTED[3]), (["report"], PLANTED[2]), (["inspect", "ping"], PLANTED[5])],
    ids=str,
)
def test_celery_itself_ends_with_one_line(value: str, command: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "PIXCRAWLER_BROKER_URL": value}
    done = preloaded.run(["celery", "-A", "pixcrawler_worker", *command], env=env, cwd=tmp_path)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "pixcrawler: PIXCRAWLER_BROKER_URL: invalid broker URL, expected for example" in done.stderr


@pytest.fixture
def tenant(stack: Stack) -> Iterator[Stack]:
    """The stack with a password for its broker and one in the URL of its database."""
    with redis.Redis.from_url(stack.redis_url) as server:
        server.acl_setuser(
            "tenant", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], channels=["*"], commands=["+@all"]
        )
        stack.broker_url = stack.broker_url.replace("redis+socket://", f"redis+socket://tenant:{SECRET}@")
        stack.database_url += f"&password={SECRET}"
        yield stack
        server.acl_deluser("tenant")


def test_no_secret_of_settings_and_links_gets_out_of_a_worker_and_its_jobs(tenant: Stack) -> None:
    stack = tenant
    heard: list[dict[str, Any]] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    links = [f"{stack.host}/good/{n}.jpg?X-Amz-Signature={SECRET}" for n in range(3)]
    links += [f"{stack.host}/fault/{kind}/1?token={SECRET}" for kind in ("gone", "html", "reset", "500")]
    links += [f"https://user:{SECRET}@a.example/1.jpg", f"redis://:{SECRET}/@[", f"http://a.example:x/?sig={SECRET}"]
    job_id = stack.make_job(max_images=3)
    with (
        stack.worker(concurrency=1, PIXCRAWLER_METRICS_PORT=str(port)),
        Celery(broker=stack.broker_url, set_as_current=False) as api,
        listening(api, heard),
    ):
        # Another program, whose events and headers show all arguments. It masks nothing, and receives what it is sent.
        send = api.send_task
        send(Task.CRAWL_START, args=(job_id, {"urls": links}), queue=Queue.CRAWL)
        stack.wait(job_id)
        bad = {"urls": links, "api_key": SECRET}
        send(Task.CRAWL_START, args=(stack.make_job(), bad), queue=Queue.CRAWL)
        send(Task.CRAWL_START, kwargs={"crawl_job_id": stack.make_job(), "options": bad}, queue=Queue.CRAWL)
        send("no.such.task", args=(SECRET,), kwargs={"password": SECRET}, queue=Queue.CRAWL)
        send(Task.EXPORT_PART, args=(SECRET,), kwargs={SECRET: SECRET}, queue=Queue.EXPORT)
        with redis.Redis.from_url(stack.redis_url) as server:
            broken = malformed.envelope(Task.CRAWL_START, job_id, {"urls": links}, queue=Queue.CRAWL, eta=links[0])
            server.lpush(Queue.CRAWL, json.dumps(broken))
            last = stack.make_job(max_images=1)
            send(Task.CRAWL_START, args=(last, {"urls": links[:1]}), queue=Queue.CRAWL)
            stack.wait(last)
            inspect = api.control.inspect(timeout=2)
            answers = [inspect.active(), inspect.reserved(), inspect.stats(), inspect.conf(), inspect.report()]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                metrics = response.read().decode()
            dump = "\n".join(content(server, key) for key in server.scan_iter())
        commands = [
            ["settings"],
            ["doctor"],
            ["quarantine"],
            ["jobs", "list"],
            ["jobs", "show", str(job_id)],
        ]
        printed = "".join(stack.run("pixcrawler", *words).stdout for words in commands)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not any(event["type"] == "task-succeeded" for event in heard):
            time.sleep(0.1)
    places = {
        "log": stack.log(),
        "answers": str(answers),
        "metrics": metrics,
        "redis": dump,
        "commands": printed,
        "events": "\n".join(map(str, heard)),
        "database": "\n".join(rows(stack)),
    }
    assert {event["type"] for event in heard} >= {"task-received", "task-started", "task-succeeded"}
    assert f"({job_id}, ...)" in places["events"]
    assert "no.such.task" in places["log"]
    assert all(places.values())
    found = {place: around(text) for place, text in places.items() if SECRET in text}
    assert not found


#: Where links belong: what the owner of a job gave is kept, to fetch it again and to say where an image is from.
OWNED = {
    ("public", "images", "original_url"),
    ("pixcrawler", "crawl_candidates", "url"),
    ("pixcrawler", "crawl_urls", "urls"),
    ("pixcrawler", "crawl_urls", "details"),
}


def rows(stack: Stack) -> Iterator[str]:
    """Return all texts of the database, but for the links themselves."""
    columns = stack.query(
        "SELECT table_schema, table_name, column_name FROM information_schema.columns"
        " WHERE table_schema IN ('public', 'pixcrawler')"
        " AND data_type IN ('text', 'character varying', 'json', 'jsonb', 'ARRAY')"
    )
    for schema, table, column in columns:
        if (schema, table, column) not in OWNED:
            for (value,) in stack.query(
                f'SELECT "{column}"::text FROM {schema}."{table}" WHERE "{column}" IS NOT NULL'
            ):
                yield f"{schema}.{table}.{column}: {value}"


def around(text: str) -> list[str]:
    return [line[max(0, line.find(SECRET) - 200) :][:400] for line in text.splitlines() if SECRET in line][:5]


def content(server: redis.Redis, key: bytes) -> str:
    reads: Any = {
        b"string": lambda: server.get(key),
        b"list": lambda: server.lrange(key, 0, -1),
        b"set": lambda: server.smembers(key),
        b"hash": lambda: server.hgetall(key),
        b"zset": lambda: server.zrange(key, 0, -1),
    }
    kind: Any = server.type(key)
    return f"{key!r}: {reads.get(kind, lambda: None)()}"


class listening:  # noqa: N801 - reads as the functions that are contexts
    """Collects the events of workers and of programs that send messages, as Flower does, in a thread."""

    def __init__(self, api: Celery, heard: list[dict[str, Any]]) -> None:
        self._api, self._heard = api, heard
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> None:
        self._thread.start()
        # What was sent before it is connected is never heard.
        with self._api.events.default_dispatcher() as dispatcher:
            deadline = time.monotonic() + 30
            while not self._heard:
                assert time.monotonic() < deadline, "no event is heard"
                dispatcher.send("listening-began")
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _listen(self) -> None:
        with self._api.connection() as connection:
            receiver = self._api.events.Receiver(connection, handlers={"*": self._heard.append})
            while not self._ended.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except TimeoutError:
                    continue

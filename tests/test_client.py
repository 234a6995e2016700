import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from pixcrawler_worker import client
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError

#: What must not be imported into an API that sends a few messages.
HEAVY = ("sqlalchemy", "psycopg", "alembic", "PIL", "numpy", "aiohttp", "httpx", "obstore", "pydantic", "structlog")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in client.BROKER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lists(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """The broker's own database for this test, empty."""
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", services.broker_url.replace("virtual_host=0", "virtual_host=8"))
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=8"), decode_responses=True) as server:
        server.flushdb()
        yield server
        server.flushdb()


def messages(server: redis.Redis, queue: str) -> list[tuple[str, str, list[Any], dict[str, Any]]]:
    """Task, id and arguments of what waits in a queue, in the order in which it was sent."""
    found = []
    for raw in reversed(server.lrange(queue, 0, -1)):
        message = json.loads(raw)
        assert message["content-type"] == "application/json"
        args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        found.append((message["headers"]["task"], message["headers"]["id"], args, kwargs))
    return found


def test_starting_lands_in_the_queue_for_crawls(lists: redis.Redis) -> None:
    first = client.start_crawl(42)
    second = client.start_crawl(43, {"sources": ["urls"], "urls": ["https://a.example/ü.jpg"]})
    assert messages(lists, "crawl") == [
        ("pixcrawler.crawl.start", first, [42, {}], {}),
        ("pixcrawler.crawl.start", second, [43, {"sources": ["urls"], "urls": ["https://a.example/ü.jpg"]}], {}),
    ]
    assert lists.exists("maintenance") == 0


def test_retrying_lands_in_the_queue_for_crawls(lists: redis.Redis) -> None:
    assert messages(lists, "crawl") == []
    sent = client.retry_crawl(42)
    assert messages(lists, "crawl") == [("pixcrawler.crawl.retry", sent, [42], {})]


def test_cancelling_does_not_wait_behind_crawls(lists: redis.Redis) -> None:
    client.start_crawl(42)
    sent = client.cancel_crawl(42)
    assert messages(lists, "maintenance") == [("pixcrawler.crawl.cancel", sent, [42], {})]
    assert len(messages(lists, "crawl")) == 1


def test_nothing_but_the_messages_is_left_in_the_broker(lists: redis.Redis) -> None:
    client.start_crawl(42)
    client.cancel_crawl(42)
    assert {str(name) for name in lists.scan_iter() if not str(name).startswith("_kombu.")} == {"crawl", "maintenance"}


def test_the_broker_is_found_by_any_of_its_names(lists: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    right = os.environ["PIXCRAWLER_BROKER_URL"]
    for number, name in enumerate(client.BROKER_VARIABLES):
        for other in client.BROKER_VARIABLES:
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, right)
        client.start_crawl(number)
    assert [args[0] for _, _, args, _ in messages(lists, "crawl")] == [0, 1, 2]
    # As in a Compose file with `${PIXCRAWLER_BROKER_URL:-}`.
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", "")
    client.start_crawl(3)
    assert len(messages(lists, "crawl")) == 4


@pytest.mark.parametrize("kind", ["validation", "export"])
def test_validations_and_exports_are_started_cancelled_and_retried(lists: redis.Redis, kind: str) -> None:
    sent = [getattr(client, f"{verb}_{kind}")(7) for verb in ("start", "retry", "cancel")]
    assert messages(lists, kind) == [
        (f"pixcrawler.{kind}.start", sent[0], [7], {}),
        (f"pixcrawler.{kind}.retry", sent[1], [7], {}),
    ]
    assert messages(lists, "maintenance") == [(f"pixcrawler.{kind}.cancel", sent[2], [7], {})]


@pytest.mark.parametrize(
    "send",
    [
        client.start_crawl,
        client.cancel_crawl,
        client.retry_crawl,
        client.cancel_validation,
        client.retry_validation,
        client.cancel_export,
        client.retry_export,
    ],
)
def test_without_a_broker_the_error_names_the_setting(send: Callable[[int], str]) -> None:
    with pytest.raises(PermanentError, match="no broker is configured: set PIXCRAWLER_BROKER_URL"):
        send(42)


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A server that takes connections and never responds, like a broker that is stopped."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["denies", "does not respond", "has no socket"])
def test_a_dead_broker_is_an_error_within_seconds(
    kind: str, hanging_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = {
        "denies": "redis://:hunter2@127.0.0.1:1/0",
        "does not respond": f"redis://:hunter2@127.0.0.1:{hanging_port}/0",
        "has no socket": "redis+socket:///nowhere/redis",
    }[kind]
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", url)
    begun = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        client.start_crawl(42)
    assert time.monotonic() - begun < 6, "five seconds, and one for a busy machine"
    assert "hunter2" not in str(caught.value)


def test_invalid_options_are_rejected_before_anything_is_sent(lists: redis.Redis) -> None:
    with pytest.raises(PermanentError, match=r"^options\.min_widht: unknown option, did you mean 'min_width'\?$"):
        client.start_crawl(42, {"min_widht": 256})
    with pytest.raises(PermanentError, match=r"^options\.min_width: expected an integer of at least 1, got \"wide\"$"):
        client.start_crawl(42, {"min_width": "wide"})
    assert messages(lists, "crawl") == []


def test_checking_options_imports_no_database_driver() -> None:
    program = """
import sys
from pixcrawler_worker import client
try:
    client.start_crawl(42, {"min_widht": 256})
except Exception as error:
    print(type(error).__name__, *sys.modules, sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    error, *modules = done.stdout.splitlines()
    assert error == "PermanentError"
    assert {name.partition(".")[0] for name in modules}.isdisjoint(set(HEAVY) - {"pydantic"})


def test_importing_it_brings_celery_and_nothing_heavier() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pixcrawler_worker.client; print(*sys.modules, sep='\\n')"],
        check=True,
        capture_output=True,
        text=True,
    )
    imported = {name.partition(".")[0] for name in done.stdout.splitlines()}
    assert "celery" in imported
    assert imported.isdisjoint(HEAVY)
    ours = {name for name in done.stdout.splitlines() if name.startswith("pixcrawler_worker.")}
    assert ours == {
        "pixcrawler_worker.client",
        "pixcrawler_worker.domain",
        "pixcrawler_worker.domain.messages",
        "pixcrawler_worker.errors",
    }

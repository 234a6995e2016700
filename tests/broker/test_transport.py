import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import malformed
import pytest
import redis
from kombu import Consumer, Message, Producer, Queue
from kombu.exceptions import OperationalError
from structlog.testing import capture_logs

from pixcrawler_worker.broker import quarantine, transport
from pixcrawler_worker.broker.transport import CheckedConnection

Handler = Callable[[Message], None]


def good(**headers: object) -> bytes:
    return json.dumps(malformed.envelope("pixcrawler.crawl.chunk", 5, queue="crawl", **headers)).encode()


class Listener:
    """A consumer of the queue `crawl`; `handle` is what it does with each message."""

    def __init__(self, connection: CheckedConnection, channel: Any) -> None:
        self.connection = connection
        self.channel = channel
        self.taken: list[Message] = []
        self.handle: Handler = Message.ack

    def on_message(self, message: Message) -> None:
        self.taken.append(message)
        self.handle(message)

    def listen(self, *, until: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline
            with contextlib.suppress(TimeoutError):
                self.connection.drain_events(timeout=0.2)


@contextlib.contextmanager
def listening(broker_url: str, **options: object) -> Iterator[Listener]:
    with CheckedConnection(broker_url, transport_options=options) as connection, connection.channel() as channel:
        listener = Listener(connection, channel)
        queue = Queue("crawl", exchange="", routing_key="crawl")
        with Consumer(channel, [queue], on_message=listener.on_message, auto_declare=False):
            yield listener


@contextlib.contextmanager
def full(server: redis.Redis) -> Iterator[None]:
    """Redis at its maxmemory."""
    server.config_set("maxmemory", "1")
    try:
        yield
    finally:
        server.config_set("maxmemory", "0")


def in_quarantine(redis_url: str) -> list[str]:
    return [entry.detail for entry in quarantine.read(redis_url, limit=100)[1]]


def nothing_taken(server: redis.Redis) -> bool:
    return not server.exists("unacked", "unacked_index")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:1/0", transport.Transport),
        ("rediss://127.0.0.1:1/0", transport.Transport),
        ("redis+socket:///tmp/none", transport.Transport),
        ("memory://", None),
    ],
)
def test_every_kind_of_redis_is_checked(url: str, expected: type | None) -> None:
    found = CheckedConnection(url).get_transport_cls()
    assert (found is expected) if expected else not issubclass(found, transport.Transport)
    if expected:
        assert issubclass(found.Channel, transport.Channel)


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": ""}], ids=str)
def test_an_unreadable_message_is_set_aside_and_the_next_one_delivered(
    broker_url: str, redis_url: str, server: redis.Redis, options: dict[str, object]
) -> None:
    server.lpush("crawl", b"junk", good())
    with listening(broker_url, **options) as listener:
        listener.listen(until=lambda: bool(listener.taken))
    assert in_quarantine(redis_url) == ["it cannot be parsed (JSONDecodeError)"]
    assert nothing_taken(server)


def test_messages_are_checked_with_a_prefix_of_keys_too(broker_url: str, server: redis.Redis) -> None:
    server.lpush("tenant:crawl", b"junk", good())
    with listening(broker_url, global_keyprefix="tenant:") as listener:
        listener.listen(until=lambda: bool(listener.taken))
    assert server.llen(f"tenant:{quarantine.KEY}") == 1


@pytest.mark.parametrize(
    "error",
    [ValueError("a"), KeyError("a"), RecursionError(), AssertionError(), MemoryError(), redis.DataError("a")],
    ids=repr,
)
def test_a_message_whose_handling_raises_is_set_aside(
    broker_url: str, redis_url: str, server: redis.Redis, error: Exception
) -> None:
    def fail(message: Message) -> None:
        del message
        raise error

    server.lpush("crawl", good())
    with listening(broker_url) as listener:
        listener.channel.basic_qos(0, 1, apply_global=True)
        listener.handle = fail
        with capture_logs() as logged:
            listener.listen(until=lambda: bool(listener.taken))
        assert nothing_taken(server)
        assert [entry["exc_info"] for entry in logged if "exc_info" in entry] == [error]
        listener.handle = Message.ack
        server.lpush("crawl", good())
        listener.listen(until=lambda: len(listener.taken) == 2)
    assert in_quarantine(redis_url) == [f"{type(error).__name__} when it was handled"]


@pytest.mark.parametrize(
    "error", [redis.ConnectionError(), redis.ResponseError("READONLY"), BrokenPipeError()], ids=repr
)
def test_a_broker_in_trouble_is_not_the_fault_of_a_message(
    broker_url: str, redis_url: str, server: redis.Redis, error: Exception
) -> None:
    def fail(message: Message) -> None:
        del message
        raise error

    server.lpush("crawl", good())
    with listening(broker_url) as listener:
        listener.handle = fail
        with pytest.raises(type(error)):
            listener.listen(until=lambda: bool(listener.taken) and False)
    assert in_quarantine(redis_url) == []
    assert server.llen("crawl") == 1, "it goes back when the channel is closed"


def test_a_message_goes_back_to_the_queue_where_it_was(broker_url: str, server: redis.Redis) -> None:
    message = malformed.envelope("pixcrawler.crawl.chunk", 5, queue="crawl")
    message["properties"]["delivery_info"] = {"exchange": "of an API", "routing_key": "somewhere"}
    message["headers"]["mine"] = "kept"
    server.lpush("crawl", json.dumps(message))
    with listening(broker_url) as listener:
        listener.handle = lambda _: None
        listener.listen(until=lambda: bool(listener.taken))
    assert nothing_taken(server)
    (raw,) = server.lrange("crawl", 0, -1)
    assert json.loads(raw)["headers"]["mine"] == "kept"
    assert json.loads(raw)["headers"]["redelivered"]


def test_messages_of_dead_workers_are_restored_around_garbage(
    broker_url: str, redis_url: str, server: redis.Redis
) -> None:
    whole = json.loads(good())
    server.hset("unacked", "1", json.dumps([whole, "", "crawl"]))
    server.hset("unacked", "2", b"junk")
    server.hset("unacked", "3", json.dumps([whole, "", "unacked"]))
    server.hset("unacked", "4", json.dumps([whole | {"headers": None}, "", "crawl"]))
    server.zadd("unacked_index", {"1": 1, "3": 1, "4": 1, "without": 1})
    with listening(broker_url) as listener:
        listener.connection.default_channel.qos.restore_visible(num=None, interval=1)
        assert nothing_taken(server)
        listener.listen(until=lambda: bool(listener.taken) and len(in_quarantine(redis_url)) == 3)
    assert sorted(in_quarantine(redis_url)) == [
        "it cannot be parsed (JSONDecodeError)",
        "its queue is not one",
        "there is no header `task`",
    ]


def test_a_full_redis_is_waited_for(broker_url: str, server: redis.Redis) -> None:
    with CheckedConnection(broker_url) as connection:
        with full(server), pytest.raises(OperationalError, match="Redis is full; waiting until it has room"):
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        connection.ensure_connection(max_retries=1)
        assert connection.connected


def test_messages_are_handled_while_redis_is_full(broker_url: str, server: redis.Redis) -> None:
    server.lpush("crawl", good(), b"junk", good())
    with listening(broker_url) as listener, full(server), capture_logs() as logged:
        listener.listen(until=lambda: len(listener.taken) == 2)
    assert nothing_taken(server)
    assert [entry["event"] for entry in logged].count("Redis is full or damaged") == 1


def test_what_was_taken_before_redis_was_full_is_acknowledged(broker_url: str, server: redis.Redis) -> None:
    server.lpush("crawl", good())
    with listening(broker_url) as listener:
        listener.handle = lambda _: None
        listener.listen(until=lambda: bool(listener.taken))
        assert not nothing_taken(server)
        with full(server):
            listener.taken[0].ack()
        assert nothing_taken(server)


def test_what_cannot_be_restored_while_redis_is_full_is_restored_later(broker_url: str, server: redis.Redis) -> None:
    server.hset("unacked", "1", json.dumps([json.loads(good()), "", "crawl"]))
    server.zadd("unacked_index", {"1": 1})
    with listening(broker_url) as listener:
        qos = listener.connection.default_channel.qos
        with full(server):
            qos.restore_visible(num=None, interval=1)
        assert not nothing_taken(server)
        qos.restore_visible(num=None, interval=1)
        assert server.llen("crawl") == 1


def test_a_queue_that_is_no_list_is_moved_away(broker_url: str, redis_url: str, server: redis.Redis) -> None:
    server.set("crawl", "a text")
    with listening(broker_url) as listener:
        listener.listen(until=lambda: not server.exists("crawl"))
        server.lpush("crawl", good())
        listener.listen(until=lambda: bool(listener.taken))
    assert in_quarantine(redis_url) == [f"the key of the queue holds a string, moved to {quarantine.KEY}:crawl"]
    assert server.get(f"{quarantine.KEY}:crawl") == b"a text"


@pytest.mark.parametrize("key", ["unacked", "unacked_index", quarantine.KEY])
def test_a_damaged_record_stops_no_message(broker_url: str, server: redis.Redis, key: str) -> None:
    server.set(key, "a text")
    server.lpush("crawl", b"junk", good())
    with listening(broker_url) as listener:
        listener.connection.default_channel.qos.restore_visible(num=None, interval=1)
        listener.listen(until=lambda: bool(listener.taken))
        assert listener.taken[0].acknowledged
        server.delete(key)


def test_a_task_that_ends_after_its_channel_was_closed_ends_no_worker(broker_url: str, server: redis.Redis) -> None:
    server.lpush("crawl", good())
    with listening(broker_url) as listener:
        listener.handle = lambda _: None
        listener.listen(until=lambda: bool(listener.taken))
        errors = listener.connection.connection_errors
        listener.channel.close()
        assert server.llen("crawl") == 1, "it was put back"
        with full(server):
            listener.taken[0].ack()
        # As kombu does after a broken connection.
        listener.channel._disconnect_pools()  # noqa: SLF001 - there is no public way
        with pytest.raises(errors, match="is closed"):
            listener.channel.qos.ack(listener.taken[0].delivery_tag)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("policy", "seconds"), [({}, 0.0), ({"max_retries": 2, "interval_start": 0.2}, 0.2)])
def test_what_is_sent_while_the_broker_is_away_is_tried_again_only_as_often_as_it_says(
    broker_url: str, server: redis.Redis, tmp_path: Path, policy: dict[str, object], seconds: float
) -> None:
    # Celery sends heartbeats in the event loop of a worker, and does not say how often.
    address, _, options = broker_url.partition("?")
    away = tmp_path / "redis"
    away.symlink_to(address.removeprefix("redis+socket://"))
    with CheckedConnection(f"redis+socket://{away}?{options}") as connection:
        producer = Producer(connection)
        producer.publish({}, routing_key="crawl")
        away.unlink()
        server.client_kill_filter(_type="normal", skipme=True)
        began = time.monotonic()
        with pytest.raises(OperationalError):
            producer.publish({}, routing_key="crawl", retry=True, retry_policy=policy)
        assert time.monotonic() - began >= seconds

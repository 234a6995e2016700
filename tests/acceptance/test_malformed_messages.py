"""Messages that no worker can read are set aside, and the worker runs what is behind them."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import malformed
import pytest
import redis
from acceptance_stack import Stack, send, url_list

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.domain.messages import Queue, Task

#: No row has it.
UNKNOWN = 2_000_000_000
#: What random messages are made from.
GOOD = [
    (Task.CRAWL_START, Queue.CRAWL, (UNKNOWN, {"urls": ["https://a.example/1.jpg"]})),
    (Task.CRAWL_CHUNK, Queue.CRAWL, (UNKNOWN,)),
    (Task.CRAWL_CANCEL, Queue.MAINTENANCE, (UNKNOWN,)),
    (Task.EXPORT_PART, Queue.EXPORT, (UNKNOWN,)),
]
#: Keys that are empty when every message was handled; a queue has more of them for priorities.
_HANDLED = {*Queue, "unacked", "unacked_index"}
#: Published to all workers.
BROADCASTS = (b"junk", b"5", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000)
#: Damages to a command.
COMMANDS = (
    malformed.without("properties"),
    malformed.changed("headers/clock", "late"),
    malformed.changed("body", malformed.encoded(b"[1]")),
    malformed.changed("body", malformed.encoded(b'{"method": {}}')),
    malformed.changed("body", malformed.encoded(b'{"method": "ping", "reply_to": 5}')),
    malformed.changed("body", malformed.encoded(b'{"method": "ping", "self": 5}')),
    # Celery looks them up later, in the event loop of the worker.
    malformed.changed("body", malformed.encoded(b'{"method": "cancel_consumer", "arguments": {"queue": []}}')),
    malformed.changed("body", malformed.encoded(b'{"method": "add_consumer", "arguments": {"queue": {}}}')),
    malformed.changed(
        "body", malformed.encoded(b'{"method": "add_consumer", "arguments": {"queue": "a", "exchange_type": "b"}}')
    ),
    malformed.changed("body", malformed.encoded(b'{"method": "pool_grow", "arguments": {"n": 100000}}')),
)


@pytest.fixture(name="server")
def redis_client(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.redis_url) as server:
        yield server


def start_good_job(stack: Stack) -> int:
    listed, _ = url_list(stack.host, good=4, broken=0)
    job_id = stack.make_job(max_images=4)
    send(stack, Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": 2})
    return job_id


def wait_until_handled(stack: Stack, server: redis.Redis, *, seconds: float = 60) -> None:
    """Wait until the queues and the record of taken messages are empty."""
    deadline = time.monotonic() + seconds
    while left := [key for key in server.scan_iter() if key.split(b"\x06")[0].decode() in _HANDLED]:
        assert time.monotonic() < deadline, f"left in {left}\n{stack.log()[-6000:]}"
        time.sleep(0.1)


def good_message(task: Task, queue: Queue, args: tuple[object, ...]) -> dict[str, Any]:
    return malformed.envelope(task.value, *args, queue=queue.value)


def push_each_kind(server: redis.Redis) -> int:
    """Push one message of each kind; return how many."""
    for number, (kind, damage) in enumerate(malformed.KINDS.items()):
        task, queue, args = GOOD[number % len(GOOD)]
        message = good_message(task, queue, args)
        message["headers"]["kind"] = kind
        server.lpush(queue.value, damage(message))
    return len(malformed.KINDS)


def push_to_be_restored(server: redis.Redis) -> int:
    """Record garbage as taken by a worker that died; return how many are no messages."""
    whole = good_message(*GOOD[1])
    taken: dict[str, Any] = {
        "text": "junk",
        "list": [],
        "triple": [1, 2, 3],
        "no message": [{}, "", "crawl"],
        "queue is an object": [whole, {}, {}],
        "queue is unknown": [whole, "nowhere", "nothing"],
        "queue is a hash": [whole, "", "unacked"],
        "queue is empty": [whole, "", ""],
    }
    stored = {tag: json.dumps(value).encode() for tag, value in taken.items()}
    stored |= {"junk": b"\xff{", "deep": b"[" * 100_000, "empty": b"", "without a time": b"junk"}
    for tag, value in stored.items():
        server.hset("unacked", tag, value)
    server.zadd("unacked_index", dict.fromkeys([tag for tag in stored if tag != "without a time"], 1))
    server.zadd("unacked_index", {"without a message": 1})
    # This one is whole and goes back to its queue.
    server.hset("unacked", "whole", json.dumps([whole, "", "crawl"]))
    server.zadd("unacked_index", {"whole": 1})
    return len(stored) - len(["empty"])


def publish_broadcasts(server: redis.Redis, database: str) -> int:
    """Publish what is no command to all workers; return how many."""

    def command() -> dict[str, Any]:
        ping = malformed.encoded(json.dumps({"method": "ping", "arguments": {}}).encode())
        return malformed.envelope("", queue="") | {"body": ping}

    damaged = [*BROADCASTS, *(damage(command()) for damage in COMMANDS)]
    for message in (b"", *damaged):  # kombu itself ignores an empty one
        assert server.publish(f"/{database}.celery.pidbox", message) == 1, "one worker listens"
    return len(damaged)


def push_random(server: redis.Redis, *, seed: int, count: int) -> None:
    dice = random.Random(seed)
    messages = [good_message(*one) for one in GOOD]
    for _ in range(count):
        number = dice.randrange(len(GOOD))
        server.lpush(GOOD[number][1].value, malformed.random_message(dice, messages[number]))


def test_a_worker_sets_aside_each_kind_of_malformed_message_and_runs_what_is_behind(
    stack: Stack, server: redis.Redis
) -> None:
    bad = push_each_kind(server) + push_to_be_restored(server)
    job_id = start_good_job(stack)
    with stack.worker() as process:
        stack.wait(job_id)
        assert stack.job(job_id)["valid_images"] == 4
        wait_until_handled(stack, server)
        count, newest = quarantine.read(stack.redis_url, limit=1000)
        assert count == len(newest) == bad
        bad += publish_broadcasts(server, str(server.connection_pool.connection_kwargs["db"]))
        second = start_good_job(stack)
        stack.wait(second)
        assert quarantine.read(stack.redis_url, limit=1)[0] == bad
        assert process.poll() is None
        doctor = stack.run("pixcrawler", "doctor")
        assert f"; {bad} unreadable messages were set aside, the newest " in doctor.stdout
    log = stack.log()
    assert "Unrecoverable error" not in log
    assert "Traceback" not in log
    assert log.count("unreadable message set aside") < bad, "a few lines, and a count of the others"


@pytest.mark.parametrize(("seed", "count"), [(1, 100), pytest.param(2, 1000, marks=pytest.mark.scale)])
def test_random_damages_do_no_harm(stack: Stack, server: redis.Redis, seed: int, count: int) -> None:
    push_random(server, seed=seed, count=count)
    job_id = start_good_job(stack)
    with stack.worker() as process:
        stack.wait(job_id)
        assert stack.job(job_id)["valid_images"] == 4
        wait_until_handled(stack, server)
        assert process.poll() is None
    log = stack.log()
    assert "Unrecoverable error" not in log
    assert "could not be recorded" not in log
    set_aside, _ = quarantine.read(stack.redis_url, limit=1)
    of_good_job = 1 + 2
    # What a damage left whole is a task of an unknown row, or an unknown task.
    taken = log.count("] received ") - of_good_job + log.count("Received unregistered task")
    assert set_aside + taken == count
    assert set_aside > count / 2

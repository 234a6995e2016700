"""Messages that are malformed, doubled, foreign, stale or old, put into the queues as Redis has them."""

import base64
import json
from collections.abc import Callable
from typing import Any

import malformed
from chaos.faults.broker import CHUNK_LISTS
from chaos.faults.catalog import Arena, SkippedError, fault

from pixcrawler_worker.domain.messages import QUEUES, Queue, Task

Message = dict[str, Any]
_QUEUES = [queue.value for queue in Queue]
_NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def message(task: str, *args: object, queue: str = "crawl", **keywords: object) -> Message:
    """Return a message as Celery's second protocol has it, encoded for Redis by kombu."""
    return {**malformed.envelope(task, *args, queue=queue), "body": malformed.body_of(*args, **keywords)}


def _encoded(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _changed(**parts: object) -> bytes:
    """Return a message with some parts replaced, or removed where they are None."""
    whole = message(Task.SWEEP)
    for name, value in parts.items():
        whole[name.replace("_", "-")] = value
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def _with(part: str, **values: object) -> bytes:
    whole = message(Task.SWEEP)
    whole[part] |= values
    return json.dumps(whole).encode()


def _body(body: bytes) -> bytes:
    return _changed(body=_encoded(body))


def _deep(depth: int) -> bytes:
    return b"[[" + b"[" * depth + b"]" * depth + b"], {}, {}]"


#: What cannot be a message of ours, by kind. A worker sets it aside and goes on.
MALFORMED: dict[str, bytes] = {
    "not JSON": b"this is no message {",
    "nothing": b"",
    "a number": b"7",
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "an empty object": b"{}",
    "invalid UTF-8": b'{"body": "\xff\xfe\x80"}',
    "no properties": _changed(properties=...),
    "properties that are a list": _changed(properties=[1]),
    "no delivery tag": _changed(properties={"body_encoding": "base64"}),
    "unknown body encoding": _with("properties", body_encoding="rot13"),
    "body that is no Base64": _changed(body="\u00e9 not base64 \u00e9"),
    "body that is a number": _changed(body=5),
    "headers that are a list": _changed(headers=[1, 2]),
    "no headers": _changed(headers=...),
    "task that is an object": _with("headers", task={"name": "pixcrawler.crawl.start"}),
    "task that is null": _with("headers", task=None),
    "id that is an object": _with("headers", id={"a": 1}),
    "time limit that is text": _with("headers", timelimit="soon"),
    "time of execution that is text": _with("headers", eta="tomorrow"),
    "expiry that is a list": _with("headers", expires=[1]),
    "retries that are text": _with("headers", retries="many"),
    "body that is no triple": _body(b'{"a": 1}'),
    "body that is text": _body(b'"text"'),
    "body that is cut off": _body(b'[[1], {}, {"callba'),
    "body in a foreign format": _changed(content_type="application/x-python-serialize"),
    "body in an unknown format": _changed(content_type="application/unknown"),
    "unknown encoding of text": _changed(content_encoding="utf-99"),
    "unknown compression": _with("headers", compression="application/x-nothing"),
    "arguments nested a thousand deep": _body(_deep(1000)),
    "arguments nested a hundred thousand deep": _body(_deep(100_000)),
    "body of two megabytes": _body(b'[["' + b"x" * 2_000_000 + b'"], {}, {}]'),
}


def _push(arena: Arena, queue: str, *bodies: bytes) -> None:
    with arena.broker.client() as client:
        client.lpush(queue, *bodies)


def _malformed(body: bytes) -> Callable[[Arena], None]:
    def act(arena: Arena) -> None:
        _push(arena, arena.random.choice(_QUEUES), body)

    return act


for _kind, _raw in MALFORMED.items():
    fault(f"malformed: {_kind}", "messages")(_malformed(_raw))


@fault("malformed: garbage on the control channel", "messages", weight=3)
def garbage_control(arena: Arena) -> None:
    body = arena.random.choice(list(MALFORMED.values()))
    with arena.broker.client() as client:
        for channel in ("/0.celery.pidbox", "/0.celeryev/worker.heartbeat"):
            client.publish(channel, body)


@fault("malformed: many at once", "messages", weight=3)
def many_malformed(arena: Arena) -> None:
    bodies = [body for body in MALFORMED.values() if len(body) < 100_000]
    _push(arena, arena.random.choice(_QUEUES), *arena.random.sample(bodies, k=len(bodies)))


def _waiting(arena: Arena) -> tuple[str, list[bytes]]:
    """Return a queue with messages, and these."""
    with arena.broker.client() as client:
        # Sweeps are not multiplied by others than `many_sweeps`: each takes as long as several chunks.
        for queue in arena.random.sample([*_QUEUES[:3], *CHUNK_LISTS], k=3 + len(CHUNK_LISTS)):
            if found := client.lrange(queue, 0, -1):
                return queue, [bytes(one) for one in found]
    raise SkippedError("no message waits")


@fault("doubled", "messages", weight=2)
def double(arena: Arena) -> None:
    queue, found = _waiting(arena)
    _push(arena, queue, *found)


@fault("a hundredfold", "messages")
def hundredfold(arena: Arena) -> None:
    queue, found = _waiting(arena)
    _push(arena, queue, *[arena.random.choice(found)] * 100)


@fault("chunk of a running job a hundred times", "messages")
def hundred_chunks(arena: Arena) -> None:
    with arena.database.connect("chaos fault") as connection:
        row = connection.execute(
            "SELECT id FROM pixcrawler.chunks WHERE crawl_job_id IS NOT NULL"
            " ORDER BY state = 'running' DESC, state = 'queued' DESC, random() LIMIT 1"
        ).fetchone()
    if row is None:
        raise SkippedError("there is no chunk")
    _push(arena, "crawl", *[json.dumps(message(Task.CRAWL_CHUNK, row[0])).encode()] * 100)


@fault("stale", "messages")
def stale(arena: Arena) -> None:
    """Send chunks that have ended, and such as are not due."""
    with arena.database.connect("chaos fault") as connection:
        rows = connection.execute(
            "SELECT id FROM pixcrawler.chunks WHERE crawl_job_id IS NOT NULL ORDER BY random() LIMIT 20"
        ).fetchall()
    for (chunk,) in rows:
        _push(arena, "crawl", json.dumps(message(Task.CRAWL_CHUNK, chunk)).encode())


@fault("in the wrong queue, or of the wrong kind", "messages")
def wrong_kind(arena: Arena) -> None:
    with arena.database.connect("chaos fault") as connection:
        rows = connection.execute("SELECT id FROM pixcrawler.chunks ORDER BY random() LIMIT 10").fetchall()
    for (chunk,) in rows:
        task = arena.random.choice((Task.CRAWL_CHUNK, Task.VALIDATION_CHUNK, Task.EXPORT_PART))
        _push(arena, arena.random.choice(_QUEUES), json.dumps(message(task, chunk)).encode())


@fault("of unknown tasks", "messages", weight=3)
def unknown_tasks(arena: Arena) -> None:
    for name in ("celery.backend_cleanup", "other.service.task", "pixcrawler.crawl.nothing", "", "a" * 500):
        _push(arena, arena.random.choice(_QUEUES), json.dumps(message(name, 1)).encode())


@fault("with ids of wrong types", "messages")
def wrong_ids(arena: Arena) -> None:
    ids: list[object] = [None, "7", 1.5, True, -1, 0, 2**31, 2**63, 2**64, [1], {"id": 1}, "x" * 1000]
    for task in arena.random.sample([task for task in Task if task is not Task.SWEEP], k=4):
        for one in ids:
            _push(arena, QUEUES[task], json.dumps(message(task, one)).encode())


@fault("with too few and too many arguments", "messages")
def wrong_arguments(arena: Arena) -> None:
    for task in arena.random.sample(list(Task), k=4):
        for found in (message(task), message(task, 1, 2, 3, 4), message(task, nothing=1)):
            _push(arena, QUEUES[task], json.dumps(found).encode())


@fault("of the first protocol", "messages", weight=3)
def old_protocol(arena: Arena) -> None:
    """Send the chunk of a running job as Celery 3 did: everything in the body, no headers."""
    with arena.database.connect("chaos fault") as connection:
        row = connection.execute(
            "SELECT id, task_id::text FROM pixcrawler.chunks WHERE crawl_job_id IS NOT NULL"
            " ORDER BY state = 'queued' DESC, random() LIMIT 1"
        ).fetchone()
    if row is None:
        raise SkippedError("there is no chunk")
    body = {"task": Task.CRAWL_CHUNK, "id": row[1], "args": [row[0]], "kwargs": {}, "retries": 0, "eta": None}
    _push(arena, "crawl", _changed(headers={}, body=_encoded(json.dumps(body).encode())))


@fault("start with named arguments", "messages", weight=3)
def named_arguments(arena: Arena) -> None:
    """Send again the start of a job that runs, as an older API does."""
    group = arena.load.running_crawl()
    if group is None:
        raise SkippedError("no job runs")
    _push(arena, "crawl", json.dumps(message(Task.CRAWL_START, crawl_job_id=group.job)).encode())


@fault("reversed", "messages", weight=3)
def reverse(arena: Arena) -> None:
    with arena.broker.client() as client:
        for queue in CHUNK_LISTS:
            length = client.llen(queue)
            taken = [one for _ in range(length) if (one := client.rpop(queue))]
            if taken:
                client.rpush(queue, *taken)


@fault("sweeps, ten at once", "messages")
def many_sweeps(arena: Arena) -> None:
    _push(arena, "maintenance", *[json.dumps(message(Task.SWEEP, queue="maintenance")).encode() for _ in range(10)])

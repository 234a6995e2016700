"""Messages that no worker can read: one of each kind, and random ones."""

import base64
import copy
import json
import random
import string
import uuid
from collections.abc import Callable, Mapping
from typing import Any

Json = Any


def body_of(*args: object, **kwargs: object) -> str:
    """A body of protocol 2, as Celery encodes it."""
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return base64.b64encode(json.dumps([args, kwargs, embed]).encode()).decode()


def envelope(task: str, *args: object, queue: str, **headers: object) -> dict[str, Json]:
    """A message of protocol 2 that any Celery could have sent."""
    task_id = str(uuid.uuid4())
    return {
        "body": body_of(*args),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
            "argsrepr": repr(args),
            "kwargsrepr": "{}",
            "origin": "gen1@host",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            **headers,
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def nested(depth: int) -> str:
    """A body with an argument of so many lists inside of each other."""
    text = f"[[{'[' * depth}{']' * depth}], {{}}, {{}}]"
    return base64.b64encode(text.encode()).decode()


def changed(path: str, value: object) -> Callable[[dict[str, Json]], bytes]:
    """Return what replaces one value of a message."""

    def change(message: dict[str, Json]) -> bytes:
        *parents, last = path.split("/")
        target = message
        for part in parents:
            target = target[part]
        target[last] = value
        return json.dumps(message).encode()

    return change


def without(path: str) -> Callable[[dict[str, Json]], bytes]:
    """Return what removes one value of a message."""

    def change(message: dict[str, Json]) -> bytes:
        *parents, last = path.split("/")
        target = message
        for part in parents:
            target = target[part]
        del target[last]
        return json.dumps(message).encode()

    return change


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def raw(content: bytes) -> Callable[[dict[str, Json]], bytes]:
    return lambda _: content


#: From a good message to one that no worker can read.
KINDS: Mapping[str, Callable[[dict[str, Json]], bytes]] = {
    "empty": raw(b""),
    "not JSON": raw(b"not json"),
    "cut off": lambda message: json.dumps(message).encode()[:-20],
    "a number": raw(b"42"),
    "a list": raw(b"[]"),
    "null": raw(b"null"),
    "a string": raw(b'"crawl"'),
    "an empty object": raw(b"{}"),
    "not UTF-8": lambda message: json.dumps(message).encode().replace(b"gen1", b"\xff\xfe"),
    "a number of 5,000 digits": lambda message: json.dumps(message).encode().replace(b"0,", b"9" * 5000 + b",", 1),
    "nested 100,000 deep": raw(b"[" * 100_000),
    "an unknown type of kombu": changed("headers/extra", {"__type__": "chair", "__value__": 1}),
    "a wrong date of kombu": changed("headers/extra", {"__type__": "datetime", "__value__": 5}),
    "no properties": without("properties"),
    "properties are null": changed("properties", None),
    "properties are a list": changed("properties", [1]),
    "no delivery_tag": without("properties/delivery_tag"),
    "delivery_tag is an object": changed("properties/delivery_tag", {"a": 1}),
    "delivery_tag is a surrogate": changed("properties/delivery_tag", "\ud800"),
    "no delivery_info": without("properties/delivery_info"),
    "delivery_info is a text": changed("properties/delivery_info", "crawl"),
    "no exchange": without("properties/delivery_info/exchange"),
    "no routing key": without("properties/delivery_info/routing_key"),
    "routing key is null": changed("properties/delivery_info/routing_key", None),
    "priority is infinite": changed("properties/priority", float("inf")),
    "priority is a list": changed("properties/priority", []),
    "unknown body_encoding": changed("properties/body_encoding", "rot13"),
    "body_encoding is a number": changed("properties/body_encoding", 64),
    "no body": without("body"),
    "body is null": changed("body", None),
    "body is a list": changed("body", [[], {}, {}]),
    "body is empty": changed("body", ""),
    "body is not base64": changed("body", "a"),
    "body is not UTF-8": changed("body", encoded(b"\xff\xfe\xfd")),
    "body is not JSON": changed("body", encoded(b"[[], {}")),
    "body is a number": changed("body", encoded(b"5")),
    "body is no triple": changed("body", encoded(b"[[], {}]")),
    "body has args that are a text": changed("body", encoded(b'["args", {}, {}]')),
    "body has kwargs that are a list": changed("body", encoded(b"[[], [], {}]")),
    "body has an embed that is a list": changed("body", encoded(b"[[], {}, [1]]")),
    "callbacks are a number": changed("body", encoded(b'[[1], {}, {"callbacks": 5}]')),
    "errbacks are texts": changed("body", encoded(b'[[1], {}, {"errbacks": ["a"]}]')),
    "an argument nested 1,000 deep": changed("body", nested(1000)),
    "an argument nested 100,000 deep": changed("body", nested(100_000)),
    "a million lists": changed("body", encoded(b"[[" + b"[]," * 1_000_000 + b"1], {}, {}]")),
    "33 MB": changed("body", encoded(b'[["' + b"a" * 33_000_000 + b'"], {}, {}]')),
    "headers are a list": changed("headers", [1]),
    "headers are a text": changed("headers", "task"),
    "no task": without("headers/task"),
    "task is an object": changed("headers/task", {"a": 1}),
    "task is a list": changed("headers/task", ["pixcrawler.crawl.start"]),
    "task is null": changed("headers/task", None),
    "no id": without("headers/id"),
    "id is an object": changed("headers/id", {"a": 1}),
    "id has a NUL": changed("headers/id", "a\0b"),
    "timelimit is a text": changed("headers/timelimit", "soon"),
    "timelimit has texts": changed("headers/timelimit", ["1", "2"]),
    "timelimit has one": changed("headers/timelimit", [1]),
    "timelimit is negative": changed("headers/timelimit", [-1, -1]),
    "timelimit is infinite": changed("headers/timelimit", [float("inf"), None]),
    "eta is a number": changed("headers/eta", 5),
    "eta is a text": changed("headers/eta", "soon"),
    "eta is in the year 9999": changed("headers/eta", "9999-12-31T23:59:59-14:00"),
    "expires is a list": changed("headers/expires", [1]),
    "expires is a text": changed("headers/expires", "never"),
    "retries is a text": changed("headers/retries", "many"),
    "lang is a list": changed("headers/lang", ["py"]),
    "group is an object": changed("headers/group", {}),
    "shadow is an object": changed("headers/shadow", {"a": 1}),
    "stamped_headers are objects": changed("headers/stamped_headers", [{"a": 1}]),
    "stamps are a list": changed("headers/stamps", [1]),
    "argsrepr is an object": changed("headers/argsrepr", {}),
    "unknown content type": changed("content-type", "application/x-klingon"),
    "pickle": changed("content-type", "application/x-python-serialize"),
    "no content type": without("content-type"),
    "content type is a number": changed("content-type", 5),
    "unknown content encoding": changed("content-encoding", "klingon"),
    "content encoding is a number": changed("content-encoding", 8),
    "compression is unknown": changed("headers/compression", "application/x-klingon"),
    "compression is an object": changed("headers/compression", {"a": 1}),
    "compression that is none": changed("headers/compression", "gzip"),
}  # fmt: skip

_PRINTABLE = string.printable.encode()
_VALUES: tuple[Json, ...] = (
    None, True, 0, -1, 1.5, 10**30, "", "a", "\0", "\ud800", [], [1], [[]], {}, {"a": 1}, float("nan"), float("inf"),
    {"__type__": "a", "__value__": 1}, "9999-12-31T23:59:59-14:00", ["a", "b"], [None], "x" * 5000,
)  # fmt: skip


def random_message(dice: random.Random, good: dict[str, Json]) -> bytes:
    """Return a good message with one random damage: to its bytes, to its values, or to those of its body."""
    message = copy.deepcopy(good)
    message["properties"]["delivery_tag"] = str(uuid.UUID(int=dice.getrandbits(128)))
    kind = dice.randrange(4)
    if kind == 0:
        return _damaged_bytes(dice, json.dumps(message).encode())
    if kind == 1:
        body = json.loads(base64.b64decode(message["body"]))
        _damage(dice, [body])
        message["body"] = encoded(json.dumps(body).encode())
    elif kind == 2:
        message["body"] = encoded(_damaged_bytes(dice, base64.b64decode(message["body"])))
    else:
        for _ in range(dice.randint(1, 3)):
            _damage(dice, [message])
    return json.dumps(message).encode()


def _damaged_bytes(dice: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        position = dice.randrange(len(damaged) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            damaged[position:position] = bytes([dice.randrange(256)])
        elif kind == 1:
            del damaged[position : position + dice.randint(1, 30)]
        elif kind == 2:
            damaged[position : position + 1] = bytes([dice.choice(_PRINTABLE)])
        else:
            damaged[position:position] = damaged[: dice.randint(1, 50)]
    return bytes(damaged)


def _damage(dice: random.Random, holder: list[Json] | dict[str, Json]) -> None:
    """Replace, remove or add a value somewhere below."""
    keys: list[Any] = list(range(len(holder))) if isinstance(holder, list) else list(holder)
    if not keys:
        return
    key = dice.choice(keys)
    inner = holder[key]
    if isinstance(inner, list | dict) and inner and dice.random() < 0.8:
        _damage(dice, inner)
    elif isinstance(holder, dict) and dice.random() < 0.3:
        del holder[key]
    else:
        # A copy, since a later damage may change it: of the value itself, it would make a circle, for all messages.
        holder[key] = copy.deepcopy(dice.choice(_VALUES))

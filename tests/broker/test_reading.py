import base64
import bz2
import json
import lzma
import random
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import malformed
import pytest
import redis
from celery import Celery
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pixcrawler_worker.broker import reading
from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.broker.reading import MAX_BYTES, MAX_DEPTH, UnreadableError

TASK = "pixcrawler.crawl.start"


def good() -> dict[str, Any]:
    return malformed.envelope(TASK, 5, {"urls": ['https://a.example/[{"1.jpg']}, queue="crawl")


def reason(raw: bytes) -> Fault:
    with pytest.raises(UnreadableError) as caught:
        reading.read_task(raw)
    assert "\n" not in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("kind", malformed.KINDS)
def test_each_kind_of_malformed_message_is_recognized(kind: str) -> None:
    assert reason(malformed.KINDS[kind](good()))


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"countdown": 5, "expires": 60},
        {"eta": datetime(2030, 1, 1, tzinfo=UTC), "expires": datetime(2031, 1, 1, tzinfo=UTC)},
        {"priority": 9},
        {"headers": {"tenant": {"id": [1, 2]}, "when": datetime(2030, 1, 1, tzinfo=UTC)}},
        {"time_limit": 5, "soft_time_limit": 0.5},
        {"retries": 3, "shadow": "a name", "root_id": "a", "parent_id": "b", "group_id": "c", "group_index": 0},
        {"ignore_result": True, "task_id": "my own id"},
        {"compression": "gzip"},
        {"compression": "bzip2"},
        {"compression": "lzma"},
        {"link": {"task": "other", "args": [], "kwargs": {}, "options": {}}},
        {"link_error": {"task": "other", "args": [], "kwargs": {}, "options": {}}},
        {"stamped_headers": ["tenant"], "tenant": "a"},
    ],
    ids=str,
)
def test_messages_of_any_celery_are_readable(
    protocol: int, options: dict[str, Any], broker_url: str, server: redis.Redis
) -> None:
    with Celery(broker=broker_url) as api:
        api.conf.task_protocol = protocol
        api.send_task(TASK, args=[5, {"urls": ["https://a.example/é.jpg"]}], queue="crawl", **options)
    ((key),) = [key for key in server.scan_iter() if key.startswith(b"crawl")]
    raw = server.rpop(key)
    assert isinstance(raw, bytes)
    assert reading.read_task(raw) == json.loads(raw) | {"headers": reading.read_task(raw)["headers"]}


def test_messages_of_other_languages_are_readable() -> None:
    """What the clients for Node, Go, PHP and Rust send: only some headers, plain bodies, numbers as tags."""
    minimal = {
        "body": json.dumps([[5], {}, {}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "js", "task": TASK, "id": "7"},
        "properties": {"delivery_tag": 7, "delivery_info": {"exchange": "celery", "routing_key": "crawl"}},
    }
    old = minimal | {
        "headers": None,
        "body": base64.b64encode(json.dumps({"task": TASK, "id": "7", "args": [5]}).encode()).decode(),
        "properties": minimal["properties"] | {"body_encoding": "base64", "priority": "0"},  # type: ignore[operator]
    }
    assert reading.read_task(json.dumps(minimal).encode()) == minimal
    assert reading.read_task(json.dumps(old).encode())["headers"] == {}


@pytest.mark.parametrize("name", sorted(reading._FIELDS))  # noqa: SLF001 - the table is what is tested
def test_each_field_is_checked_in_messages_of_both_protocols(name: str) -> None:
    assert reason(malformed.changed(f"headers/{name}", -5.5)(good())) is Fault.HEADERS
    message = good()
    body = {"task": TASK, "id": "7", "args": [5], "kwargs": {}, name: -5.5}
    message |= {"headers": {}, "body": malformed.encoded(json.dumps(body).encode())}
    assert reason(json.dumps(message).encode()) is Fault.BODY


@pytest.mark.parametrize(
    ("method", "compress"), [("gzip", zlib.compress), ("bzip2", bz2.compress), ("lzma", lzma.compress)]
)
def test_a_small_body_that_becomes_large_is_not_unpacked(method: str, compress: Callable[[bytes], bytes]) -> None:
    message = good()
    message["headers"]["compression"] = method
    message["body"] = malformed.encoded(compress(b"[" + b" " * MAX_BYTES + b"]"))
    assert reason(json.dumps(message).encode()) is Fault.TOO_LARGE


def test_nesting_is_bounded_before_anything_is_parsed() -> None:
    assert reading.parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(UnreadableError) as caught:
        reading.parse(b"[" * (MAX_DEPTH + 1) + b"no JSON")
    assert caught.value.reason is Fault.TOO_DEEP


def test_brackets_in_texts_do_not_count() -> None:
    text = json.dumps({"urls": ['[{"\\' * 50 for _ in range(50)]})
    assert reading.parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize("tail", [b'\\"' * 500_000, b"\\" * 999_999, b'"' * 999_999, b'"[' * 500_000])
def test_the_check_of_nesting_takes_linear_time(tail: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(UnreadableError):
        reading.parse(b"[" * (MAX_DEPTH + 1) + b'"' + tail)
    with pytest.raises(UnreadableError):
        reading.parse(b"[]," * (MAX_DEPTH + 1) + b'"' + tail)
    assert time.monotonic() - started < 10


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32))
@example(seed=0)
def test_no_damage_raises_anything_else(seed: int) -> None:
    raw = malformed.random_message(random.Random(seed), good())
    for read in (reading.read_task, reading.read_reply, lambda one: reading.read_broadcast(one, is_command=True)):
        try:
            read(raw)
        except UnreadableError:
            continue


@settings(deadline=None, max_examples=300)
@given(raw=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    with pytest.raises(UnreadableError):
        reading.read_task(raw)

"""Messages that would take a worker's memory or stack are set aside, and the worker runs what is behind them."""

import base64
import bz2
import copy
import json
import lzma
import random
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import malformed
import pytest
import redis
from acceptance_stack import Stack, send, url_list

from pixcrawler_worker import client
from pixcrawler_worker.broker import quarantine, reading
from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.domain.messages import Queue, Task
from pixcrawler_worker.errors import PermanentError

pytestmark = pytest.mark.timeout(300)

SEED = 20261126
MIB = 1024 * 1024
#: What the main process of a worker may take more at its peak, while it reads messages of up to 32 MiB.
MAX_GROWTH_MIB = 320


def message(body: bytes, **headers: object) -> bytes:
    whole = malformed.envelope(Task.CRAWL_START.value, 1, queue=Queue.CRAWL.value)
    whole["headers"] |= headers
    whole["body"] = base64.b64encode(body).decode()
    return json.dumps(whole).encode()


def with_argument(argument: bytes) -> bytes:
    return b"[[2000000000, " + argument + b"], {}, {}]"


def nested(rng: random.Random, depth: int) -> bytes:
    """Return lists and objects inside of each other."""
    pairs = [rng.choice(((b"[", b"]"), (b'{"a": ', b"}"), (b'[0, "[", ', b"]"))) for _ in range(depth)]
    return b"".join(one for one, _ in pairs) + b"1" + b"".join(one for _, one in reversed(pairs))


#: Of little content that is large when it is parsed: of 32 MiB of JSON. Made when they are needed.
BOMBS: Mapping[str, Callable[[], bytes]] = {
    "numbers": lambda: b"[" + b"1.5," * (8 * MIB - 100) + b"1]",
    "short strings": lambda: b"[" + b'"ab",' * (6 * MIB) + b"1]",
    "one wide string": lambda: b'"' + b"a" * (30 * MIB) + "\U0001f9a9".encode() + b'"',
    "one escaped wide string": lambda: b'"' + b"a" * (30 * MIB) + rb"\ud83e\udda9" + b'"',
    "lists": lambda: b"[" + b"[]," * (10 * MIB) + b"1]",
    "keys": lambda: b"{" + b",".join(b'"%07x":1' % number for number in range(2 * MIB)) + b"}",
}
COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": lambda content: zlib.compress(content, 1),
    "application/x-bz2": lambda content: bz2.compress(content, 1),
    "application/x-lzma": lambda content: lzma.compress(content, preset=0),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_body_that_is_large_in_memory_is_not_parsed(bomb: str) -> None:
    body = with_argument(BOMBS[bomb]())
    began = time.process_time()
    with pytest.raises(reading.UnreadableError, match=r"^the body: it has more than") as caught:
        reading.read_task(message(zlib.compress(body, 1), compression="gzip"))
    assert caught.value.reason is Fault.TOO_LARGE
    # The event loop of a worker waits for this.
    assert time.process_time() - began < 10


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_body_beyond_the_limit_is_not_decompressed(compression: str) -> None:
    body = COMPRESSIONS[compression](bytes(40 * MIB))
    with pytest.raises(reading.UnreadableError, match="when decompressed"):
        reading.read_task(message(body, compression=compression))


@pytest.mark.parametrize(
    "compression", ["zstd", "application/zstd", "br", "brotli", "deflate", "snappy", "", 5, [], None]
)
def test_a_compression_that_is_unknown_is_no_reason_to_try(compression: object) -> None:
    if compression:
        with pytest.raises(reading.UnreadableError, match="the compression is unknown"):
            reading.read_task(message(b"[[1], {}, {}]", compression=compression))
    else:
        assert reading.read_task(message(b"[[1], {}, {}]", compression=compression))


def test_a_list_of_two_hundred_thousand_links_is_read() -> None:
    links = [f"https://cdn.example/{number:07}/w_100,h_100,c_fill/image.jpg?sig=a,b" for number in range(200_000)]
    body = with_argument(json.dumps({"urls": links}).encode())
    assert reading.read_task(message(body))["headers"]["task"] == Task.CRAWL_START


@pytest.mark.parametrize("depth", [91, 900, 3000, 100_000])
def test_the_client_sends_no_argument_that_workers_set_aside(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", "redis://127.0.0.1:1/0")
    value: object = 1
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    with pytest.raises(PermanentError, match=r"^arguments: they are nested too deeply"):
        client.send(Task.CRAWL_START, 1, value)


def test_what_the_client_accepts_a_worker_reads(monkeypatch: pytest.MonkeyPatch, stack: Stack) -> None:
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", stack.broker_url)
    value: object = 1
    for _ in range(89):
        value = [value]
    client.send(Task.CRAWL_START, 1, value)
    with redis.Redis.from_url(stack.redis_url) as server:
        raw: Any = server.lindex(Queue.CRAWL, 0)
    assert reading.read_task(raw)


@pytest.fixture(name="server")
def redis_client(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.redis_url) as server:
        yield server


@pytest.mark.slow
def test_a_worker_survives_them_with_bounded_memory_and_runs_a_job(stack: Stack, server: redis.Redis) -> None:
    rng = random.Random(SEED)
    small = json.loads(message(b"[[1], {}, {}]"))
    odd: list[tuple[str, object]] = [
        *(("content-type", one) for one in ("application/x-python-serialize", "application/x-yaml", "text/plain", "")),
        ("content-encoding", "no-such"),
        ("content-encoding", "x" * 5000),
        ("content-encoding", 5),
        *((f"headers/{name}", "x" * 100_000) for name in ("id", "task", "group", "origin")),
        *((f"properties/{name}", "x" * 100_000) for name in ("reply_to", "correlation_id", "delivery_tag")),
    ]
    bombs = {"application/x-gzip": "numbers", "application/x-bz2": "short strings", "application/x-lzma": "keys"}
    poison = [
        *(malformed.changed(path, value)(copy.deepcopy(small)) for path, value in odd),
        *(message(with_argument(nested(rng, depth))) for depth in (101, 900, 3000, 20_000, 100_000)),
        *(message(with_argument(nested(rng, rng.randint(150, 100_000)))) for _ in range(8)),
        *(
            message(COMPRESSIONS[method](with_argument(BOMBS[bomb]())), compression=method)
            for method, bomb in bombs.items()
        ),
        message(zlib.compress(bytes(40 * MIB)), compression="gzip"),
        message(b"x" * 100, compression="zstd"),
        message(b"[[1], {}, {}]", compression="brotli"),
        message(with_argument(b"9" * 5000)),
        message(b"[[1], {}, " + nested(rng, 5000) + b"]"),
    ]
    # They are read, and lead to no job.
    harmless = [
        message(with_argument(b'"' + b"a" * 10 * MIB + b'"')),
        message(with_argument(rb'{"urls": ["\ud800"], "a": NaN, "a": 1e999, "b": -Infinity}')),
        message(b"[[2000000000], {}, {}]", argsrepr="x" * MIB, kwargsrepr="{" * MIB),
        # A task of Celery itself, which would run another one as often as the message says.
        message(b'[[{"task": "pixcrawler.maintenance.sweep"}, [[], [], []]], {}, {}]', task="celery.starmap"),
    ]
    with stack.worker(concurrency=1) as process:
        listed, _ = url_list(stack.host, good=2, broken=0)
        first = stack.make_job(max_images=2)
        send(stack, Task.CRAWL_START, first, {"urls": listed})
        stack.wait(first)
        before = peak_mib(process.pid)
        for one in [*poison, *harmless]:
            server.lpush(Queue.CRAWL, one)
        after = stack.make_job(max_images=2)
        send(stack, Task.CRAWL_START, after, {"urls": listed})
        stack.wait(after, seconds=120)
        growth = peak_mib(process.pid) - before
    assert stack.job(after)["status"] == "completed"
    count, entries = quarantine.read(stack.redis_url, limit=1000)
    assert count == len(poison), [entry.detail for entry in entries]
    assert {entry.reason for entry in entries} >= {"too_deep", "too_large", "compression", "content_type"}
    assert growth < MAX_GROWTH_MIB, growth
    assert stack.log().count("Traceback") == 0
    assert "there is no such task" in stack.log()
    assert "celery.starmap" in stack.log()


def peak_mib(pid: int) -> int:
    """Return the largest resident size that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def test_a_row_with_what_python_cannot_read_fails_by_itself_and_says_why(stack: Stack) -> None:
    listed, _ = url_list(stack.host, good=2, broken=0)
    poisoned = {
        stack.make_job(): (column, text)
        for column, text in (
            ("keywords", "[" * 3000 + "]" * 3000),
            ("keywords", '{"keywords":' * 900 + "1" + "}" * 900),
            ("keywords", "[" + "9" * 5000 + "]"),
            ("keywords", f"[{','.join(['1'] * 2_100_000)}]"),
        )
    }
    good = stack.make_job(max_images=2)
    for job_id, (column, text) in poisoned.items():
        stack.query(
            f"UPDATE crawl_jobs SET {column} = %s::jsonb, created_at = '2020-01-01' WHERE id = %s RETURNING id",
            text,
            job_id,
        )
    with stack.worker(concurrency=1, PIXCRAWLER_START_PENDING="true"):
        send(stack, Task.CRAWL_START, good, {"urls": listed})
        stack.wait(good)
        deadline = time.monotonic() + 60
        while left := stack.query("SELECT id FROM crawl_jobs WHERE status IN ('pending', 'running')"):
            assert time.monotonic() < deadline, (left, stack.log()[-4000:])
            time.sleep(0.1)
    assert stack.job(good)["status"] == "completed"
    for job_id in poisoned:
        assert stack.query("SELECT status FROM crawl_jobs WHERE id = %s", job_id) == [("failed",)]
        reasons = str(stack.query("SELECT metadata_::text FROM activity_logs WHERE resource_id = %s", str(job_id)))
        assert any(why in reasons for why in ("nested too deeply", "too many digits", "too large")), reasons
    assert "Traceback" not in stack.log()

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from pixcrawler_worker.storage import local
from pixcrawler_worker.storage.facade import Storage

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def listed(store: Storage, prefix: str) -> list[str]:
    return sorted([key async for key in store.keys(prefix)])


WRITER = """
import asyncio, itertools, sys
from pixcrawler_worker.storage.facade import Storage

async def write():
    storage = Storage(sys.argv[1])
    for letter in itertools.cycle(b"ab"):
        await storage.put("images/one.jpg", bytes([letter]) * 8_000_000)
        print(flush=True)

asyncio.run(write())
"""


LIMITED = """
import asyncio, resource, signal, sys
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.storage.facade import Storage

async def write():
    storage = Storage(sys.argv[1])
    await storage.put("one.jpg", b"before")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        await storage.put("one.jpg", bytes(100_000))
    except TransientError as error:
        print(error)

asyncio.run(write())
"""


def test_only_a_file_has_a_path() -> None:
    assert local.path_of("s3://bucket/a.jpg") is None
    assert local.path_of("memory:///a.jpg") is None


def test_a_file_that_does_not_fit_is_an_outage_and_keeps_the_previous_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path.as_uri()], check=True, capture_output=True, text=True
    )
    assert "one.jpg could not be written" in done.stdout
    assert "File too large" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    store = Storage(tmp_path.as_uri())
    assert run(store.get("one.jpg")) == b"before"
    assert run(listed(store, "")) == ["one.jpg"]
    left = [entry.name for entry in tmp_path.iterdir()]
    assert left == ["one.jpg"], "half a file does not use space that is short"


def test_a_writer_that_is_killed_leaves_no_half_file(tmp_path: Path) -> None:
    store = Storage(tmp_path.as_uri())
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path.as_uri()], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(random.uniform(0, 0.05))
            writer.kill()
        body = run(store.get("images/one.jpg"))
        assert len(body) == 8_000_000
        assert body == body[:1] * len(body)
        assert run(listed(store, "")) == ["images/one.jpg"]


def test_a_file_that_a_killed_writer_left_is_listed_on_request_only_and_can_be_deleted(tmp_path: Path) -> None:
    async def story(store: Storage) -> None:
        await store.put("a/one.jpg", b"whole")
        left = f"a/one.jpg{local.UNFINISHED}0123456789abcdef"
        (tmp_path / left).write_bytes(b"half")
        assert await listed(store, "a/") == ["a/one.jpg"]
        assert [found async for found in store.sizes("a/")] == [("a/one.jpg", 5)]
        assert {key async for key in store.keys("a/", unfinished=True)} == {"a/one.jpg", left}
        await store.delete([left])
        assert {key async for key in store.keys("a/", unfinished=True)} == {"a/one.jpg"}

    run(story(Storage(tmp_path.as_uri())))


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    async def story() -> set[bytes]:
        store = Storage(tmp_path.as_uri())
        await store.put("one.jpg", b"a" * 2_000_000)

        async def write() -> None:
            for letter in b"ba" * 20:
                await store.put("one.jpg", bytes([letter]) * 2_000_000)

        writing = asyncio.ensure_future(write())
        seen = set()
        while not writing.done():
            body = await store.get("one.jpg")
            assert body == body[:1] * 2_000_000
            seen.add(body[:1])
        await writing
        return seen

    assert run(story()) == {b"a", b"b"}

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.storage import local
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.failures import FileMissingError

T = TypeVar("T")

LABELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
KEYS = st.builds(
    lambda job, label, digest, kind: f"crawl_jobs/{job}/{slug(label)}/{digest.hex()}.{kind}",
    st.integers(1, 2**31),
    LABELS,
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["jpg", "png", "webp"]),
)

#: Names of folders that an address has to quote.
FOLDERS = ("plain", "with space", "100%", "a%20b", "Grüße", "猫", "a#b", "a?b", "a+b", "a;b&c", "it's", "[a]")

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


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def listed(store: Storage, prefix: str) -> list[str]:
    return sorted([key async for key in store.keys(prefix)])


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage("memory://" if request.param == "memory" else (tmp_path / "files").as_uri())


def test_what_was_put_is_got_listed_and_deleted(store: Storage) -> None:
    async def story() -> None:
        await store.put("crawl_jobs/1/cat/a.jpg", b"first")
        await store.put("crawl_jobs/1/cat/a.jpg", b"second")
        await store.put("crawl_jobs/1/dog/b.jpg", b"")
        assert await store.get("crawl_jobs/1/cat/a.jpg") == b"second"
        assert await store.get("crawl_jobs/1/dog/b.jpg") == b""
        assert await listed(store, "crawl_jobs/1/") == ["crawl_jobs/1/cat/a.jpg", "crawl_jobs/1/dog/b.jpg"]
        await store.delete(["crawl_jobs/1/cat/a.jpg"])
        assert await listed(store, "crawl_jobs/1/") == ["crawl_jobs/1/dog/b.jpg"]

    run(story())


def test_a_list_holds_what_lies_below_the_prefix_and_nothing_of_a_neighbour(store: Storage) -> None:
    async def story() -> None:
        for key in ("crawl_jobs/1/cat/a.jpg", "crawl_jobs/10/cat/a.jpg", "crawl_jobs/1.jpg", "other/1/cat/a.jpg"):
            await store.put(key, b"x")
        assert await listed(store, "crawl_jobs/1/") == ["crawl_jobs/1/cat/a.jpg"]
        assert await listed(store, "crawl_jobs/2/") == []

    run(story())


def test_a_file_that_is_not_there_is_an_error_of_its_own_to_read_and_none_to_delete(store: Storage) -> None:
    async def story() -> None:
        with pytest.raises(FileMissingError, match=r"crawl_jobs/1/a\.jpg could not be read: there is no such file"):
            await store.get("crawl_jobs/1/a.jpg")
        await store.delete(["crawl_jobs/1/a.jpg"])
        await store.delete([])

    run(story())


def test_deleting_leaves_nothing_behind_when_some_of_the_files_are_gone_already(store: Storage) -> None:
    async def story() -> None:
        keys = [f"crawl_jobs/1/{number:03}.jpg" for number in range(60)]
        for key in keys[1::2]:
            await store.put(key, b"x")
        await store.delete(keys)
        assert await listed(store, "crawl_jobs/1/") == []

    run(story())


@settings(max_examples=50, deadline=None)
@given(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), body=st.binary(max_size=100))
def test_every_key_that_a_crawl_makes_comes_back_from_its_address(keys: list[str], body: bytes) -> None:
    async def story(store: Storage) -> None:
        for key in keys:
            await store.put(key, body)
            assert store.key(store.url(key)) == key
            assert await store.get(store.key(store.url(key))) == body
        assert await listed(store, "crawl_jobs/") == sorted(keys)
        await store.delete(keys)
        assert await listed(store, "crawl_jobs/") == []

    with tempfile.TemporaryDirectory() as folder:
        run(story(Storage(Path(folder).as_uri())))
    run(story(Storage("memory://")))


@pytest.mark.parametrize("name", FOLDERS)
def test_an_address_leads_to_the_file_whatever_its_folder_is_called(name: str, tmp_path: Path) -> None:
    store = Storage((tmp_path / name).as_uri())
    run(store.put("crawl_jobs/1/cat/a.jpg", b"picture"))
    address = store.url("crawl_jobs/1/cat/a.jpg")
    path = local.path_of(address)
    assert path == tmp_path / name / "crawl_jobs/1/cat/a.jpg"
    assert path.read_bytes() == b"picture"
    assert store.key(address) == "crawl_jobs/1/cat/a.jpg"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_slash_at_the_end_of_the_address_makes_no_difference(tmp_path: Path) -> None:
    assert Storage(f"{tmp_path.as_uri()}/").url("a/b.jpg") == Storage(tmp_path.as_uri()).url("a/b.jpg")
    assert Storage("memory://").url("a/b.jpg") == "memory:///a/b.jpg"
    assert Storage("file:///").url("a/b.jpg") == "file:///a/b.jpg"


def test_only_a_file_has_a_path() -> None:
    assert local.path_of("s3://bucket/a.jpg") is None
    assert local.path_of("memory:///a.jpg") is None


def test_an_address_of_another_storage_has_no_key(tmp_path: Path) -> None:
    store = Storage((tmp_path / "files").as_uri())
    for other in ((tmp_path / "files2").as_uri() + "/a.jpg", "memory:///a.jpg", (tmp_path / "files").as_uri()):
        with pytest.raises(PermanentError, match="is not in the configured storage"):
            store.key(other)


@pytest.mark.parametrize(
    "address",
    [
        *("", "/srv/pixcrawler", "srv", "ftp://host/folder", "s3://", "s3://[bucket/"),
        # Two slashes: the first folder would be taken for a host, and files would rest somewhere else.
        *("file://srv/pixcrawler", "file:srv", "file:"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(PermanentError, match="file:///srv/pixcrawler") as caught:
        Storage(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:hunter2@bucket/prefix",
        "https://hunter2@host/prefix",
        "az://container/prefix?sig=hunter2",
        "file:///srv/pixcrawler#hunter2",
    ],
)
def test_an_address_with_what_must_not_stand_in_rows_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(PermanentError, match="credentials belong in the environment") as caught:
        Storage(address)
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PermanentError, match=r"cannot be opened \(Not a directory") as caught:
        Storage((tmp_path / "file" / "folder").as_uri())
    assert "\n" not in str(caught.value)


def test_a_file_in_the_place_of_a_folder_is_told_in_one_line(tmp_path: Path) -> None:
    store = Storage(tmp_path.as_uri())
    (tmp_path / "crawl_jobs").touch()
    with pytest.raises(TransientError, match=r"crawl_jobs/1/a\.jpg could not be written: .*Not a directory") as caught:
        run(store.put("crawl_jobs/1/a.jpg", b"x"))
    assert "\n" not in str(caught.value)


def test_a_folder_that_went_away_is_made_again(tmp_path: Path) -> None:
    store = Storage((tmp_path / "files").as_uri())
    (tmp_path / "files").rmdir()
    run(store.put("a.jpg", b"x"))
    assert run(store.get("a.jpg")) == b"x"


def test_a_file_that_does_not_fit_is_transient_and_leaves_what_was_there(tmp_path: Path) -> None:
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
    assert left == ["one.jpg"], "half a file does not take up the room that is short"


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


def opened(store: Storage, key: str) -> bytes | None:
    with store.opened(key) as file:
        return None if file is None else file.read()


def test_a_file_is_opened_for_whoever_reads_it_itself_and_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    store = Storage((tmp_path / "store").as_uri())
    run(store.put("a/one.jpg", b"picture"))
    assert opened(store, "a/one.jpg") == b"picture"
    for key in (
        "../outside.jpg",
        "a/../../outside.jpg",
        "a//../../outside.jpg",
        "/etc/passwd",
        ".hidden",
        "a/./one.jpg",
    ):
        assert opened(store, key) is None, key
    assert opened(Storage("memory://"), "a/one.jpg") is None


@pytest.mark.parametrize("key", ["gone.jpg", "a", "a/one.jpg/two.jpg"])
def test_what_is_no_file_is_missing(tmp_path: Path, key: str) -> None:
    store = Storage(tmp_path.as_uri())
    run(store.put("a/one.jpg", b"picture"))
    with pytest.raises(FileMissingError):
        opened(store, key)


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert opened(Storage(tmp_path.as_uri()), "pipe.jpg") == b""


def test_what_is_raised_while_a_file_is_written_is_not_taken_for_trouble_of_the_storage(tmp_path: Path) -> None:
    for url in (tmp_path.as_uri(), "memory://"):
        storage = Storage(url)

        async def write(storage: Storage = storage) -> None:
            async with storage.writing("a/b.zip") as sink:
                await sink.write([b"half"])
                raise ValueError("a bug")

        with pytest.raises(ValueError, match="a bug"):
            asyncio.run(write())
        with pytest.raises(FileMissingError):
            asyncio.run(storage.get("a/b.zip"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_of_any_size_is_written_and_read_in_pieces(tmp_path: Path) -> None:
    pieces = [bytes([number]) * 1_000_003 for number in range(20)]
    small = [b"%d" % number for number in range(2_000)] + [b""]

    async def story(storage: Storage) -> None:
        async with storage.writing("a/b.zip") as sink:
            await sink.write(pieces[:1])
            await sink.write(pieces[1:])
            await sink.write(small)
        whole = b"".join(pieces + small)
        assert await storage.size("a/b.zip") == len(whole)
        assert b"".join([block async for block in storage.blocks("a/b.zip")]) == whole
        assert await storage.size("a/absent") is None

    for url in (tmp_path.as_uri(), "memory://"):
        asyncio.run(story(Storage(url)))


def test_many_files_are_read_at_once_and_each_that_cannot_be_says_why(tmp_path: Path) -> None:
    async def story(storage: Storage) -> None:
        await storage.put("a/1", b"one")
        await storage.put("a/2", b"much too large")
        read = await storage.get_all(["a/1", "a/absent", "a/2", "../etc/passwd"], len, max_bytes=5)
        assert read[0] == 3
        assert [type(one) for one in read[1:]] == [FileMissingError, RejectedError, FileMissingError]

    for url in (tmp_path.as_uri(), "memory://"):
        asyncio.run(story(Storage(url)))


def test_a_local_link_is_the_file_and_lasts_as_long(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    assert storage.link("a/b.zip", ttl=timedelta(days=30)) == (storage.url("a/b.zip"), timedelta(days=30))

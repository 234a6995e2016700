import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from counted import counting
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.domain.labels import slug
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.errors import OutageError, PermanentError
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

#: Names of folders that a URL has to quote.
FOLDERS = ("plain", "with space", "100%", "a%20b", "Grüße", "猫", "a#b", "a?b", "a+b", "a;b&c", "it's", "[a]")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def listed(store: Storage, prefix: str) -> list[str]:
    return sorted([key async for key in store.keys(prefix)])


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage("memory://" if request.param == "memory" else (tmp_path / "files").as_uri())


def test_files_are_put_read_listed_and_deleted(store: Storage) -> None:
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


def test_a_list_has_the_files_below_the_prefix_and_no_others(store: Storage) -> None:
    async def story() -> None:
        for key in ("crawl_jobs/1/cat/a.jpg", "crawl_jobs/10/cat/a.jpg", "crawl_jobs/1.jpg", "other/1/cat/a.jpg"):
            await store.put(key, b"x")
        assert await listed(store, "crawl_jobs/1/") == ["crawl_jobs/1/cat/a.jpg"]
        assert await listed(store, "crawl_jobs/2/") == []

    run(story())


def test_a_missing_file_is_an_error_to_read_and_not_to_delete(store: Storage) -> None:
    async def story() -> None:
        with pytest.raises(FileMissingError, match=r"crawl_jobs/1/a\.jpg could not be read: there is no such file"):
            await store.get("crawl_jobs/1/a.jpg")
        await store.delete(["crawl_jobs/1/a.jpg"])
        await store.delete([])

    run(story())


def test_deleting_removes_all_files_when_some_are_missing(store: Storage) -> None:
    async def story() -> None:
        keys = [f"crawl_jobs/1/{number:03}.jpg" for number in range(60)]
        for key in keys[1::2]:
            await store.put(key, b"x")
        await store.delete(keys)
        assert await listed(store, "crawl_jobs/1/") == []

    run(story())


@settings(max_examples=50, deadline=None)
@given(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), body=st.binary(max_size=100))
def test_every_key_of_a_crawl_is_read_back_from_its_url(keys: list[str], body: bytes) -> None:
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
def test_a_url_leads_to_the_file_for_every_name_of_a_folder(name: str, tmp_path: Path) -> None:
    store = Storage((tmp_path / name).as_uri())
    run(store.put("crawl_jobs/1/cat/a.jpg", b"image"))
    url = store.url("crawl_jobs/1/cat/a.jpg")
    path = local.path_of(url)
    assert path == tmp_path / name / "crawl_jobs/1/cat/a.jpg"
    assert path.read_bytes() == b"image"
    assert store.key(url) == "crawl_jobs/1/cat/a.jpg"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_slash_at_the_end_of_the_url_makes_no_difference(tmp_path: Path) -> None:
    assert Storage(f"{tmp_path.as_uri()}/").url("a/b.jpg") == Storage(tmp_path.as_uri()).url("a/b.jpg")
    assert Storage("memory://").url("a/b.jpg") == "memory:///a/b.jpg"
    assert Storage("file:///").url("a/b.jpg") == "file:///a/b.jpg"


def test_a_url_of_another_storage_has_no_key(tmp_path: Path) -> None:
    store = Storage((tmp_path / "files").as_uri())
    for other in ((tmp_path / "files2").as_uri() + "/a.jpg", "memory:///a.jpg", (tmp_path / "files").as_uri()):
        with pytest.raises(PermanentError, match="is not in the configured storage"):
            store.key(other)


def test_a_file_in_the_place_of_a_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    store = Storage(tmp_path.as_uri())
    (tmp_path / "crawl_jobs").touch()
    with pytest.raises(PermanentError, match=r"crawl_jobs/1/a\.jpg could not be written: .*Not a directory") as caught:
        run(store.put("crawl_jobs/1/a.jpg", b"x"))
    assert "\n" not in str(caught.value)


def test_a_folder_that_was_deleted_is_created_again(tmp_path: Path) -> None:
    store = Storage((tmp_path / "files").as_uri())
    (tmp_path / "files").rmdir()
    run(store.put("a.jpg", b"x"))
    assert run(store.get("a.jpg")) == b"x"


def test_a_folder_that_is_not_there_is_an_outage_and_no_file_is_missing(tmp_path: Path) -> None:
    """Its volume may not be mounted: no image may be taken for a deleted one then."""
    store = Storage((tmp_path / "files").as_uri())
    (tmp_path / "files").rmdir()
    reads: list[Callable[[], object]] = [
        lambda: run(store.get("a.jpg")),
        lambda: run(store.get_all(["a.jpg", "b.jpg"], len, max_bytes=5)),
        lambda: opened(store, "a.jpg"),
    ]
    for read in reads:
        with counting("storage_errors", 1), pytest.raises(OutageError, match="has no folder"):
            read()


@pytest.mark.parametrize("key", [f"{'a' * 300}.jpg", f"{'a/' * 3000}a.jpg", f"{'a ' * 300}.jpg"])
def test_a_key_that_no_file_can_have_is_not_waited_for(tmp_path: Path, key: str) -> None:
    store = Storage(tmp_path.as_uri())
    for operation in (store.put(key, b"x"), store.get(key)):
        with pytest.raises(FileMissingError, match="too long"):
            run(operation)


def opened(store: Storage, key: str) -> bytes | None:
    with store.opened(key) as file:
        return None if file is None else file.read()


def test_files_are_opened_for_other_processes_and_none_outside_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    store = Storage((tmp_path / "store").as_uri())
    run(store.put("a/one.jpg", b"image"))
    assert opened(store, "a/one.jpg") == b"image"
    for key in (
        "../outside.jpg",
        "a/../../outside.jpg",
        "a//../../outside.jpg",
        "/etc/passwd",
        ".hidden",
        "a/./one.jpg",
    ):
        with pytest.raises(FileMissingError):
            opened(store, key)
    assert opened(Storage("memory://"), "a/one.jpg") is None


@pytest.mark.parametrize("key", ["gone.jpg", "a", "a/one.jpg/two.jpg"])
def test_what_is_not_a_file_is_missing(tmp_path: Path, key: str) -> None:
    store = Storage(tmp_path.as_uri())
    run(store.put("a/one.jpg", b"image"))
    with pytest.raises(FileMissingError):
        opened(store, key)


def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(FileMissingError):
        opened(Storage(tmp_path.as_uri()), "pipe.jpg")


def test_an_error_of_the_caller_while_a_file_is_written_is_not_translated(tmp_path: Path) -> None:
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


def test_many_files_are_read_at_once_and_each_has_its_own_result(tmp_path: Path) -> None:
    async def story(storage: Storage) -> None:
        await storage.put("a/1", b"one")
        await storage.put("a/2", b"much too large")
        read = await storage.get_all(["a/1", "a/absent", "a/2", "../etc/passwd"], len, max_bytes=5)
        assert read[0] == 3
        assert [type(one) for one in read[1:]] == [FileMissingError, RejectedError, FileMissingError]

    for url in (tmp_path.as_uri(), "memory://"):
        asyncio.run(story(Storage(url)))


def test_the_link_of_a_local_file_is_its_url_with_the_requested_ttl(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    assert storage.link("a/b.zip", ttl=timedelta(days=30)) == (storage.url("a/b.zip"), timedelta(days=30))

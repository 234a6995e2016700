"""Links, special files and hostile keys in a storage: nothing outside of its folder is read, written or deleted."""

import asyncio
import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.errors import OutageError, PermanentError, WorkerError
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.failures import FileMissingError

T = TypeVar("T")

IMPOSSIBLE = (
    *("", "/", ".", "..", "a/", "/abs", "//abs", "a//b", "a/./b", "a/../b", "../x", "../../x", "./x", "a/.."),
    *("a\\b", "..\\x", "C:\\x", "a\0b", "a\nb", "a\rb", "a\tb", "a\x7fb", "a\x9bb", "a\x1b[2Jb", "a\ud800b"),
    *("k" * 256, f"a/{'k' * 256}/b", "é" * 128, "a/" * 512 + "a", "k/" * 2_499 + "kk", "k" * 5_000),
)
#: What another program may have stored: none of it leads anywhere else.
POSSIBLE = ("a b.jpg", "ü/é.jpg", ".hidden", "...", "a..b", "a%2Fb", "a%2e%2e", "~", "a*b?c", "#1", "a#1", "k" * 255)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def writing(storage: Storage, key: str, body: bytes) -> None:
    async with storage.writing(key) as sink:
        await sink.write([body])


async def blocks(storage: Storage, key: str) -> bytes:
    return b"".join([block async for block in storage.blocks(key)])


def opened(storage: Storage, key: str) -> bytes | None:
    with storage.opened(key) as file:
        return None if file is None else file.read()


def found_in(storage: Storage, key: str) -> list[bytes]:
    return [one for one in run(storage.get_all([key] * 3, bytes, max_bytes=99)) if isinstance(one, bytes)]


async def listed(storage: Storage, prefix: str = "") -> list[str]:
    return sorted([key async for key in storage.keys(prefix, unfinished=True)])


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder next to the storage, which is the same after the test."""
    folder = tmp_path / "outside"
    (folder / "below").mkdir(parents=True)
    for name in ("secret.jpg", "below/secret.jpg"):
        (folder / name).write_bytes(b"secret")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    yield folder
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    assert {path.read_bytes() for path in folder.rglob("*.jpg")} == {b"secret"}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage((tmp_path / "storage").as_uri())


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_keys_that_lead_out_of_the_storage_are_rejected_by_every_operation(
    kind: str, tmp_path: Path, outside: Path
) -> None:
    (tmp_path / "x").write_bytes(b"secret")
    storage = Storage("memory://" if kind == "memory" else (tmp_path / "storage").as_uri())
    run(storage.put("kept", b"kept"))
    for key in IMPOSSIBLE:
        operations: list[Callable[[str], object]] = [
            lambda key: run(storage.put(key, b"x")),
            lambda key: run(writing(storage, key, b"x")),
            lambda key: run(storage.get(key)),
            lambda key: run(blocks(storage, key)),
            lambda key: opened(storage, key),
            lambda key: run(storage.delete(["kept", key])),
        ]
        for operation in operations:
            began = time.monotonic()
            with pytest.raises(PermanentError) as caught:
                operation(key)
            assert time.monotonic() - began < 5
            message = str(caught.value)
            assert len(message) < 300
            assert message.isprintable()
        assert run(storage.size(key)) is None
        both = run(storage.get_all(["kept", key], len, max_bytes=10))
        assert both[0] == 4
        assert isinstance(both[1], FileMissingError)
        if key not in {"", "a/"}:  # a prefix of all keys, and of those below `a`
            with pytest.raises(PermanentError):
                run(listed(storage, f"{key}/"))
    assert run(listed(storage)) == ["kept"]
    assert (tmp_path / "x").read_bytes() == b"secret"


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_any_other_key_of_another_program_can_be_read_and_deleted(kind: str, tmp_path: Path) -> None:
    storage = Storage("memory://" if kind == "memory" else (tmp_path / "storage").as_uri())
    for key in POSSIBLE:
        run(storage.put(key, key.encode()))
        run(writing(storage, f"below/{key}", key.encode()))
    for key in POSSIBLE:
        for one in (key, f"below/{key}"):
            assert run(storage.get(one)) == run(blocks(storage, one)) == key.encode(), key
            assert run(storage.size(one)) == len(key.encode())
    assert run(listed(storage, "below/")) == sorted(f"below/{key}" for key in POSSIBLE)
    run(storage.delete([*POSSIBLE, *(f"below/{key}" for key in POSSIBLE)]))
    assert run(listed(storage)) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "/", "\\", "\0", "é", "..."]), max_size=8).map("/".join))
def test_no_key_is_stored_outside_of_the_folder(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    parent = tmp_path_factory.mktemp("keys")
    storage = Storage((parent / "storage").as_uri())
    with contextlib.suppress(WorkerError):
        run(storage.put(key, b"x"))
    with contextlib.suppress(WorkerError):
        run(writing(storage, key, b"x"))
    assert [path.name for path in parent.iterdir()] == ["storage"]
    # What was stored is listed under its key.
    stored = [str(path.relative_to(parent / "storage")) for path in parent.rglob("*") if path.is_file()]
    assert stored == run(listed(storage)) == ([key] if stored else [])


def test_a_link_to_a_file_is_not_read_and_its_target_stays(tmp_path: Path, storage: Storage, outside: Path) -> None:
    run(storage.put("a/real.jpg", b"real"))
    folder = tmp_path / "storage/a"
    targets: tuple[Path | str, ...] = (
        outside / "secret.jpg",
        "../../outside/secret.jpg",
        "real.jpg",
        "missing",
        "/dev/zero",
        "/etc/passwd",
    )
    for number, target in enumerate(targets):
        (folder / f"{number}.jpg").symlink_to(target)
    keys = [f"a/{number}.jpg" for number in range(len(targets))]
    for key in keys:
        with pytest.raises(FileMissingError):
            run(storage.get(key))
        with pytest.raises(FileMissingError):
            run(blocks(storage, key))
        with pytest.raises(FileMissingError):
            opened(storage, key)
        assert run(storage.size(key)) is None
    found = run(storage.get_all(["a/real.jpg", *keys], len, max_bytes=1000))
    assert found[0] == 4
    assert all(isinstance(one, FileMissingError) for one in found[1:])
    assert run(listed(storage)) == ["a/real.jpg"]
    # A link is replaced or deleted itself.
    run(storage.put(keys[0], b"mine"))
    run(storage.delete(keys[1:]))
    assert run(storage.get(keys[0])) == b"mine"
    assert sorted(path.name for path in folder.iterdir()) == ["0.jpg", "real.jpg"]


@pytest.mark.parametrize("depth", ["crawl_jobs", "crawl_jobs/1", "crawl_jobs/1/cat"])
def test_nothing_is_done_below_a_linked_folder(depth: str, tmp_path: Path, storage: Storage, outside: Path) -> None:
    link = tmp_path / "storage" / depth
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    key = f"{depth}/secret.jpg"
    reads: list[Callable[[], object]] = [
        lambda: run(storage.get(key)),
        lambda: run(blocks(storage, key)),
        lambda: opened(storage, key),
    ]
    for read in reads:
        with pytest.raises(FileMissingError):
            read()
    assert run(storage.size(key)) is None
    for one in (key, f"{depth}/below/new.jpg", f"{depth}/new/new.jpg"):
        for write in (storage.put(one, b"x"), writing(storage, one, b"x")):
            with pytest.raises(PermanentError, match="Not a directory"):
                run(write)
    run(storage.delete([key, f"{depth}/below/secret.jpg"]))
    for prefix in ("", "crawl_jobs/", "crawl_jobs/1/", f"{depth}/", f"{depth}/below/"):
        assert run(listed(storage, prefix)) == []


def test_the_folder_of_the_storage_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "storage").symlink_to(tmp_path / "volume")
    storage = Storage((tmp_path / "storage").as_uri())
    run(storage.put("a/b.jpg", b"x"))
    run(writing(storage, "c.zip", b"y"))
    assert run(storage.get("a/b.jpg")) == opened(storage, "a/b.jpg") == b"x"
    assert run(listed(storage)) == ["a/b.jpg", "c.zip"]
    assert (tmp_path / "volume/a/b.jpg").read_bytes() == b"x"
    run(storage.delete(["a/b.jpg"]))
    assert run(listed(storage)) == ["c.zip"]


def test_a_hard_link_is_a_file_and_writing_replaces_one_name_only(
    tmp_path: Path, storage: Storage, outside: Path
) -> None:
    # Backups make them: rsync --link-dest, cp -l.
    run(storage.put("a/b.jpg", b"x"))
    os.link(outside / "secret.jpg", tmp_path / "storage/a/c.jpg")
    assert run(storage.get("a/c.jpg")) == b"secret"
    run(storage.put("a/c.jpg", b"mine"))
    assert run(storage.get("a/c.jpg")) == b"mine"
    run(storage.delete(["a/c.jpg"]))


@pytest.mark.timeout(20)
def test_pipes_sockets_devices_and_folders_are_no_files_and_do_not_block(tmp_path: Path, storage: Storage) -> None:
    run(storage.put("real.jpg", b"real"))
    folder = tmp_path / "storage"
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    special = ["pipe", "folder", "socket"]
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket has few characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        os.chdir(here)
        with contextlib.suppress(OSError):
            os.mknod(folder / "device", 0o20666, os.makedev(1, 5))  # an endless file of zeros
            special.append("device")
        for key in special:
            with pytest.raises(FileMissingError):
                run(storage.get(key))
            with pytest.raises(FileMissingError):
                run(blocks(storage, key))
            with pytest.raises(FileMissingError):
                opened(storage, key)
            assert run(storage.size(key)) is None
        found = run(storage.get_all([*special, "real.jpg"], len, max_bytes=100))
        assert [isinstance(one, FileMissingError) for one in found[:-1]] == [True] * len(special)
        assert found[-1] == 4
        assert run(listed(storage)) == ["real.jpg"]


def test_a_folder_that_is_exchanged_for_a_link_at_any_moment_leads_nowhere(
    tmp_path: Path, storage: Storage, outside: Path
) -> None:
    """An attacker who can write into the storage exchanges a folder for a link between any check and use."""
    run(storage.put("a/b/secret.jpg", b"mine"))
    folder, aside, link = (tmp_path / "storage" / name for name in ("a/b", "a/aside", "a/link"))
    link.symlink_to(outside)
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            folder.rename(aside)
            try:
                link.rename(folder)
            except OSError:  # a writer has just made a folder
                shutil.rmtree(folder, ignore_errors=True)
            else:
                swaps += 1
                folder.rename(link)
            while aside.exists():
                try:
                    aside.rename(folder)
                except OSError:
                    shutil.rmtree(folder, ignore_errors=True)

    opened_before = len(list(Path("/dev/fd").iterdir()))
    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[bytes] = set()
    until = time.monotonic() + 1.5
    try:
        while time.monotonic() < until and thread.is_alive():
            works: list[Callable[[], object]] = [
                lambda: seen.add(run(storage.get("a/b/secret.jpg"))),
                lambda: seen.add(opened(storage, "a/b/secret.jpg") or b""),
                lambda: seen.update(found_in(storage, "a/b/secret.jpg")),
                lambda: run(storage.put("a/b/new.jpg", b"x")),
                lambda: run(storage.delete(["a/b/below/secret.jpg", "a/b/new.jpg"])),
            ]
            for work in works:
                with contextlib.suppress(PermanentError, OutageError):
                    work()
            assert not any("below" in key for key in run(listed(storage)))
    finally:
        stop.set()
        thread.join(10)
    assert swaps > 50
    assert seen == {b"mine"}
    assert len(list(Path("/dev/fd").iterdir())) == opened_before

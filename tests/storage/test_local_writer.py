"""Small files are written in few threads, each for itself."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.local import UNFINISHED, LocalFolder
from pixcrawler_worker.storage.local_writer import LocalWriter


class WatchedFolder(LocalFolder):
    """A folder that counts how many files each call has, once its gate is open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.calls: list[int] = []
        self.gate = threading.Event()

    def write_all(self, files: Sequence[tuple[Sequence[str], bytes]]) -> list[Exception | None]:
        assert self.gate.wait(60)
        self.calls.append(len(files))
        return super().write_all(files)


class SlowFolder(LocalFolder):
    """A folder whose first write lasts until another thread writes, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.first, self.second = threading.Event(), threading.Event()

    def write_all(self, files: Sequence[tuple[Sequence[str], bytes]]) -> list[Exception | None]:
        (self.second if self.first.is_set() else self.first).set()
        assert self.second.wait(60)
        return super().write_all(files)


class BrokenFolder(LocalFolder):
    """A folder with a bug."""

    def write_all(self, files: Sequence[tuple[Sequence[str], bytes]]) -> list[Exception | None]:
        raise RuntimeError(f"a bug at {len(files)} files")


def test_many_files_are_written_completely_in_one_thread(tmp_path: Path) -> None:
    folder = WatchedFolder(tmp_path)
    writer = LocalWriter(folder)
    files = {(f"label-{number % 3}", f"{number}.jpg"): bytes([number % 256]) * number for number in range(200)}

    async def write() -> None:
        tasks = [asyncio.create_task(writer.write(parts, body)) for parts, body in files.items()]
        await asyncio.sleep(0)
        folder.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(write())
    assert len(folder.calls) < len(files) / 4, "each of them woke the event loop"
    # The next event loop has threads of its own.
    asyncio.run(write())
    assert sum(folder.calls) == 2 * len(files)
    assert {(path.parent.name, path.name): path.read_bytes() for path in tmp_path.rglob("*.jpg")} == files
    assert not list(tmp_path.rglob(f"*{UNFINISHED}*"))


def test_a_slow_storage_is_written_to_by_several_threads(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    writer = LocalWriter(folder)

    async def write() -> None:
        first = asyncio.create_task(writer.write(["a.jpg"], b"a"))
        assert await asyncio.to_thread(folder.first.wait, 60)
        second = asyncio.create_task(writer.write(["b.jpg"], b"b"))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, second, writer.write(["c.jpg"], b"c"))

    asyncio.run(write())
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"a", b"b", b"c"]


def test_a_file_that_cannot_be_written_is_the_only_one_that_fails(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_bytes(b"")
    (tmp_path / "outside").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "data" / "file").write_bytes(b"")
    storage = Storage((tmp_path / "data").as_uri())
    keys = [f"{folder}/{number}.jpg" for number in range(10) for folder in ("good", "link", "file", "more")]

    async def write() -> list[object]:
        return await asyncio.gather(*(storage.put(key, key.encode()) for key in keys), return_exceptions=True)

    for key, error in zip(keys, asyncio.run(write()), strict=True):
        if key.startswith(("good", "more")):
            assert error is None
            assert (tmp_path / "data" / key).read_bytes() == key.encode()
        else:
            assert isinstance(error, PermanentError)
    assert not list((tmp_path / "outside").iterdir())


def test_a_bug_is_raised_at_each_file_and_the_next_ones_are_tried(tmp_path: Path) -> None:
    writer = LocalWriter(BrokenFolder(tmp_path))

    async def write() -> None:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="a bug"):
                await asyncio.wait_for(writer.write(["a.jpg"], b"a"), 60)

    asyncio.run(write())


def test_a_write_that_is_not_awaited_any_more_does_not_stop_the_others(tmp_path: Path) -> None:
    writer = LocalWriter(LocalFolder(tmp_path))

    async def write() -> None:
        tasks = [asyncio.create_task(writer.write([f"{number}.jpg"], b"x")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await writer.write(["last.jpg"], b"x")

    asyncio.run(write())
    assert {f"{number}.jpg" for number in range(1, 20, 2)} | {"last.jpg"} <= {path.name for path in tmp_path.iterdir()}
